"""Deterministic parameters, made from their names alone (numpy only).

    array = make_weight(codec, name, shape)

gives the same float32 bits on every machine: raw PCG64 words (seeded with the
sha256 of "codec/name") become uniforms in [0, 1) and after that only + - * /
and sqrt are used, which IEEE 754 fixes.  The one exception are the quantiles of
the factorised density, found by bisection and then put on a grid of 1/32.

`name` is the key in the state_dict.  The three spellings of the factorised
density that are in circulation give the same array:
    entropy_bottleneck.matrices.0   entropy_bottleneck._matrix0
    entropy_bottleneck._matrices.0  (likewise biases / factors)

The gains in GAINS were measured once so that the layers' outputs keep a sane
size (see README.md); they are plain constants, part of the definition.
"""

import hashlib
import json
import os

import numpy as np

CODECS = (
  "bmshj2018-factorized",
  "bmshj2018-hyperprior",
  "mbt2018-mean",
  "mbt2018",
  "cheng2020-anchor",
  "cheng2020-attn",
)
PEDESTAL = 2.0**-36
# softplus^-1 of the per-layer slope of a logistic of scale 1.5
_MATRIX_INIT = (-1.0221, -1.0221, -1.0221, -1.0221, 0.4151)


def canonical_name(name):
  """One spelling for the factorised density's parameters."""
  head, dot, tail = name.rpartition("entropy_bottleneck.")
  if not dot:
    return name
  for old, new in (
    ("_matrices.", "matrices."),
    ("_biases.", "biases."),
    ("_factors.", "factors."),
    ("_matrix", "matrices."),
    ("_bias", "biases."),
    ("_factor", "factors."),
  ):
    if tail.startswith(old):
      return head + dot + new + tail[len(old) :]
  return name


def _uniform(key, count):
  """`count` float64 in [0, 1), multiples of 2**-53, from the key's sha256."""
  seed = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest(), "big")
  raw = np.random.PCG64(seed).random_raw(count)
  return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _signed(key, shape):
  """Uniform of mean 0 and variance 1."""
  count = int(np.prod(shape, dtype=np.int64))
  return ((_uniform(key, count) - 0.5) * np.sqrt(12.0)).reshape(shape)


def channel_profile(codec, channels):
  """Spread of the latent y per channel, 0.3 .. 12, mostly small."""
  u = _uniform(codec + "/channel-profile", channels)
  return 0.3 + 11.7 * u * u * u


def _is_transposed(codec, layer):
  if codec.startswith("cheng2020"):
    return False
  part, _, index = layer.partition(".")
  if part == "g_s":
    return index in ("0", "2", "4", "6")
  return part == "h_s" and index in ("0", "2")


def _role(codec, layer):
  """What a convolution feeds: 'y', 'params', 'scales', 'image' or ''."""
  if codec == "bmshj2018-factorized":
    special = {"g_a.6": "y", "g_s.6": "image"}
  elif codec == "bmshj2018-hyperprior":
    special = {"g_a.6": "y", "g_s.6": "image", "h_s.4": "scales"}
  elif codec == "mbt2018-mean":
    special = {"g_a.6": "y", "g_s.6": "image", "h_s.4": "params"}
  elif codec == "mbt2018":
    special = {"g_a.6": "y", "g_s.6": "image", "entropy_parameters.4": "params"}
  elif codec == "cheng2020-anchor":
    special = {"g_a.6": "y", "g_s.7.0": "image", "entropy_parameters.4": "params"}
  elif codec == "cheng2020-attn":
    special = {"g_a.7": "y", "g_s.9.0": "image", "entropy_parameters.4": "params"}
  else:
    raise ValueError(codec)
  return special.get(layer, "")


