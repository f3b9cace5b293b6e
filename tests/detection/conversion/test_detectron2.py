"""Weights of detectron2: all of them, each where it belongs and in our layout, and none but them.

Always: a detector with few channels, whose layers are compared with plain loops of PyTorch's
definitions. With KHUVCM_REFERENCE set: the names and shapes of the six models of the model zoo, and
checksums of weights made from names.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import pickle
import re
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pytest
import tensorflow as tf

from detection import config as config_lib
from detection import detector_files
from detection.conversion import detectron2
from detection.detector import Detector
from khuvcm_tf import errors, layers, model_folders

ROOT = pathlib.Path(__file__).resolve().parents[3]
TINY = config_lib.Config(
  "resnet50", width=4, masks=True, fpn_channels=8, box_fc_channels=16, mask_channels=8
)
CLS_SCORE = "roi_heads.box_predictor.cls_score.weight"


# --- A detector with few channels


@pytest.fixture(autouse=True)
def tiny_config(monkeypatch):
  monkeypatch.setitem(config_lib.CONFIGS, "tiny", TINY)


@functools.cache
def _detector() -> Detector:
  return Detector(TINY)


@functools.cache
def _tiny() -> dict[str, np.ndarray]:
  """Returns a state dict as detectron2 would have it, of random numbers."""
  rng = np.random.default_rng(0)
  shapes = detectron2.parameters(TINY)
  return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def state() -> dict[str, np.ndarray]:
  return dict(_tiny())


@pytest.fixture
def detector(state) -> Detector:
  _detector().assign_weights(detectron2.state_dict_to_weights(state, "tiny"))
  return _detector()


def _convolution(x: np.ndarray, w: np.ndarray, stride: int, padding: int) -> np.ndarray:
  """`torch.nn.functional.conv2d` of x [C, H, W] by w [O, C, h, w], in plain loops."""
  x = np.pad(x, [(0, 0), (padding, padding), (padding, padding)])
  height, width = w.shape[2:]
  rows = range(0, x.shape[1] - height + 1, stride)
  columns = range(0, x.shape[2] - width + 1, stride)
  y = np.zeros((len(w), len(rows), len(columns)))
  for i, row in enumerate(rows):
    for j, column in enumerate(columns):
      window = x[:, row : row + height, column : column + width]
      y[:, i, j] = np.sum(w * window, axis=(1, 2, 3))
  return y


def _channels_last(x: np.ndarray) -> tf.Tensor:
  return tf.constant(x.transpose(1, 2, 0)[np.newaxis], tf.float32)


def _channels_first(y: tf.Tensor) -> np.ndarray:
  return y.numpy()[0].transpose(2, 0, 1)


def test_every_weight_is_used_once_with_all_its_values(state):
  weights = detectron2.state_dict_to_weights(state, "tiny")
  assert set(weights) == set(state)
  for name, value in weights.items():
    np.testing.assert_array_equal(np.sort(value, None), np.sort(state[name], None), name)


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101", "resnext101_32x8d"])
@pytest.mark.parametrize("masks", [False, True])
def test_a_detector_has_the_weights_that_are_converted_to(monkeypatch, backbone, masks):
  config = dataclasses.replace(TINY, backbone=backbone, masks=masks)
  monkeypatch.setitem(config_lib.CONFIGS, "other", config)
  state = {n: np.broadcast_to(0.0, s) for n, s in detectron2.parameters(config).items()}
  found = detectron2.state_dict_to_weights(state, "other")
  with layers.weights_assigned():
    expected = Detector(config).named_weights()
  assert {n: value.shape for n, value in found.items()} == {
    n: tuple(weight.shape) for n, weight in expected.items()
  }


def test_a_convolution_is_pytorchs(state, detector):
  x = np.random.default_rng(1).normal(size=(8, 7, 5))
  conv = detector.proposal_generator.rpn_head.conv
  name = "proposal_generator.rpn_head.conv"
  expected = _convolution(x, state[f"{name}.weight"], 1, 1) + state[f"{name}.bias"][:, None, None]
  found = _channels_first(conv(_channels_last(x)))
  np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-4)


def test_a_strided_convolution_and_its_norm_are_pytorchs(state, detector):
  x = np.random.default_rng(1).normal(size=(3, 10, 12))
  name = "backbone.bottom_up.stem.conv1"
  keys = ("weight", "bias", "running_mean", "running_var")
  scale, shift, mean, variance = (state[f"{name}.norm.{key}"][:, None, None] for key in keys)
  variance = np.abs(variance)
  detector.backbone.bottom_up.stem.conv1.norm.running_var.assign(variance[:, 0, 0])
  y = _convolution(x, state[f"{name}.weight"], 2, 3)
  expected = (y - mean) / np.sqrt(variance + 1e-5) * scale + shift
  found = _channels_first(detector.backbone.bottom_up.stem.conv1(_channels_last(x)))
  np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=1e-4, atol=1e-3)


def test_the_transposed_convolution_is_pytorchs(state, detector):
  x = np.random.default_rng(2).normal(size=(8, 3, 4))
  w = state["roi_heads.mask_head.deconv.weight"]  # [in, out, 2, 2]
  bias = state["roi_heads.mask_head.deconv.bias"]
  expected = np.zeros((8, 6, 8))
  for row, column, i, j in np.ndindex(3, 4, 2, 2):
    expected[:, 2 * row + i, 2 * column + j] = x[:, row, column] @ w[:, :, i, j] + bias
  found = _channels_first(detector.roi_heads.mask_head.deconv(_channels_last(x)))
  np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-4)


def test_the_first_linear_layer_sees_a_map_as_pytorch_flattens_it(state, detector):
  x = np.random.default_rng(3).normal(size=(8, 7, 7))
  w, bias = (state[f"roi_heads.box_head.fc1.{key}"] for key in ("weight", "bias"))
  expected = w @ x.ravel() + bias
  flat = tf.reshape(_channels_last(x), [1, -1])
  found = detector.roi_heads.box_head.fc1(flat)[0]
  np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-3)


def test_a_linear_layer_is_pytorchs(state, detector):
  x = np.random.default_rng(4).normal(size=16)
  expected = state[CLS_SCORE] @ x + state[CLS_SCORE.replace("weight", "bias")]
  found = detector.roi_heads.box_predictor.cls_score(tf.constant(x[np.newaxis], tf.float32))[0]
  np.testing.assert_allclose(found, expected, atol=1e-4)


def _assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
  assert list(found) == list(expected)
  for name, value in expected.items():
    np.testing.assert_array_equal(found[name], value, name)


def test_constants_beside_the_weights_are_ignored(state):
  constants = {
    "pixel_mean": np.reshape(TINY.pixel_mean, (3, 1, 1)).astype(np.float32),
    "pixel_std": np.ones((3, 1, 1), np.float32),
    "proposal_generator.anchor_generator.cell_anchors.0": np.zeros((3, 4), np.float32),
    "proposal_generator.anchor_generator.cell_anchors.4": np.zeros((3, 4), np.float32),
    "backbone.bottom_up.stem.conv1.norm.num_batches_tracked": np.array(7),
  }
  _assert_same(
    detectron2.state_dict_to_weights({**constants, **state}, "tiny"),
    detectron2.state_dict_to_weights(state, "tiny"),
  )


def test_the_prefix_of_data_parallelism_is_taken_off_where_all_names_have_it(state):
  parallel = {f"module.{name}": value for name, value in state.items()}
  _assert_same(
    detectron2.state_dict_to_weights(parallel, "tiny"),
    detectron2.state_dict_to_weights(state, "tiny"),
  )
  parallel["one"] = np.zeros(3)
  with pytest.raises(detectron2.ConversionError, match=r"holds other weights \(module\.backbone\."):
    detectron2.state_dict_to_weights(parallel, "tiny")


# --- What is refused


@pytest.fixture
def refused():
  """A function: asserts that a checkpoint is refused in one line."""

  def refused_(state, match: str, config: str = "tiny"):
    with pytest.raises(detectron2.ConversionError, match=match) as caught:
      detectron2.state_dict_to_weights(state, config)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 3000

  return refused_


def test_a_missing_weight_is_named(refused, state):
  del state[CLS_SCORE]
  refused(
    state,
    rf"^this checkpoint is no tiny as detectron2's model zoo has it: it lacks 1 \({CLS_SCORE}\); "
    r"take the model_final_\*\.pkl of such a config in detectron2's model zoo$",
  )


def test_weights_that_are_left_over_are_named_up_to_five(refused, state):
  more = {f"roi_heads.keypoint_head.conv_fcn{i}.weight": np.zeros(3) for i in range(1, 8)}
  named = ", ".join(list(more)[:5])
  refused({**state, **more}, rf"has it: it has too many 7 \({re.escape(named)}, \.\.\.\); take")


def test_a_misshapen_weight_is_named_with_both_shapes(refused, state):
  refused(
    {**state, CLS_SCORE: np.zeros((21, 16), np.float32)},
    rf"has it: it has misshapen 1 \({CLS_SCORE} of shape 21 x 16, expected 81 x 16\); take",
  )
  # As many numbers, in our layout.
  name = "roi_heads.mask_head.mask_fcn1.weight"
  refused(
    {**state, name: state[name].transpose(2, 3, 1, 0)}, "of shape 3 x 3 x 8 x 8, expected 8 x 8 x 3"
  )
  refused({**state, "backbone.fpn_output2.bias": np.zeros(())}, "of shape 1, expected 8")


def test_all_that_differs_stands_in_one_line(refused, state):
  state["odd\nname" + "x" * 500] = state.pop("backbone.fpn_lateral2.bias")
  state[CLS_SCORE] = np.zeros((1, 1))
  refused(
    state,
    r"it lacks 1 \(backbone\.fpn_lateral2\.bias\), has too many 1 \(odd\\nnamex{50,110}\.\.\.\), "
    r"has misshapen 1 \(",
  )


def test_pixels_in_another_order_or_scale_are_refused(refused, state):
  rgb = np.reshape([123.675, 116.28, 103.53], (3, 1, 1)).astype(np.float32)
  refused({**state, "pixel_mean": rgb}, r"has pixel_mean \[123\.67\d*, .*, expected \[103\.53, 116")
  refused({**state, "pixel_std": rgb}, r"has pixel_std .*, expected \[1\.0, 1\.0, 1\.0\] of blue")
  refused({**state, "pixel_mean": rgb[:2]}, "has pixel_mean .*; take the model_final_")


@pytest.mark.parametrize(
  "names, kind",
  [
    (["conv1_w", "res_conv1_bn_s", "res2_0_branch2a_w"], "weights by the names of Caffe2"),
    (["stem.conv1.weight", "res2.0.conv1.weight"], "a backbone alone"),
    (["backbone.bottom_up.stem.conv1.weight", "head.cls_score.weight"], "another model of detec"),
    (["backbone.res4.0.conv1.weight", CLS_SCORE], "another model of detectron2"),
    (["g_a.0.weight"], "other weights"),
  ],
)
def test_what_is_no_detector_is_refused_by_what_it_is(refused, names, kind):
  arrays = {name: np.zeros((2, 2), np.float32) for name in names}
  with pytest.raises(
    detectron2.ConversionError, match=f"holds {kind}.*{names[0]}.*; take the model_"
  ):
    detectron2.recognized(arrays)
  refused(arrays, f"^the checkpoint holds {kind}")


def test_an_unknown_config_is_refused_with_those_that_there_are(refused, state):
  refused(
    state,
    r"^no config is called 'retinanet', expected one of faster_rcnn_R_50_FPN_3x, .*, tiny$",
    "retinanet",
  )


# --- The six models of the model zoo


@pytest.fixture(scope="module")
def reference():
  """The module that makes weights from names, in a folder with their checksums."""
  if "KHUVCM_REFERENCE" not in os.environ:
    pytest.skip("KHUVCM_REFERENCE is not set")
  path = pathlib.Path(os.environ["KHUVCM_REFERENCE"], "detectron2_reference", "weights_by_name.py")
  spec = importlib.util.spec_from_file_location("weights_by_name", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _zeros(reference, config: str) -> dict[str, np.ndarray]:
  """Returns a state dict of detectron2's names and shapes, which takes no memory."""
  zero = np.zeros((), np.float32)
  return {n: np.broadcast_to(zero, shape) for n, shape in reference.all_parameters(config).items()}


