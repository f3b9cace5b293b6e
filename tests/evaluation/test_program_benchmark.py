"""The benchmark of programs, on a tiny model."""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
import pytest

from khuvcm_tf import model_files
from khuvcm_tf.data import image_files
from khuvcm_tf.evaluation import program_benchmark
from khuvcm_tf.evaluation.program_benchmark import Row, Seconds

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = str(ROOT / "tests" / "golden" / "mbt2018_mean" / "model")


def test_cpu_seconds_of_a_process_are_those_that_it_works():
  busy = "import time\nwhile time.process_time() < 0.4: pass\n"
  seconds = program_benchmark.measure([sys.executable, "-c", busy + "time.sleep(0.3)"])
  assert 0.4 <= seconds.cpu < 0.7
  assert seconds.wall >= 0.7


def test_a_program_that_fails_is_named_with_its_last_line():
  command = [sys.executable, "-c", "import sys; print('first'); sys.exit('last')"]
  with pytest.raises(
    program_benchmark.ProgramBenchmarkError, match=r"ended with 1, expected 0; its last line: last"
  ):
    program_benchmark.measure(command)


def test_rows_are_medians_over_rounds_and_differences_to_the_import():
  keys = [(None, "import"), ("m", "load")]
  rounds = [[Seconds(4, 5), Seconds(6, 7)], [Seconds(3, 9), Seconds(9, 8)]]
  rounds.append([Seconds(2, 4), Seconds(5, 6)])
  assert program_benchmark._rows(keys, rounds) == [
    Row(None, "import", Seconds(3, 5), Seconds(0, 0)),
    Row("m", "load", Seconds(6, 7), Seconds(3, 2)),
  ]


def test_the_import_is_of_what_programs_import():
  namespace = {}
  exec(program_benchmark._IMPORT, namespace)
  assert {"tensorflow", "tensorflow_compression"} <= set(namespace)


def test_all_programs_of_a_model_are_measured_and_written(tmp_path, monkeypatch):
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  # That of TensorFlow, twice, takes as long as two more programs.
  monkeypatch.setattr(program_benchmark, "_IMPORT", "import numpy")
  image = str(tmp_path / "image.png")
  image_files.write_image(image, np.zeros((20, 30, 3), np.uint8))
  options = program_benchmark.Options(models=(MODEL,), image=image, repeats=1)
  rows = program_benchmark.run(options, str(ROOT / "bin"))
  steps = [(None, "import"), (MODEL, "load"), (MODEL, "compress"), (MODEL, "decompress")]
  assert [(row.model, row.step) for row in rows] == steps
  assert all(row.seconds.cpu > 0.5 and row.seconds.wall > 0.5 for row in rows[1:])
  assert 0 < rows[0].seconds.cpu < min(row.seconds.cpu for row in rows[1:])

  program_benchmark.write_json(str(tmp_path / "seconds.json"), rows, options)
  content = json.loads((tmp_path / "seconds.json").read_text())
  assert content["options"]["repeats"] == 1
  assert content["rows"][3]["step"] == "decompress"
  assert content["rows"][3]["cpu"] == rows[3].seconds.cpu
  assert content["rows"][0]["wall_beyond_import"] == 0
  assert program_benchmark.table(rows).splitlines()[1].split()[0] == "import"


def test_the_random_model_codes_images(tmp_path):
  program_benchmark.build_random_model(str(tmp_path / "model"), num_filters=8, latent_depth=8)
  model = model_files.load(str(tmp_path / "model"))
  photo = program_benchmark.photo()
  assert photo.shape == (512, 768, 3)
  crop = photo[:70, :80]
  assert model.decompress(model.compress(crop)).shape == crop.shape


def test_no_model_is_refused():
  with pytest.raises(program_benchmark.ProgramBenchmarkError, match="found no model, expected at"):
    program_benchmark.run(program_benchmark.Options(models=()), str(ROOT / "bin"))