def _row_scale(codec, role, rows):
  """Factor per output channel."""
  if role == "y" or role == "scales":
    return channel_profile(codec, rows)
  if role == "params":  # first half scales, second half means
    p = channel_profile(codec, rows // 2)
    return np.concatenate([p, p])
  return np.ones(rows)


def _conv_weight(codec, name, layer, shape):
  w = _signed(codec + "/" + name, shape)
  rows = shape[0]
  if _is_transposed(codec, layer):  # (in, out, kh, kw), stride 2
    fan_in = shape[0] * shape[2] * shape[3] / 4.0
    return w * (gain(codec, layer) / np.sqrt(fan_in))
  fan_in = shape[1] * shape[2] * shape[3]
  if layer.startswith("g_a") and shape[2] > 1:
    # mostly differences of neighbours, so that the image's mean does not
    # drown its structure
    w = 0.3 * w + 0.6 * (w - np.roll(w, 1, axis=3))
  role = _role(codec, layer)
  scale = _row_scale(codec, role, rows)
  w = w * scale[:, None, None, None] * (gain(codec, layer) / np.sqrt(fan_in))
  if role == "params":  # scales vary less than means
    half = rows // 2
    w[:half] = w[:half] * 0.5
  return w


def _conv_bias(codec, name, layer, shape):
  u = _signed(codec + "/" + name, shape)
  role = _role(codec, layer)
  if role == "image":
    return 0.5 + 0.02 * u
  if role == "scales":
    return channel_profile(codec, shape[0]) * (1.0 + 0.2 * u)
  if role == "params":
    half = shape[0] // 2
    p = channel_profile(codec, half)
    return np.concatenate([p * (1.0 + 0.2 * u[:half]), 0.3 * p * u[half:]])
  return 0.05 * u


def _density(codec, prefix, channels):
  """The factorised density's parameters in float64."""
  filters = (1, 3, 3, 3, 3, 1)
  out = []
  for i in range(5):
    m = make_weight(codec, prefix + f"matrices.{i}", (channels, filters[i + 1], filters[i]))
    b = make_weight(codec, prefix + f"biases.{i}", (channels, filters[i + 1], 1))
    f = None
    if i < 4:
      f = make_weight(codec, prefix + f"factors.{i}", (channels, filters[i + 1], 1)).astype(
        np.float64
      )
    out.append((m.astype(np.float64), b.astype(np.float64), f))
  return out


def _logits(density, x):
  for m, b, f in density:
    x = np.matmul(np.log1p(np.exp(m)), x) + b
    if f is not None:
      x = x + np.tanh(f) * np.tanh(x)
  return x


def _quantiles(codec, prefix, channels):
  """Where the logits are -21.4, 0 and 21.4, on a grid of 1/32."""
  density = _density(codec, prefix, channels)
  target = np.array([-21.416413017506358, 0.0, 21.416413017506358])
  low = np.full((channels, 1, 3), -4096.0)
  high = np.full((channels, 1, 3), 4096.0)
  for _ in range(60):
    mid = (low + high) / 2
    below = _logits(density, mid) <= target
    low = np.where(below, mid, low)
    high = np.where(below, high, mid)
  return np.round((low + high) * 16.0) / 32.0


def make_weight(codec, name, shape):
  """The float32 array for the parameter `name` of `codec`."""
  if codec not in CODECS:
    raise ValueError(f"unknown codec {codec!r}")
  name = canonical_name(name)
  shape = tuple(int(s) for s in shape)
  key = codec + "/" + name
  layer, _, leaf = name.rpartition(".")
  if ".matrices." in name:
    value = _MATRIX_INIT[int(leaf)] + 0.25 * _signed(key, shape)
  elif ".biases." in name:
    value = 0.3 * _signed(key, shape)
  elif ".factors." in name:
    value = 0.3 * _signed(key, shape)
  elif leaf == "quantiles":
    value = _quantiles(codec, layer + ".", shape[0])
  elif leaf == "beta":  # stored as sqrt(beta + 2**-36)
    u = _uniform(key, shape[0])
    value = np.sqrt(0.6 + 0.8 * u + PEDESTAL)
  elif leaf == "gamma":  # stored as sqrt(gamma + 2**-36); a third lies under
    # the bound 2**-18 (even negative) and must act as exactly zero
    c = shape[0]
    u = _uniform(key, c * c).reshape(shape)
    inverse = name.startswith("g_s")
    off = (0.05 if inverse else 0.3) / c
    value = np.sqrt(off * 2.0 * u + PEDESTAL)
    value = np.where(u < 0.33, (u - 0.25) * 1e-4, value)
    diagonal = np.sqrt((0.02 if inverse else 0.1) * (0.5 + u) + PEDESTAL)
    value = np.where(np.eye(c, dtype=bool), diagonal, value)
  elif leaf == "weight":
    value = _conv_weight(codec, name, layer, shape)
  elif leaf == "bias":
    value = _conv_bias(codec, name, layer, shape)
  else:
    raise ValueError(f"no rule for {name!r} (a constant or table, not a parameter?)")
  return np.ascontiguousarray(value.reshape(shape).astype(np.float32))


def load_shapes(codec):
  """{name: shape} of the trainable parameters at the smallest published size."""
  path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "shapes.json")
  with open(path, encoding="utf-8") as f:
    return {k: tuple(v) for k, v in json.load(f)[codec].items()}


