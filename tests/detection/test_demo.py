"""What the demonstration draws of detectors."""

from __future__ import annotations

import os

from PIL import Image

from detection import demo, detector_files


def test_shipped_detectors_draw_what_they_find(tiny_detector, tmp_path, monkeypatch):
  for name in ("shapes", "person"):
    folder = str(tmp_path / "models" / name)
    detector_files.save(folder, tiny_detector, ("cat", "dog", "cup"), {})
  monkeypatch.setenv("KHUVCM_MODELS", str(tmp_path / "models"))
  monkeypatch.setattr(demo, "_MIN_SCORE", 0.3)
  shown = demo.run(str(tmp_path / "out"))
  assert [os.path.basename(each.path) for each in shown] == [
    "detections_shapes.png",
    "detections_person.png",
  ]
  assert [Image.open(each.path).size for each in shown] == [(320, 256), (512, 512)]
  assert any(each.found for each in shown)
  assert all(text.split()[0] in ("cat", "dog", "cup") for each in shown for text in each.found)


def test_what_is_not_shipped_is_not_drawn(tmp_path, monkeypatch):
  monkeypatch.setattr(demo.model_folders, "_roots", lambda: [str(tmp_path)])
  assert demo.run(str(tmp_path / "out")) == []