CONFIGS = [
  f"{kind}_rcnn_{body}_FPN_3x"
  for kind in ("faster", "mask")
  for body in ("R_50", "R_101", "X_101_32x8d")
]


@pytest.mark.parametrize("config", CONFIGS)
def test_names_and_shapes_are_those_of_detectron2(reference, config):
  state = _zeros(reference, config)
  assert detectron2.parameters(config_lib.CONFIGS[config]) == reference.all_parameters(config)
  weights = detectron2.state_dict_to_weights(state, config)
  assert set(weights) == set(state)
  assert detectron2.recognized(state) == config
  assert weights["roi_heads.box_head.fc1.weight"].shape == (7 * 7 * 256, 1024)


@pytest.mark.parametrize("config", ["mask_rcnn_R_101_FPN_3x", "mask_rcnn_X_101_32x8d_FPN_3x"])
def test_converted_weights_back_in_pytorchs_layouts_have_the_references_checksums(
  reference, config
):
  names = [
    "backbone.bottom_up.stem.conv1.weight",
    "backbone.bottom_up.res4.22.conv2.weight",
    "backbone.bottom_up.res5.0.shortcut.norm.running_var",
    "backbone.fpn_lateral4.weight",
    "proposal_generator.rpn_head.anchor_deltas.weight",
    "roi_heads.box_head.fc1.weight",
    "roi_heads.box_predictor.bbox_pred.weight",
    "roi_heads.mask_head.deconv.weight",
    "roi_heads.mask_head.predictor.bias",
  ]
  state = _zeros(reference, config)
  for name in names:
    state[name] = reference.make_weight(name, state[name].shape, config=config)
  weights = detectron2.state_dict_to_weights(state, config)
  text = pathlib.Path(reference.__file__).with_name("weight_crc32.json").read_text("utf-8")
  expected = json.loads(text)[re.search(r"rcnn_(.*)_FPN", config)[1]]
  for name in names:
    value = weights[name]
    if name == "roi_heads.box_head.fc1.weight":
      value = value.reshape(7, 7, 256, 1024).transpose(3, 2, 0, 1)
    elif value.ndim == 4:  # [h, w, in, out], or [h, w, out, in] where it is transposed
      value = value.transpose(3, 2, 0, 1)
    else:
      value = value.T
    assert zlib.crc32(np.ascontiguousarray(value, "<f4")) == expected[name], name


