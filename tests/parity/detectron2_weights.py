"""Deterministic parameters of detectron2's models, made from their names alone (numpy only).

    make_weight(name, shape, dtype=np.float32, config=None) -> array

`name` and `shape` are those of detectron2's state_dict, so arrays have the
PyTorch layouts: conv (out, in/groups, kh, kw), linear (out, in), transposed
conv (in, out, kh, kw).

Every value depends only on the name and the shape, with ONE exception: the
stem convolution.  The R_50 / R_101 models take pixels that are only centred
(PIXEL_STD 1), the X_101 models take pixels divided by about 58, so the stem
weights of the R models are 1/58 of those of the X models (in the real
checkpoints too the std is absorbed into conv1).  make_weight() therefore
refuses the stem convolution unless `config` is given.

The numbers come from the raw 64-bit stream of numpy's Philox bit generator
(whose raw stream numpy keeps stable between versions), keyed with the sha256
of the name; after that only exact integer work and correctly rounded
+ - * / sqrt in float64 are used, so arrays are bit-equal everywhere.
"""

import hashlib
import math

import numpy as np

STEM = "backbone.bottom_up.stem.conv1.weight"


def _ints(name, count):
  """`count` int64 values, uniform in [0, 2**24), from the name alone."""
  digest = hashlib.sha256(name.encode("utf-8")).digest()
  key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
  raw = np.random.Philox(key=key).random_raw((count + 1) // 2)
  raw = np.asarray(raw, dtype=np.uint64)
  out = np.empty((raw.size, 2), np.int64)
  out[:, 0] = (raw >> np.uint64(40)).astype(np.int64)
  out[:, 1] = ((raw >> np.uint64(8)) & np.uint64(0xFFFFFF)).astype(np.int64)
  return out.reshape(-1)[:count]


def _uniform(name, shape, low, high):
  """Uniform in [low, high)."""
  u = _ints(name, int(np.prod(shape))).astype(np.float64) / 16777216.0
  return (low + (high - low) * u).reshape(shape)


def _filters(name, shape, out_axis, group=None):
  """Unit-variance uniform values; each output's fan-in sums to zero.

  With `group`, every run of `group` inputs sums to zero.
  """
  ints = _ints(name, int(np.prod(shape))).reshape(shape)
  ints = np.moveaxis(ints, out_axis, 0).reshape(shape[out_axis], -1)
  fan_in = ints.shape[1]
  n = group or fan_in
  ints = ints.reshape(shape[out_axis], -1, n)
  centred = ints * n - ints.sum(axis=2, keepdims=True)  # exact in int64
  flat = centred.astype(np.float64) / (n * 8388608.0) * math.sqrt(3.0)
  rest = tuple(s for i, s in enumerate(shape) if i != out_axis)
  return np.moveaxis(flat.reshape((shape[out_axis],) + rest), 0, out_axis), fan_in


def _norm_var(base, channels):
  """running_var of the norm `base`: spread over about 0.003 .. 1."""
  u = _uniform(base + ".running_var", (channels,), 0.0, 1.0)
  return 0.003 + 0.997 * u * u * u


# gain of a frozen norm's weight, by the convolution it follows
_NORM_GAIN = {"stem.conv1": 1.0, "conv1": 1.0, "conv2": 1.0, "conv3": 0.35, "shortcut": 0.75}

# (weight gain, bias low, bias high); weight std = gain / sqrt(fan_in)
_PLAIN = {
  "backbone.fpn_lateral2": (0.35, -0.1, 0.1),
  "backbone.fpn_lateral3": (0.35, -0.1, 0.1),
  "backbone.fpn_lateral4": (0.50, -0.1, 0.1),
  "backbone.fpn_lateral5": (1.00, -0.1, 0.1),
  "backbone.fpn_output2": (0.75, -0.1, 0.1),
  "backbone.fpn_output3": (1.10, -0.1, 0.1),
  "backbone.fpn_output4": (1.80, -0.1, 0.1),
  "backbone.fpn_output5": (2.60, -0.1, 0.1),
  "proposal_generator.rpn_head.conv": (1.4, -0.1, 0.1),
  "proposal_generator.rpn_head.objectness_logits": (3.0, -0.3, 0.3),
  "proposal_generator.rpn_head.anchor_deltas": (1.6, -0.1, 0.1),
  "roi_heads.box_head.fc1": (3.0, -0.1, 0.1),
  "roi_heads.box_head.fc2": (2.0, -0.1, 0.1),
  "roi_heads.box_predictor.cls_score": (5.0, -1.0, 1.0),
  "roi_heads.box_predictor.bbox_pred": (2.0, -0.3, 0.3),
  "roi_heads.mask_head.mask_fcn1": (1.4, -0.1, 0.1),
  "roi_heads.mask_head.mask_fcn2": (1.4, -0.1, 0.1),
  "roi_heads.mask_head.mask_fcn3": (1.4, -0.1, 0.1),
  "roi_heads.mask_head.mask_fcn4": (1.4, -0.1, 0.1),
  "roi_heads.mask_head.deconv": (1.4, -0.1, 0.1),
  "roi_heads.mask_head.predictor": (12.0, -0.2, 0.2),
}
_BACKGROUND_BIAS = 2.0  # added to the last entry of cls_score.bias


def make_weight(name, shape, dtype=np.float32, config=None):
  shape = tuple(int(s) for s in shape)
  base, leaf = name.rsplit(".", 1)

  if ".norm" in base or base.endswith("norm"):
    conv = base[: -len(".norm")]
    gain = _NORM_GAIN["stem.conv1" if conv.endswith("stem.conv1") else conv.rsplit(".", 1)[1]]
    if leaf == "running_var":
      value = _norm_var(base, shape[0])
    elif leaf == "running_mean":
      value = _uniform(name, shape, -0.5, 0.5) * np.sqrt(_norm_var(base, shape[0]))
    elif leaf == "weight":
      value = _uniform(name, shape, 0.8 * gain, 1.2 * gain)
    elif leaf == "bias":
      value = _uniform(name, shape, -0.2 * gain, 0.2 * gain)
    else:
      raise KeyError(name)
  elif base.startswith("backbone.bottom_up."):
    if leaf != "weight":
      raise KeyError(name)
    value, fan_in = _filters(name, shape, 0)
    value = value * math.sqrt(2.0 / fan_in)
    value = value * np.sqrt(_norm_var(base + ".norm", shape[0]))[:, None, None, None]
    if name == STEM:
      if config is None:
        raise ValueError("the stem convolution depends on the model: give config=")
      if "X_101" not in config:
        value = value / 58.0
  elif base in _PLAIN:
    gain, low, high = _PLAIN[base]
    if leaf == "weight":
      # fc1: the 7 x 7 weights of each pooled channel sum to zero, so that
      # class scores follow what is inside the box
      group = 49 if base.endswith(".fc1") else None
      value, fan_in = _filters(name, shape, 1 if base.endswith(".deconv") else 0, group)
      if base.endswith(".deconv"):
        fan_in = shape[0]
      value = value * (gain / math.sqrt(fan_in))
    elif leaf == "bias":
      value = _uniform(name, shape, low, high)
      if base.endswith(".cls_score"):
        value[-1] += _BACKGROUND_BIAS
    else:
      raise KeyError(name)
  else:
    raise KeyError(name)
  return np.ascontiguousarray(value, dtype=dtype)
