"""bin/compress.py, bin/decompress.py and bin/export.py as a person starts them.

A process takes seconds to start: tests that need none are in tests/test_batch_coding.py.
"""

from __future__ import annotations

import ast
import fcntl
import os
import pathlib
import pty
import re
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest
import skimage.data
from PIL import Image

from khuvcm_tf import model_files
from khuvcm_tf.data import image_files

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
  """A folder with images in photos/, shipped models in shipped/."""
  folder = tmp_path_factory.mktemp("here")
  photo = skimage.data.astronaut()
  (folder / "shipped").mkdir()
  (folder / "shipped" / "tiny").symlink_to(GOLDEN / "mbt2018_mean" / "model")
  (folder / "photos" / "sub").mkdir(parents=True)
  image_files.write_image(str(folder / "photos" / "a.png"), photo[:60, :90])
  image_files.write_image(str(folder / "photos" / "sub" / "grey.png"), photo[100:133, 100:117, :1])
  Image.fromarray(photo[:8, :8].astype(np.uint16)[..., 0] * 257).save(
    folder / "photos" / "deep.png"
  )
  Image.new("RGBA", (6, 4), (9, 9, 9, 0)).save(folder / "photos" / "clear.png")
  return folder


def _environment(here):
  return {**os.environ, "PYTHONPATH": str(ROOT), "KHUVCM_MODELS": str(here / "shipped")}


@pytest.fixture(scope="module")
def run(here):
  """Runs a program of bin/ in `here`; returns its exit code, stdout and stderr."""

  def run_(name: str, *arguments: object) -> tuple[int, str, str]:
    process = subprocess.run(
      [sys.executable, str(ROOT / "bin" / name), *map(str, arguments)],
      cwd=here,
      env=_environment(here),
      capture_output=True,
      text=True,
      timeout=1800,
    )
    return process.returncode, process.stdout, process.stderr

  return run_


@pytest.fixture(scope="module")
def coded(run, here):
  """The folder kvc/, compressed from photos/ with a failure; exit code, stdout, stderr."""
  return run("compress.py", "--model=tiny", "--input=photos", "--output=kvc", "--alpha=white")


@pytest.fixture(scope="module")
def model():
  return model_files.load(str(GOLDEN / "mbt2018_mean" / "model"))


def _files(folder) -> list[str]:
  return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_compress_of_a_folder_does_all_but_a_16_bit_image_which_it_names(coded, here, model):
  code, out, err = coded
  assert code == 1
  warning, failed, end = err.splitlines()
  assert re.fullmatch(r"warning: photos/clear\.png: transparent image is put on white", warning)
  assert re.fullmatch(r"failed: photos/deep\.png: 16 bits per sample; expected 8; .*", failed)
  assert end == "compress.py: error: 1 of 4 files were not coded, for the reasons above"
  assert out == ""
  assert _files(here / "kvc") == ["a.kvc", "clear.kvc", "sub/grey.kvc"]
  for name in ("a", "sub/grey"):
    image = image_files.read_image(str(here / "photos" / f"{name}.png"))
    assert (here / "kvc" / f"{name}.kvc").read_bytes() == model.compress(image)


def test_decompress_finds_the_shipped_model_and_shows_a_bar_on_a_terminal(coded, here, model):
  master, terminal = pty.openpty()
  fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
  process = subprocess.Popen(
    [sys.executable, str(ROOT / "bin" / "decompress.py"), "--input=kvc", "--output=decoded"],
    cwd=here,
    env=_environment(here),
    stdout=subprocess.PIPE,
    stderr=terminal,
  )
  os.close(terminal)
  out, _ = process.communicate(timeout=1800)
  shown = b""
  while True:
    try:
      part = os.read(master, 4096)
    except OSError:  # the terminal's other end is closed
      break
    if not part:
      break
    shown += part
  os.close(master)
  assert process.returncode == 0, shown
  assert out == b"3 files decompressed to decoded\n"
  bars = re.findall(r"\r *(\d+)%\|[^|]*\| (\d)/3 \[", shown.decode())
  assert bars[0] == ("0", "0") and bars[-1] == ("100", "3")
  assert _files(here / "decoded") == ["a.png", "clear.png", "sub/grey.png"]
  for name in ("a", "sub/grey"):
    expected = model.decompress((here / "kvc" / f"{name}.kvc").read_bytes())
    found = image_files.read_image(str(here / "decoded" / f"{name}.png"))
    np.testing.assert_array_equal(found, expected)