@pytest.mark.parametrize(
  "found, other",
  [
    ("mask_rcnn_X_101_32x8d_FPN_3x", "faster_rcnn_R_50_FPN_3x"),
    ("mask_rcnn_R_50_FPN_3x", "faster_rcnn_R_50_FPN_3x"),
    ("faster_rcnn_R_50_FPN_3x", "mask_rcnn_R_50_FPN_3x"),
    ("faster_rcnn_R_101_FPN_3x", "faster_rcnn_R_50_FPN_3x"),
    ("faster_rcnn_R_101_FPN_3x", "faster_rcnn_X_101_32x8d_FPN_3x"),
  ],
)
def test_another_config_is_refused_with_the_one_that_fits(reference, refused, found, other):
  refused(
    _zeros(reference, found),
    rf"^this checkpoint is a {found}, expected a {other}: it .*; give --config={found}$",
    other,
  )


def test_another_number_of_classes_is_refused(reference, refused):
  config = "faster_rcnn_R_50_FPN_3x"
  state = {**_zeros(reference, config), CLS_SCORE: np.zeros((21, 1024), np.float32)}
  refused(
    state,
    rf"is no {config} as detectron2's model zoo has it: it has misshapen 1 "
    r"\(roi_heads.* of shape 21 x 1024, expected 81 x 1024\)",
    config,
  )