def all_weights(codec):
  return {n: make_weight(codec, n, s) for n, s in load_shapes(codec).items()}


def checksum(weights):
  """sha256 over the names (sorted) and the float32 bytes."""
  h = hashlib.sha256()
  for name in sorted(weights):
    h.update(name.encode("utf-8"))
    h.update(np.ascontiguousarray(weights[name], dtype="<f4").tobytes())
  return h.hexdigest()


def gain(codec, layer):
  return GAINS.get(codec, {}).get(layer, 1.0)


GAINS = {
  "bmshj2018-factorized": {
    "g_a.0": 9.72,
    "g_a.2": 3.91,
    "g_a.4": 2.2,
    "g_a.6": 1.09,
    "g_s.0": 0.194,
    "g_s.2": 0.957,
    "g_s.4": 0.948,
    "g_s.6": 0.184,
  },
  "bmshj2018-hyperprior": {
    "g_a.0": 10.0,
    "g_a.2": 3.86,
    "g_a.4": 2.18,
    "g_a.6": 1.11,
    "h_a.0": 0.293,
    "h_a.2": 1.47,
    "h_a.4": 4.07,
    "h_s.0": 0.688,
    "h_s.2": 1.64,
    "h_s.4": 0.35,
    "g_s.0": 0.194,
    "g_s.2": 0.949,
    "g_s.4": 0.953,
    "g_s.6": 0.19,
  },
  "mbt2018-mean": {
    "g_a.0": 10.3,
    "g_a.2": 3.72,
    "g_a.4": 2.14,
    "g_a.6": 1.09,
    "h_a.0": 0.265,
    "h_a.2": 1.63,
    "h_a.4": 4.07,
    "h_s.0": 0.699,
    "h_s.2": 1.66,
    "h_s.4": 0.604,
    "g_s.0": 0.176,
    "g_s.2": 0.943,
    "g_s.4": 0.951,
    "g_s.6": 0.185,
  },
  "mbt2018": {
    "g_a.0": 10.7,
    "g_a.2": 3.65,
    "g_a.4": 2.2,
    "g_a.6": 1.11,
    "h_a.0": 0.29,
    "h_a.2": 1.62,
    "h_a.4": 4.01,
    "h_s.0": 0.706,
    "h_s.2": 1.64,
    "h_s.4": 1.51,
    "context_prediction": 0.45,
    "entropy_parameters.0": 0.997,
    "entropy_parameters.2": 1.43,
    "entropy_parameters.4": 0.582,
    "g_s.0": 0.19,
    "g_s.2": 0.96,
    "g_s.4": 0.944,
    "g_s.6": 0.182,
  },
  "cheng2020-anchor": {
    "g_a.0.conv1": 4.8,
    "g_a.0.conv2": 6.12,
    "g_a.0.skip": 1.11,
    "g_a.1.conv1": 1.16,
    "g_a.1.conv2": 0.907,
    "g_a.2.conv1": 1.03,
    "g_a.2.conv2": 3.11,
    "g_a.2.skip": 0.544,
    "g_a.3.conv1": 0.746,
    "g_a.3.conv2": 0.855,
    "g_a.4.conv1": 0.719,
    "g_a.4.conv2": 3.15,
    "g_a.4.skip": 0.523,
    "g_a.5.conv1": 0.681,
    "g_a.5.conv2": 0.879,
    "g_a.6": 0.79,
    "h_a.0": 0.21,
    "h_a.2": 1.55,
    "h_a.4": 1.37,
    "h_a.6": 1.56,
    "h_a.8": 4.44,
    "h_s.0": 0.62,
    "h_s.2.0": 2.06,
    "h_s.4": 1.7,
    "h_s.6.0": 1.71,
    "h_s.8": 1.55,
    "context_prediction": 0.33,
    "entropy_parameters.0": 0.999,
    "entropy_parameters.2": 1.45,
    "entropy_parameters.4": 0.685,
    "g_s.0.conv1": 0.173,
    "g_s.0.conv2": 0.882,
    "g_s.1.subpel_conv.0": 0.207,
    "g_s.1.conv": 0.974,
    "g_s.1.upsample.0": 0.12,
    "g_s.2.conv1": 0.959,
    "g_s.2.conv2": 0.839,
    "g_s.3.subpel_conv.0": 1.08,
    "g_s.3.conv": 1.0,
    "g_s.3.upsample.0": 0.632,
    "g_s.4.conv1": 0.926,
    "g_s.4.conv2": 0.853,
    "g_s.5.subpel_conv.0": 1.02,
    "g_s.5.conv": 0.94,
    "g_s.5.upsample.0": 0.593,
    "g_s.6.conv1": 0.94,
    "g_s.6.conv2": 0.864,
    "g_s.7.0": 0.177,
  },
  "cheng2020-attn": {
    "g_a.0.conv1": 5.87,
    "g_a.0.conv2": 5.39,
    "g_a.0.skip": 1.19,
    "g_a.1.conv1": 1.14,
    "g_a.1.conv2": 0.889,
    "g_a.2.conv1": 1.01,
    "g_a.2.conv2": 3.15,
    "g_a.2.skip": 0.507,
    "g_a.3.conv_a.0.conv.0": 0.771,
    "g_a.3.conv_a.0.conv.2": 1.61,
    "g_a.3.conv_a.0.conv.4": 0.689,
    "g_a.3.conv_a.1.conv.0": 0.97,
    "g_a.3.conv_a.1.conv.2": 1.81,
    "g_a.3.conv_a.1.conv.4": 0.734,
    "g_a.3.conv_a.2.conv.0": 0.898,
    "g_a.3.conv_a.2.conv.2": 1.82,
    "g_a.3.conv_a.2.conv.4": 0.697,
    "g_a.3.conv_b.0.conv.0": 0.795,
    "g_a.3.conv_b.0.conv.2": 1.59,
    "g_a.3.conv_b.0.conv.4": 0.701,
    "g_a.3.conv_b.1.conv.0": 0.958,
    "g_a.3.conv_b.1.conv.2": 2.0,
    "g_a.3.conv_b.1.conv.4": 0.71,
    "g_a.3.conv_b.2.conv.0": 0.901,
    "g_a.3.conv_b.2.conv.2": 1.89,
    "g_a.3.conv_b.2.conv.4": 0.681,
    "g_a.3.conv_b.3": 1.29,
    "g_a.4.conv1": 0.59,
    "g_a.4.conv2": 0.869,
    "g_a.5.conv1": 0.574,
    "g_a.5.conv2": 3.09,
    "g_a.5.skip": 0.383,
    "g_a.6.conv1": 0.687,
    "g_a.6.conv2": 0.874,
    "g_a.7": 0.796,
    "g_a.8.conv_a.0.conv.0": 0.177,
    "g_a.8.conv_a.0.conv.2": 1.58,
    "g_a.8.conv_a.0.conv.4": 0.73,
    "g_a.8.conv_a.1.conv.0": 0.242,
    "g_a.8.conv_a.1.conv.2": 1.74,
    "g_a.8.conv_a.1.conv.4": 0.69,
    "g_a.8.conv_a.2.conv.0": 0.253,
    "g_a.8.conv_a.2.conv.2": 1.75,
    "g_a.8.conv_a.2.conv.4": 0.698,
    "g_a.8.conv_b.0.conv.0": 0.183,
    "g_a.8.conv_b.0.conv.2": 1.59,
    "g_a.8.conv_b.0.conv.4": 0.748,
    "g_a.8.conv_b.1.conv.0": 0.244,
    "g_a.8.conv_b.1.conv.2": 1.99,
    "g_a.8.conv_b.1.conv.4": 0.765,
    "g_a.8.conv_b.2.conv.0": 0.259,
    "g_a.8.conv_b.2.conv.2": 1.81,
    "g_a.8.conv_b.2.conv.4": 0.71,
    "g_a.8.conv_b.3": 0.365,
    "h_a.0": 0.178,
    "h_a.2": 1.56,
    "h_a.4": 1.67,
    "h_a.6": 1.73,
    "h_a.8": 4.38,
    "h_s.0": 0.582,
    "h_s.2.0": 2.25,
    "h_s.4": 1.67,
    "h_s.6.0": 1.72,
    "h_s.8": 1.51,
    "context_prediction": 0.281,
    "entropy_parameters.0": 0.995,
    "entropy_parameters.2": 1.47,
    "entropy_parameters.4": 0.678,
    "g_s.0.conv_a.0.conv.0": 0.138,
    "g_s.0.conv_a.0.conv.2": 1.51,
    "g_s.0.conv_a.0.conv.4": 0.729,
    "g_s.0.conv_a.1.conv.0": 0.17,
    "g_s.0.conv_a.1.conv.2": 1.58,
    "g_s.0.conv_a.1.conv.4": 0.711,
    "g_s.0.conv_a.2.conv.0": 0.165,
    "g_s.0.conv_a.2.conv.2": 1.43,
    "g_s.0.conv_a.2.conv.4": 0.725,
    "g_s.0.conv_b.0.conv.0": 0.142,
    "g_s.0.conv_b.0.conv.2": 1.6,
    "g_s.0.conv_b.0.conv.4": 0.72,
    "g_s.0.conv_b.1.conv.0": 0.161,
    "g_s.0.conv_b.1.conv.2": 1.49,
    "g_s.0.conv_b.1.conv.4": 0.772,
    "g_s.0.conv_b.2.conv.0": 0.165,
    "g_s.0.conv_b.2.conv.2": 1.62,
    "g_s.0.conv_b.2.conv.4": 0.785,
    "g_s.0.conv_b.3": 0.257,
    "g_s.1.conv1": 0.106,
    "g_s.1.conv2": 0.926,
    "g_s.2.subpel_conv.0": 0.128,
    "g_s.2.conv": 0.982,
    "g_s.2.upsample.0": 0.0741,
    "g_s.3.conv1": 0.962,
    "g_s.3.conv2": 0.824,
    "g_s.4.subpel_conv.0": 1.06,
    "g_s.4.conv": 0.948,
    "g_s.4.upsample.0": 0.619,
    "g_s.5.conv_a.0.conv.0": 0.944,
    "g_s.5.conv_a.0.conv.2": 1.43,
    "g_s.5.conv_a.0.conv.4": 0.733,
    "g_s.5.conv_a.1.conv.0": 1.16,
    "g_s.5.conv_a.1.conv.2": 1.42,
    "g_s.5.conv_a.1.conv.4": 0.644,
    "g_s.5.conv_a.2.conv.0": 1.07,
    "g_s.5.conv_a.2.conv.2": 1.61,
    "g_s.5.conv_a.2.conv.4": 0.851,
    "g_s.5.conv_b.0.conv.0": 0.945,
    "g_s.5.conv_b.0.conv.2": 1.34,
    "g_s.5.conv_b.0.conv.4": 0.692,
    "g_s.5.conv_b.1.conv.0": 1.21,
    "g_s.5.conv_b.1.conv.2": 1.49,
    "g_s.5.conv_b.1.conv.4": 0.721,
    "g_s.5.conv_b.2.conv.0": 1.01,
    "g_s.5.conv_b.2.conv.2": 1.43,
    "g_s.5.conv_b.2.conv.4": 0.706,
    "g_s.5.conv_b.3": 1.33,
    "g_s.6.conv1": 0.709,
    "g_s.6.conv2": 0.919,
    "g_s.7.subpel_conv.0": 0.78,
    "g_s.7.conv": 0.971,
    "g_s.7.upsample.0": 0.454,
    "g_s.8.conv1": 0.939,
    "g_s.8.conv2": 0.851,
    "g_s.9.0": 0.192,
  },
}
