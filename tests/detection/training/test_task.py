"""A run of a detector from end to end, interrupted and resumed; what it starts with."""

from __future__ import annotations

import json
import pathlib
import pickle
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from detection import config as config_lib
from detection import detector_files, predictor
from detection.coco import CocoError
from detection.config import Config
from detection.conversion import detectron2
from detection.detector import Detector
from detection.training import task
from detection.training.options import DetectorOptions
from khuvcm_tf import options as options_lib
from khuvcm_tf.data.image_files import ImageError
from khuvcm_tf.options import OptionsError
from khuvcm_tf.runs import loop

_CONFIGS = pathlib.Path(__file__).parents[3] / "configs" / "detector"
_SMALL = {"masks": False, "backbone": "resnet18", "width": 4, "fpn_channels": 4}
_SMALL = {**_SMALL, "box_fc_channels": 4, "short_side": 64, "max_side": 64, "num_proposals": 5}


def _run(options, task_class=task.DetectorTask):
  return loop.train(options, lambda: task_class(options))


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(make_options, tmp_path):
  class Unseen(task.DetectorTask):
    def validate(self, step, writer):
      return {"loss": 1.0}

  class Interrupted(Unseen):
    def summary(self, metrics):
      raise KeyboardInterrupt

  folders = []
  for name, task_class in (("whole", Unseen), ("parts", Interrupted)):
    options = make_options(
      workdir=str(tmp_path / name),
      arguments=_SMALL,
      max_steps=3,
      checkpoint_steps=2,
      log_steps=1,
      weights_dtype="float32",
    )
    if task_class is Interrupted:
      with pytest.raises(KeyboardInterrupt):
        _run(options, task_class)
    folders.append(_run(options, Unseen))
  whole, parts = (detector_files.read_weights(folder) for folder in folders)
  for name, value in whole.items():
    np.testing.assert_allclose(parts[name], value, atol=1e-6, err_msg=name)
  # What came out is a detector that other programs take.
  detect = predictor.load(str(tmp_path / "whole"))
  assert detect.categories == ("light", "dark")
  text = (tmp_path / "whole" / "detector" / "detector.json").read_text()
  assert '"annotations.json"' in text and str(tmp_path) not in text
  assert detect(np.zeros((64, 64, 3), np.uint8)).masks is None


def test_validation_gives_the_numbers_of_coco_and_shows_detections(make_options, tmp_path):
  class Writer:
    shown = []

    def image(self, step, name, image):
      self.shown.append((step, name, image.shape))

  ours = task.DetectorTask(make_options(workdir=str(tmp_path), arguments=_SMALL))
  metrics = ours.validate(7, Writer())
  assert metrics["loss"] == 1.0 - metrics["ap"] and 0.0 <= metrics["ap50"] <= 1.0
  assert Writer.shown == [(7, f"validation/{i}", (64, 72, 3)) for i in range(2)]
  assert ours.summary(metrics).startswith("AP 0.")


@pytest.fixture
def start(tmp_path):
  """A detector of other categories, to start from."""
  config = Config(**_SMALL, num_classes=5)
  detector_files.save(str(tmp_path / "start"), Detector(config), list("abcde"), {})
  return str(tmp_path / "start")


@pytest.mark.parametrize("flagfile", sorted(_CONFIGS.glob("*.flags")), ids=lambda path: path.stem)
def test_a_flagfile_gives_options_and_a_detector(flagfile, tmp_path):
  values = flags.FlagValues()
  options_lib.define_flags(DetectorOptions, values)
  command = ["train_detector.py", f"--flagfile={flagfile}", f"--workdir={tmp_path}"]
  if "_dataset=" not in flagfile.read_text():
    names = ("train_annotations", "train_images", "validation_annotations", "validation_images")
    command += [f"--{name}=x" for name in names]
  values(command)
  options = options_lib.from_flags(DetectorOptions, values)
  assert Detector(task.make_config(options, None, 8)).config.num_classes == 8


def test_a_run_starts_with_the_weights_that_fit(make_options, start, tmp_path):
  options = make_options(workdir=str(tmp_path / "w"), arguments={}, init_from=start)
  ours = task.DetectorTask(options)
  assert ours.detector.config.num_classes == 2 and ours.detector.config.width == 4
  given, weights = detector_files.read_weights(start), ours.detector.named_weights()
  fresh = {name for name in weights if weights[name].shape != given[name].shape}
  assert fresh == {
    f"roi_heads.box_predictor.{layer}.{part}"
    for layer in ("cls_score", "bbox_pred")
    for part in ("weight", "bias")
  }
  for name in set(weights) - fresh:
    np.testing.assert_array_equal(weights[name], given[name])


@pytest.fixture
def converted(tmp_path, monkeypatch):
  """A checkpoint in detectron2's format and names, converted; its weights are random."""
  config = Config("resnet50", width=4, fpn_channels=8, box_fc_channels=16, short_side=64)
  monkeypatch.setitem(config_lib.CONFIGS, "tiny", config)
  rng, state = np.random.default_rng(0), {}
  for name, shape in detectron2.parameters(config).items():
    if len(shape) > 1:
      state[name] = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)
    else:
      is_one = name.endswith(("norm.weight", "running_var"))
      state[name] = np.full(shape, float(is_one), np.float32)
  checkpoint = {"model": state, "__author__": "a test"}
  (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(checkpoint))
  detectron2.convert_file(str(tmp_path / "model_final.pkl"), "tiny", str(tmp_path / "converted"))
  return str(tmp_path / "converted")