def test_an_export_compresses_to_the_same_bytes(coded, run_together, here):
  exported, (code, out, err) = run_together(
    ["export.py", "--model=tiny", "--output=exported"],
    ["compress.py", "--model=exported", "--input=photos/a.png", "--output=again.kvc"],
    cwd=here,
    KHUVCM_MODELS=str(here / "shipped"),
  )
  assert exported == (0, "tiny exported to exported\n", "")
  assert (code, err) == (0, "")
  data = (here / "kvc" / "a.kvc").read_bytes()
  size = (here / "photos" / "a.png").stat().st_size
  assert out == f"1 image: {size} bytes -> {len(data)} bytes in again.kvc\n"
  assert (here / "again.kvc").read_bytes() == data


@pytest.fixture(scope="module")
def without_models(run_together, here):
  """Exit code, stdout and stderr of compress and decompress, where their models are unknown."""
  return run_together(
    ["compress.py", "--model=huge", "--input=photos/a.png", "--output=x.kvc"],
    ["decompress.py", f"--input={GOLDEN / 'bmshj2018' / 'grey.kvc'}", "--output=x.png"],
    cwd=here,
    KHUVCM_MODELS=str(here / "shipped"),
  )


def test_compress_without_a_model_of_that_name_ends_in_one_line(without_models, here):
  code, out, err = without_models[0]
  assert (code, out) == (1, "")
  assert re.fullmatch(
    r"compress\.py: error: no model at 'huge', expected .* shipped: tiny.*\n", err
  )
  assert not (here / "x.kvc").exists()


def test_decompress_of_a_file_of_an_unknown_model_ends_in_one_line(without_models):
  code, out, err = without_models[1]
  assert (code, out) == (1, "")
  assert re.fullmatch(
    r"decompress\.py: error: \S+grey\.kvc: the file was made with model [0-9a-f]{16}, which is "
    r"none of the shipped \(tiny.*\); name the model with --model\n",
    err,
  )


def test_beside_tensorflow_the_programs_import_no_heavy_library():
  command = """
import sys, tensorflow, tensorflow_compression
before = set(sys.modules)
import khuvcm_tf.program, khuvcm_tf.batch_coding
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""
  out = subprocess.check_output(
    [sys.executable, "-c", command], cwd=ROOT, text=True, stderr=subprocess.DEVNULL
  )
  heavy = {"matplotlib", "skimage", "scipy", "tensorflow_datasets", "cv2", "pandas"}
  assert "tqdm" in out and not heavy & set(ast.literal_eval(out))


@pytest.mark.parametrize(
  "name, arguments, text",
  [
    ("compress.py", ["--model=tiny", "--input=a.png"], r"the flag --output is required"),
    ("compress.py", ["--model=m", "--input=i", "--output=o", "b.png"], r"found b\.png beside the"),
    ("decompress.py", ["--input=i", "--output=o", "--max_pixels=0"], r"max_pixels=0"),
    ("export.py", ["--model=tiny", "--outputs=o"], r"Unknown command line flag 'outputs'"),
  ],
)
def test_wrong_arguments_end_in_one_line(run, name, arguments, text):
  code, out, err = run(name, *arguments)
  assert (code, out) == (1, "")
  assert re.fullmatch(rf"{re.escape(name)}: error: .*{text}.*\n", err)