# --- Files and the program


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  """A checkpoint as the model zoo has them."""
  path = tmp_path_factory.mktemp("zoo") / "model_final_123456.pkl"
  content = {"model": _tiny(), "__author__": "Detectron2 Model Zoo"}
  path.write_bytes(pickle.dumps(content, 3))
  return path


def _assert_holds(folder: pathlib.Path, state: dict[str, np.ndarray], dtype=np.float32):
  found, description, _ = detector_files.load(str(folder))
  assert found.config == TINY
  expected = detectron2.state_dict_to_weights(state, "tiny")
  for name, weight in found.named_weights().items():
    np.testing.assert_array_equal(weight, expected[name].astype(dtype), name)
  return description


def test_the_program_writes_a_detector(checkpoint, state, tmp_path):
  """In a child process, where the small config has a name, too."""
  fields = TINY.to_json()
  source = f"""
    import runpy, sys
    from detection import config
    config.CONFIGS["tiny"] = config.Config.from_json({fields!r})
    sys.argv[1:] = {[f"--checkpoint={checkpoint}", "--config=tiny", "--output=converted"]!r}
    runpy.run_path({str(ROOT / "bin" / "convert_detectron2.py")!r}, run_name="__main__")
  """
  process = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(source)],
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    timeout=1800,
  )
  assert (process.returncode, process.stderr) == (0, "")
  count = sum(value.size for value in state.values())
  assert process.stdout == (
    f"converted: tiny, {count:,} parameters; next:\n"
    "  python bin/detect.py --detector=converted --input=photo.png --output=detections/\n"
  )
  description = _assert_holds(tmp_path / "converted", state)
  assert description["detectron2"] == {
    "config": "tiny",
    "checkpoint": "model_final_123456.pkl",
    "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
  }
  assert os.listdir(tmp_path) == ["converted"]


