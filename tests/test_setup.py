"""What users get: the package built and installed, and the commands of a checkout."""

from __future__ import annotations

import ast
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile
from typing import Callable

import pytest

import khuvcm_tf

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Distributions whose modules have another name.
MODULES = {
  "absl-py": "absl",
  "opencv-python-headless": "cv2",
  "pillow": "PIL",
  "scikit-image": "skimage",
}

# Prints where the packages and a shipped model's files are found.
FIND = """
import importlib.resources, khuvcm_tf, khuvcm_tf.models
files = importlib.resources.files("khuvcm_tf.models")
print(khuvcm_tf.__file__)
print(sorted(p.name for p in (files / "tiny").iterdir()))
print((files / "tiny" / "model.json").read_text())
"""


def _requirements() -> dict[str, list[str]]:
  """The lists of requirements in setup.py by name, without running it."""
  tree = ast.parse((ROOT / "setup.py").read_text("utf-8"))
  lists = [node for node in tree.body if isinstance(node, ast.Assign)]
  return {node.targets[0].id: ast.literal_eval(node.value) for node in lists}


def _modules(requirements: list[str]) -> set[str]:
  names = [re.match(r"[\w.-]+", requirement).group() for requirement in requirements]
  return {MODULES.get(name, name.replace("-", "_")) for name in names}


def _third_party(walk: Callable, *folders: str) -> set[str]:
  """The top-level modules from elsewhere that Python files in `folders` import.

  Args:
    walk: which statements of a parsed file to look at.
    *folders: relative to the root of the repository.
  """
  found = set()
  for path in (p for folder in folders for p in (ROOT / folder).rglob("*.py")):
    for node in walk(ast.parse(path.read_text("utf-8"))):
      if isinstance(node, ast.Import):
        found |= {alias.name.partition(".")[0] for alias in node.names}
      elif isinstance(node, ast.ImportFrom) and node.level == 0:
        found.add(node.module.partition(".")[0])
  builtin = set(getattr(sys, "stdlib_module_names", ())) | {"__future__"}
  return found - builtin - {"khuvcm_tf", "detection", "tests"}


@pytest.mark.skipif(sys.version_info < (3, 10), reason="Python 3.9 does not list its own modules")
def test_packages_load_with_only_what_setup_requires():
  required = _modules(_requirements()["REQUIRED"])
  assert _third_party(ast.iter_child_nodes, "khuvcm_tf", "detection") - required == set()


@pytest.mark.skipif(sys.version_info < (3, 10), reason="Python 3.9 does not list its own modules")
def test_nothing_imports_what_no_checkout_installs():
  lists = _requirements()
  installed = lists["REQUIRED"] + lists["DEV"] + lists["CLUSTER"]
  required = _modules(installed) | {"setuptools"}
  assert _third_party(ast.walk, "khuvcm_tf", "detection", "bin", "tests") - required == set()


def test_setup_has_the_version_of_the_package():
  text = (ROOT / "setup.py").read_text("utf-8")
  assert re.search(r'version="(.+)"', text).group(1) == khuvcm_tf.__version__


def test_no_requirement_is_without_bound():
  for name, requirements in _requirements().items():
    assert [r for r in requirements if not re.search("[<>=]", r)] == [], name


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
  """A copy of what is packaged, with one shipped model in a folder of its own."""
  copy = tmp_path_factory.mktemp("checkout")
  for name in ("khuvcm_tf", "detection"):
    shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
  for name in ("setup.py", "pyproject.toml", "models/__init__.py"):
    (copy / name).parent.mkdir(exist_ok=True)
    shutil.copy(ROOT / name, copy / name)
  (copy / "models/tiny").mkdir()
  (copy / "models/tiny/model.json").write_text('{"codec": "tiny"}')
  (copy / "models/tiny/weights.npz").write_bytes(b"")
  (copy / "models/tiny/fingerprint").write_text("00")
  return copy


def _build(checkout: pathlib.Path, hook: str, folder: pathlib.Path) -> pathlib.Path:
  """Builds a wheel by a hook of setuptools, unpacks it as pip does; returns its folder."""
  command = f"from setuptools import build_meta; build_meta.{hook}({str(folder)!r})"
  subprocess.run([sys.executable, "-c", command], cwd=checkout, check=True, capture_output=True)
  (wheel,) = folder.glob("*.whl")
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(folder / "site")
  return folder / "site"


def _find_from_elsewhere(site: pathlib.Path, folder: pathlib.Path) -> list[str]:
  # -S keeps out what is installed for this test's own Python, such as the checkout under test;
  # addsitedir reads the .pth files through which an editable install is found.
  command = f"import site; site.addsitedir({str(site)!r})\n{FIND}"
  environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  return subprocess.check_output(
    [sys.executable, "-S", "-c", command], cwd=folder, env=environment, text=True
  ).splitlines()


