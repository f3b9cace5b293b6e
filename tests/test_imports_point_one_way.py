"""Imports point one way: a room sees only the rooms below it.

A new room gets its line in `ARROWS`; until then every import of it fails here.
"""

from __future__ import annotations

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Room -> rooms that it stands on. What those stand on is seen too.
ARROWS = {
  "ops": [],
  "layers": ["ops"],
  "entropy": ["layers"],
  "codecs": ["entropy"],
  "bitstream": [],
  "data": ["ops"],
  "options": [],
  "executor": [],
  "cluster": ["executor", "options"],
  "runs": ["options", "data"],
  "results": ["options"],
  "model_folders": ["bitstream"],
  "probe": ["bitstream", "model_folders"],
  "model_inputs": ["bitstream", "data", "model_folders"],
  "coding": ["codecs", "model_inputs"],
  "rate_control": ["coding"],
  "model_files": ["coding"],
  "training": ["model_files", "runs"],
  "evaluation": ["khuvcm_tf", "results", "executor"],
  "saved_model": ["model_files"],
  "conversion": ["model_files", "options"],
  "batch_options": ["options", "bitstream", "model_folders"],
  "batch_outputs": ["executor", "data", "model_folders"],
  "batch_coding": ["model_files", "saved_model", "rate_control", "batch_options", "batch_outputs"],
  "program": [],
  "models": [],
  "khuvcm_tf": ["model_files"],  # the package's own __init__: the names that users import
  "detection": ["khuvcm_tf", "training", "evaluation", "saved_model", "conversion"],
  "bin": ["detection", "batch_coding", "cluster", "probe", "program"],
}
BELOW_ALL = {"errors", "atomic_files", "forks", "paths", "khuvcm_tf.__version__"}


def _visible(room: str) -> set[str]:
  """The room itself and all below it."""
  return {room}.union(*(_visible(below) for below in ARROWS[room]))


def _imported_names(source: str, package: str) -> list[tuple[int, str]]:
  """Lines and absolute dotted names of all imports, those within functions too."""
  names = []
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names += [(node.lineno, alias.name) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      parents = package.split(".")[: len(package.split(".")) + 1 - node.level]
      base = ".".join(([*parents] if node.level else []) + [node.module] * bool(node.module))
      names += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
  return names


def _room_of(name: str) -> str | None:
  """The room of a dotted name; None for other people's packages."""
  first, _, rest = name.partition(".")
  if first in ("detection", "bin", "tests"):
    return first
  if first != "khuvcm_tf":
    return None
  if rest == "__version__":
    return name
  second = rest.partition(".")[0]
  is_room = (ROOT / first / second).is_dir() or (ROOT / first / f"{second}.py").is_file()
  return second if second and (is_room or second in ARROWS) else first


def _room_of_file(path: pathlib.PurePath) -> str:
  parts = path.with_suffix("").parts
  return parts[1] if parts[0] == "khuvcm_tf" and parts[1] != "__init__" else parts[0]


def wrong_imports(path: pathlib.PurePath, source: str) -> list[str]:
  """Imports that no arrow allows.

  Args:
    path: of the file, relative to the root of the repository.
    source: its text.

  Returns:
    One line for each wrong import, empty where all is well.
  """
  module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
  package = module if path.name == "__init__.py" else module.rpartition(".")[0]
  room = _room_of_file(path)
  if room in BELOW_ALL:
    allowed = BELOW_ALL
  elif room in ARROWS:
    allowed = _visible(room) | BELOW_ALL
  else:
    return [f"{path}: the room {room} has no line in ARROWS"]
  return [
    f"{path}:{line}: {room} imports {name}"
    for line, name in _imported_names(source, package)
    if _room_of(name) is not None and _room_of(name) not in allowed
  ]


def _sources() -> list[pathlib.Path]:
  return sorted(p for top in ("khuvcm_tf", "detection", "bin") for p in (ROOT / top).rglob("*.py"))


def test_every_import_follows_an_arrow():
  wrong = [w for p in _sources() for w in wrong_imports(p.relative_to(ROOT), p.read_text("utf-8"))]
  assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
  "path, source",
  [
    ("khuvcm_tf/ops/padding.py", "from khuvcm_tf.layers import signal"),
    ("khuvcm_tf/ops/padding.py", "from ..layers import signal"),
    ("khuvcm_tf/ops/__init__.py", "from ..layers.signal import conv"),
    ("khuvcm_tf/layers/signal.py", "def f():\n  import khuvcm_tf.codecs.bmshj2018"),
    ("khuvcm_tf/bitstream.py", "from khuvcm_tf import codecs"),
    ("khuvcm_tf/bitstream.py", "from . import codecs"),
    ("khuvcm_tf/codecs/bmshj2018.py", "from khuvcm_tf import load"),
    ("khuvcm_tf/data/frames.py", "import khuvcm_tf.coding"),
    ("khuvcm_tf/training/loss.py", "from khuvcm_tf import program"),
    ("khuvcm_tf/evaluation/evaluate.py", "from khuvcm_tf import cluster"),
    ("khuvcm_tf/runs/loop.py", "from khuvcm_tf.codecs import Codec"),
    ("khuvcm_tf/runs/loop.py", "from khuvcm_tf.training import losses"),
    ("khuvcm_tf/results/rows.py", "from khuvcm_tf import coding"),
    ("khuvcm_tf/results/report.py", "from khuvcm_tf.evaluation import metrics"),
    ("khuvcm_tf/evaluation/report.py", "import detection"),
    ("khuvcm_tf/errors.py", "from khuvcm_tf import ops"),
    ("khuvcm_tf/data/pairs.py", "from bin import train"),
    ("detection/fpn.py", "from khuvcm_tf import program"),
    ("detection/fpn.py", "from tests import conftest"),
    ("bin/train.py", "import tests.conftest"),
    ("khuvcm_tf/cellar/wine.py", "import os"),
  ],
)
def test_the_check_catches_a_wrong_import(path, source):
  assert wrong_imports(pathlib.PurePath(path), source)


