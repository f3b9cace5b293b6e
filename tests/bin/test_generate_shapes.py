"""bin/generate_shapes.py as a person starts it."""

from __future__ import annotations

from detection.coco import annotation_files, shape_dataset


def test_generate_shapes_writes_what_it_says(run_program, tmp_path):
  start = ("generate_shapes.py", "--output=drawn", "--split=test", "--count=2", "--seed=4")
  code, out, err = run_program(*start, cwd=tmp_path)
  assert (code, out) == (0, "written: --annotations=drawn/test.json --images=drawn/test\n"), err
  found = annotation_files.load(str(tmp_path / "drawn/test.json"), str(tmp_path / "drawn/test"))
  assert found.ground_truth == shape_dataset.load("test", 2, seed=4).ground_truth