@pytest.mark.parametrize("hook", ["build_wheel", "build_editable"])
def test_an_installed_package_finds_shipped_models_from_any_folder(checkout, hook, tmp_path):
  site = _build(checkout, hook, tmp_path)
  place, names, text = _find_from_elsewhere(site, tmp_path)
  source = site if hook == "build_wheel" else checkout
  assert pathlib.Path(place) == source / "khuvcm_tf" / "__init__.py"
  assert set(ast.literal_eval(names)) == {"fingerprint", "model.json", "weights.npz"}
  assert text == '{"codec": "tiny"}'


def test_what_tensorboard_and_data_set_tests_import_is_installed():
  command = "import tensorflow_datasets, tensorflow_datasets.testing, tensorboard.main"
  subprocess.run([sys.executable, "-W", "ignore", "-c", command], check=True, capture_output=True)


# A Python that is a shell script: it says yes to the check, makes a folder in place of a virtual
# environment, and installs with the exit code in the file `pip_code`.
FAKE_PYTHON = """#!/bin/sh
case "$*" in
  *"-m venv"*) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  *"-m pip"*) echo x >> installs; exit $(cat pip_code) ;;
  *version.split*) echo fake ;;
esac
"""


@pytest.fixture
def make(tmp_path):
  """Runs the Makefile in an empty folder, where `python` is all the Python there is."""
  (tmp_path / "path").mkdir()
  for tool in ("sh", "cat", "cp", "rm", "mkdir", "touch", "echo", "find"):
    (tmp_path / "path" / tool).symlink_to(shutil.which(tool))
  shutil.copy(ROOT / "Makefile", tmp_path)
  (tmp_path / "setup.py").touch()
  (tmp_path / "pip_code").write_text("0")

  def make_(*arguments: str) -> subprocess.CompletedProcess:
    command = [shutil.which("make"), *arguments]
    environment = {"PATH": str(tmp_path / "path")}
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

  return make_


def _add_python(folder: pathlib.Path, name: str, text: str = FAKE_PYTHON) -> None:
  path = folder / "path" / name
  path.write_text(text)
  path.chmod(0o755)


def test_make_alone_lists_the_targets(make):
  out = make().stdout
  assert re.findall(r"^make ([\w-]+)", out, re.M) == [
    "venv",
    "demo",
    "experiments",
    "feature-curves",
    "test",
    "lint",
    "clean",
  ]


def test_make_without_a_fitting_python_says_what_to_do(make, tmp_path):
  _add_python(tmp_path, "python3.11", "#!/bin/sh\nexit 127\n")  # a launcher of an absent version
  end = make("venv")
  assert end.returncode == 2
  first = end.stderr.splitlines()[0]
  assert re.fullmatch(r"found no Python 3\.9, 3\.10 or 3\.11 .*: make PYTHON=\S+ venv", first)


def test_make_takes_the_first_python_that_runs(make, tmp_path):
  _add_python(tmp_path, "python3.11", "#!/bin/sh\nexit 127\n")
  _add_python(tmp_path, "python3.9")
  assert "with python3.9, a minute or two" in make("venv").stdout


def test_make_takes_the_python_that_is_named(make, tmp_path):
  _add_python(tmp_path, "python3.11")
  _add_python(tmp_path, "snake")
  assert "with snake, a minute or two" in make("venv", "PYTHON=snake").stdout


def test_make_installs_again_only_when_setup_changes(make, tmp_path):
  _add_python(tmp_path, "python3")
  for expected in ("x\n", "x\n"):
    assert make("venv").returncode == 0
    assert (tmp_path / "installs").read_text() == expected
  later = (tmp_path / ".venv/installed").stat().st_mtime + 10
  os.utime(tmp_path / "setup.py", (later, later))
  assert make("venv").returncode == 0
  assert (tmp_path / "installs").read_text() == "x\nx\n"


def test_make_installs_again_after_a_failed_installation(make, tmp_path):
  _add_python(tmp_path, "python3")
  assert make("venv").returncode == 0
  later = (tmp_path / ".venv/installed").stat().st_mtime + 10
  os.utime(tmp_path / "setup.py", (later, later))
  (tmp_path / "pip_code").write_text("1")
  assert make("venv").returncode == 2
  assert make("venv").returncode == 2
  assert not (tmp_path / ".venv/installed").exists()


def test_ci_runs_lint_and_tests_and_names_the_reference_beside_the_checkout(tmp_path):
  (tmp_path / "main/.ci").mkdir(parents=True)
  (tmp_path / "path").mkdir()
  shutil.copy(ROOT / ".ci/run", tmp_path / "main/.ci/run")
  _add_python(tmp_path, "make", '#!/bin/sh\necho "$PWD $* $KHUVCM_REFERENCE"\n')
  environment = {"PATH": f"{tmp_path / 'path'}:{os.environ['PATH']}"}
  run = [str(tmp_path / "main/.ci/run")]
  lines = [subprocess.check_output(run, env=environment, cwd="/", text=True)]
  (tmp_path / "shared").mkdir()
  lines += [subprocess.check_output(run, env=environment, cwd="/", text=True)]
  assert lines == [
    f"{tmp_path}/main lint test \n",
    f"{tmp_path}/main lint test {tmp_path}/shared\n",
  ]