@pytest.mark.parametrize(
  "path, source",
  [
    ("khuvcm_tf/codecs/bmshj2018.py", "from khuvcm_tf.ops import padding\nimport tensorflow as tf"),
    ("khuvcm_tf/codecs/__init__.py", "from . import bmshj2018\nfrom .codec import Codec"),
    ("khuvcm_tf/coding.py", "from khuvcm_tf import __version__, bitstream, codecs, errors"),
    ("khuvcm_tf/__init__.py", "from khuvcm_tf.coding import load"),
    (
      "khuvcm_tf/training/losses.py",
      "from khuvcm_tf.runs import loop\nimport khuvcm_tf.data",
    ),
    ("detection/fpn.py", "import khuvcm_tf\nfrom detection import backbones"),
    ("bin/train.py", "from khuvcm_tf import load, program, training\nimport detection.coco"),
  ],
)
def test_the_check_lets_a_right_import_pass(path, source):
  assert wrong_imports(pathlib.PurePath(path), source) == []


# Of detection/: what a detector is, without data, files, training or programs.
_NETWORK = """config layers resnet trunks backbones fpn anchors boxes proposals roi_align box_head
  mask_head detector postprocessing matching losses""".split()


def test_the_network_of_a_detector_knows_no_data_no_files_and_no_training():
  allowed = {f"detection.{name}" for name in _NETWORK}
  wrong = []
  for name in _NETWORK:
    source = (ROOT / "detection" / f"{name}.py").read_text("utf-8")
    for line, imported in _imported_names(source, "detection"):
      of_detection = imported.startswith("detection.")
      if of_detection and ".".join(imported.split(".")[:2]) not in allowed:
        wrong.append(f"detection/{name}.py:{line}: {imported}")
  assert wrong == []


def test_every_folder_of_code_is_a_package():
  folders = {p.parent for p in _sources() if "bin" not in p.relative_to(ROOT).parts}
  assert [f for f in folders if not (f / "__init__.py").is_file()] == []


def test_no_file_or_folder_is_a_box_for_odds_and_ends():
  odds = re.compile(r"(^|_)(utils?|common|helpers?|misc)(_|$)")
  tops = ("khuvcm_tf", "detection", "bin", "configs", "models", "docs", "tests")
  paths = [p for top in tops for p in [ROOT / top, *(ROOT / top).rglob("*")]]
  assert [p for p in paths if odds.search(p.stem)] == []