def test_training_on_from_a_converted_checkpoint_lowers_its_loss(make_options, converted, tmp_path):
  def loss(detector: str) -> float:
    """Returns a detector's mean loss on the first images."""
    ours = task.DetectorTask(
      make_options(workdir=str(tmp_path / "none"), arguments={}, init_from=detector)
    )
    batches = ours.batches(0, (0, 1)).take(3)
    return float(np.mean([ours.model.loss_and_metrics(batch)["loss"] for batch in batches]))

  options = make_options(
    workdir=str(tmp_path / "w"), arguments={}, init_from=converted, max_steps=15
  )
  tuned = _run(options)
  assert loss(tuned) < 0.9 * loss(converted)
  assert predictor.load(tuned).categories == ("light", "dark")


def test_frozen_layers_are_not_trained(make_options, tmp_path):
  frozen = ("backbone.bottom_up.stem", "backbone.bottom_up.res2.0")
  options = make_options(workdir=str(tmp_path), arguments=_SMALL, frozen=frozen)
  ours = task.DetectorTask(options)
  names = {id(v): name for name, v in ours.detector.named_weights().items()}
  trained = {names[id(each)] for each in ours.model.trainable_variables}
  assert "backbone.bottom_up.res2.1.conv1.weight" in trained
  assert not any(name.startswith(frozen) for name in trained)


def test_a_stage_is_frozen_with_all_of_its_blocks(make_options, tmp_path):
  stage = "backbone.bottom_up.res2"
  ours = task.DetectorTask(
    make_options(workdir=str(tmp_path), arguments={**_SMALL, "norm": "batch"}, frozen=(stage,))
  )
  names = {id(v): name for name, v in ours.detector.named_weights().items()}
  assert not any(names[id(each)].startswith(stage) for each in ours.model.trainable_variables)


def _damage(folder, tmp_path) -> dict[str, object]:
  """Returns annotations and images of a copy of the data in which an image ends too early."""
  copy = tmp_path / "damaged"
  shutil.copytree(folder, copy)
  (copy / "1.png").write_bytes((folder / "1.png").read_bytes()[:3000])
  return {"annotations": str(copy / "annotations.json"), "images": str(copy)}


def test_a_damaged_training_image_is_named_and_passed_over(make_options, folder, tmp_path, caplog):
  data = _damage(folder, tmp_path)
  options = make_options(
    workdir=str(tmp_path / "w"),
    arguments=_SMALL,
    batch_size=6,
    max_steps=2,
    train_annotations=(data["annotations"],),
    train_images=(data["images"],),
  )
  _run(options)
  assert re.search(r"skipped, as number 1 of \d+ training images: \S*1\.png: damaged", caplog.text)


def test_a_damaged_validation_image_is_named_before_the_first_step(make_options, folder, tmp_path):
  data = _damage(folder, tmp_path)
  options = make_options(
    workdir=str(tmp_path / "w"),
    arguments=_SMALL,
    validation_annotations=data["annotations"],
    validation_images=data["images"],
  )
  with pytest.raises(ImageError, match=r"1\.png: damaged or cut short"):
    task.DetectorTask(options)


def test_validation_on_other_categories_is_refused(make_options, folder, tmp_path):
  content = json.loads((folder / "annotations.json").read_text())
  content["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
  (tmp_path / "other.json").write_text(json.dumps(content))
  options = make_options(
    workdir=str(tmp_path / "w"),
    arguments=_SMALL,
    validation_annotations=str(tmp_path / "other.json"),
  )
  with pytest.raises(CocoError, match=r"other.json: has the categories cat, dog, expected some of"):
    task.DetectorTask(options)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"frozen": ("backbone.top",)}, r"^--frozen=backbone.top leads to no layer"),
    ({"frozen": ("backbone.call",)}, r"^--frozen=backbone.call leads to no layer"),
    ({"frozen": ("backbone.bottom_up.res2.7",)}, r"^--frozen=\S*res2.7 leads to no layer"),
    (
      {"arguments": {**_SMALL, "num_classes": 5}},
      r"^found --argument=num_classes=5, expected 2, t",
    ),
    ({"arguments": {**_SMALL, "speed": 1}}, r"^--argument: found the fields \['speed'\]"),
    ({"arguments": {**_SMALL, "width": "wide"}}, r"^--argument: found width = 'wide'"),
  ],
)
def test_what_no_detector_has_is_refused(make_options, tmp_path, changes, message):
  with pytest.raises(OptionsError, match=message):
    task.DetectorTask(make_options(**{"workdir": str(tmp_path), "arguments": _SMALL, **changes}))


def test_weights_of_another_backbone_are_refused(make_options, start, tmp_path):
  arguments = {"backbone": "resnet50", "width": 16, "fpn_channels": 8, "box_fc_channels": 8}
  arguments["aspect_ratios"] = (1.0,)
  options = make_options(workdir=str(tmp_path / "w"), arguments=arguments, init_from=start)
  with pytest.raises(OptionsError, match=r"start has none of this detector's weights"):
    with tf.device("/cpu:0"):
      task.DetectorTask(options)