class _Attack:
  def __init__(self, marker: pathlib.Path):
    self._marker = marker

  def __reduce__(self):
    return os.system, (f"touch {self._marker}",)


def test_the_program_refuses_a_checkpoint_that_means_harm_in_one_line(tmp_path, run_program):
  content = {"model": {"w": np.zeros(3)}, "__author__": _Attack(tmp_path / "marker")}
  (tmp_path / "bad.pkl").write_bytes(pickle.dumps(content))
  code, out, err = run_program(
    "convert_detectron2.py", "--checkpoint=bad.pkl", "--output=converted", cwd=tmp_path
  )
  assert (code, out) == (1, "")
  assert re.fullmatch(
    r"convert_detectron2\.py: error: bad\.pkl[^\n]* posix\.system, expected [^\n]*; nothing of it "
    r"was run; [^\n]*\n",
    err,
  )
  assert os.listdir(tmp_path) == ["bad.pkl"]


def test_a_file_is_converted_to_float16_and_replaces_a_detector(checkpoint, state, tmp_path):
  for dtype in (np.float32, np.float16):
    found = detectron2.convert_file(
      str(checkpoint), "tiny", str(tmp_path / "out"), np.dtype(dtype).name
    )
    assert found == ("tiny", sum(value.size for value in state.values()))
    _assert_holds(tmp_path / "out", state, dtype)
  assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_holds_something_else_is_refused_before_the_file_is_read(tmp_path):
  (tmp_path / "letter.txt").write_text("to a friend", encoding="utf-8")
  with pytest.raises(model_folders.ModelError, match="holds something else than a detector"):
    detectron2.convert_file(str(tmp_path / "missing.pkl"), "tiny", str(tmp_path))
  assert os.listdir(tmp_path) == ["letter.txt"]


@pytest.mark.parametrize(
  "config, match",
  [
    ("mask_rcnn_R_50_FPN_3x", "this checkpoint is a tiny, expected a mask_rcnn_R_50.* misshapen"),
    ("yolo", "no config is called 'yolo'"),
  ],
)
def test_what_is_not_converted_leaves_nothing_behind(checkpoint, tmp_path, config, match):
  with pytest.raises(errors.Error, match=match):
    detectron2.convert_file(str(checkpoint), config, str(tmp_path / "out"))
  with pytest.raises(errors.Error, match=r"missing\.pkl: was not read: No such file"):
    detectron2.convert_file(str(tmp_path / "missing.pkl"), "tiny", str(tmp_path / "out"))
  assert os.listdir(tmp_path) == []


def test_a_config_that_is_recognized_need_not_be_given(checkpoint, state, tmp_path):
  assert detectron2.convert_file(str(checkpoint), None, str(tmp_path / "out")).config == "tiny"
  _assert_holds(tmp_path / "out", state)


def test_what_is_close_to_a_config_is_refused_as_not_quite_that(state, tmp_path):
  del state[CLS_SCORE]
  np.savez(tmp_path / "c.npz", **state)
  with pytest.raises(detectron2.ConversionError, match="is no tiny as .*: it lacks 1 "):
    detectron2.convert_file(str(tmp_path / "c.npz"), None, str(tmp_path / "out"))


def test_weights_that_are_not_finite_are_refused(state, tmp_path):
  bad = {**state, "backbone.fpn_output2.bias": np.full(8, np.nan, np.float32)}
  np.savez(tmp_path / "bad.npz", **bad)
  with pytest.raises(model_folders.ModelError, match=r"fpn_output2\.bias hold values that are"):
    detectron2.convert_file(str(tmp_path / "bad.npz"), "tiny", str(tmp_path / "out"))
  assert os.listdir(tmp_path) == ["bad.npz"]
