"""Seconds of codecs with a context model, stage by stage, and the gain of wavefronts.

  stage           encoding                           decoding
  transforms      g_a                                g_s
  hyperprior      h_a, z to bytes, h_s to psi        bytes to z, h_s to psi
  context_loop    the context model's networks, wavefront after wavefront, for given y
  range_coder     the whole loop that writes y       the whole loop that reads y
                  less its networks                  less its networks

The same model also decodes position by position, as in the papers (`raster_order`); both orders
must give the same symbols.

Weights are random: only the range coder's time depends on them, as it grows with the bits. So
latents and the scales that are predicted for them get the spread of a trained model's
(`random_codec`).
"""

from __future__ import annotations

import concurrent.futures
import functools
import importlib.metadata
import json
import math
import multiprocessing
import os
import platform
import re
import resource
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import process
from typing import Callable, NamedTuple

import numpy as np
import tensorflow as tf

from khuvcm_tf import atomic_files, bitstream, codecs, errors
from khuvcm_tf.codecs import codec as codec_lib
from khuvcm_tf.data import image_files, sample_photos
from khuvcm_tf.entropy import calibration
from khuvcm_tf.entropy.integer import context as integer_context
from khuvcm_tf.entropy.integer import range_coder
from khuvcm_tf.ops import color

STAGES = ("transforms", "hyperprior", "context_loop", "range_coder")
PHOTO = "coffee"

# At the papers' sizes; a given number of filters takes the place of each.
_ARGUMENTS = {
  "mbt2018": {"num_filters": 192, "latent_depth": 192},
  "cheng2020": {"num_filters": 128},
}
# Standard deviations of a trained model's channels: many of them hold next to nothing. These give
# 0.3 to 0.5 bits a pixel, as of models for middle rates.
_SPREAD = (0.02, 1.5)
# Integers may cost any amount, as these models are only timed.
_MAX_LOSS = 9.0
# So many positions are coded once in raster order: that is slow, and a mean of many equal steps.
_MANY = 4096
# Seconds after which a stage is not repeated.
_ENOUGH = 10.0


class BenchmarkError(errors.Error):
  """A benchmark that cannot be run, or whose decoders disagree."""


class Size(NamedTuple):
  """Of an image, in pixels."""

  width: int
  height: int

  def __str__(self):
    return f"{self.width}x{self.height}"


class Measured(NamedTuple):
  """The seconds and memory of a codec for an image.

  Attributes:
    encode, decode: seconds of each of `STAGES`.
    wavefront, raster: seconds of the whole decoding loop, networks and range coder.
    bits_per_pixel: of both substreams.
    peak_mib: most memory of the process that encoded and decoded, before the raster order.
  """

  codec: str
  size: Size
  encode: dict[str, float]
  decode: dict[str, float]
  wavefront: float
  raster: float
  bits_per_pixel: float
  peak_mib: float


def run(
  names: Sequence[str],
  sizes: Sequence[Size],
  image: str | None = None,
  num_filters: int | None = None,
  repeats: int = 5,
  num_threads: int = 0,
) -> list[Measured]:
  """Measures each codec at each size, each in a process of its own, so that peaks are its own.

  Another process has converted the model before: that takes memory that coding does not.

  Args:
    names: of codecs with a context model.
    sizes: of the images.
    image: an image's file, None for scikit-image's `PHOTO`; brought to size by `at_size`.
    num_filters: None for the papers'.
    repeats: runs of each stage after its first call, within _ENOUGH seconds; the fastest counts.
    num_threads: of TensorFlow, 0 for its default.

  Raises:
    BenchmarkError: a name is none, a process was killed, or decoders disagree.
    image_files.ImageError: the image cannot be read.
  """
  for name in names:
    if name not in _ARGUMENTS:
      raise BenchmarkError(
        f"found codec {name!r}, expected one with a context model: {', '.join(_ARGUMENTS)}"
      )
  if not names or not sizes:
    raise BenchmarkError("found no codec or no size, expected at least one of each")
  photo = sample_photos.load()[PHOTO] if image is None else image_files.read_image(image)
  found = []
  for name in dict.fromkeys(names):
    for size in dict.fromkeys(sizes):
      image = at_size(photo, size)
      try:
        integers = _elsewhere(num_threads, prepare, name, image, num_filters)
        found.append(_elsewhere(num_threads, measure, name, image, integers, num_filters, repeats))
      except process.BrokenProcessPool as error:
        raise BenchmarkError(
          f"the process that measured {name} at {size} was killed, most often for want of memory; "
          "give smaller --sizes, or use a larger machine"
        ) from error
  return found


def _elsewhere(num_threads: int, function, *args):
  """Returns what a function returns in a new process."""
  context = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(1, context, _start, (num_threads,)) as pool:
    return pool.submit(function, *args).result()


def _start(num_threads: int):
  """Prepares a process that measures."""
  signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback.
  tf.config.threading.set_intra_op_parallelism_threads(num_threads)
  tf.config.threading.set_inter_op_parallelism_threads(num_threads)


def parse_size(text: str) -> Size:
  """Reads a size.

  Raises:
    BenchmarkError: it is none.

  Example:
    >>> parse_size("768x512")
    Size(width=768, height=512)
  """
  found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
  if not found or max(map(int, found.groups())) > bitstream.MAX_SIDE:
    raise BenchmarkError(
      f"found size {text!r}, expected WIDTHxHEIGHT such as 768x512, sides of 1 to "
      f"{bitstream.MAX_SIDE}"
    )
  return Size(int(found[1]), int(found[2]))


def at_size(photo: np.ndarray, size: Size) -> np.ndarray:
  """Crops a photo at its right and lower edges, or mirrors it there.

  Args:
    photo: uint8 [H, W, 3] or [H, W, 1].
    size: of the result.

  Returns:
    uint8 [size.height, size.width, 3].
  """
  photo = photo[: size.height, : size.width]
  missing = ((0, size.height - photo.shape[0]), (0, size.width - photo.shape[1]), (0, 0))
  return np.tile(np.pad(photo, missing, "symmetric"), (1, 1, 3 // photo.shape[2]))


def random_codec(name: str, num_filters: int | None, image: np.ndarray) -> codec_lib.Codec:
  """Builds a codec with random weights whose latents are spread like a trained model's.

  Channel c of y has mean 0 and standard deviation s_c on the image, and the context model predicts
  N(mu, s_c^2) for its latents, up to what the random networks add to mu and log s_c. The s_c are
  spaced evenly on a logarithmic scale, in random order.

  Args:
    name: of a codec with a context model.
    num_filters: None for the paper's.
    image: uint8 [H, W, 3].
  """
  tf.keras.utils.set_random_seed(0)
  codec = codecs.create(name, **{key: num_filters or n for key, n in _ARGUMENTS[name].items()})
  y = _latents(codec, image[np.newaxis]).numpy()
  spread = np.random.default_rng(0).permutation(np.geomspace(*_SPREAD, y.shape[-1]))
  factor = spread / np.maximum(y.std((0, 1, 2)), 1e-6)
  rescaling = tf.keras.layers.Rescaling(factor, -factor * y.mean((0, 1, 2)))
  codec.branches[0].g_a.layers.append(rescaling)
  bias = codec.named_weights()["entropy_parameters/conv2/bias"]
  log_scales = np.tile(np.log(spread), codec.branches[0].entropy_model.num_mixtures)
  bias.assign(np.append(bias.numpy()[: -log_scales.size], log_scales))
  return codec


def raster_order(model: integer_context.IntegerContext, code, state, symbols, psi):
  """Codes all positions, one after the other: `IntegerContext.in_order` as papers describe it.

  Args:
    model: with the networks.
    code: (state, values int32 [1, M], params int32 [1, 3 K M]) -> (state, values), of a position.
    state: its first state.
    symbols: int32 [h, w, M], values that `code` is given.
    psi: int32 [1, h, w, F].

  Returns:
    The last state, and the symbols that `code` has returned.
  """
  height, width, depth = tf.shape(psi)[1], tf.shape(psi)[2], model.depth

  def one_row(row, state, recent, found):
    def one_position(column, state, recent, found):
      neighbourhood = tf.reshape(recent[:, column : column + 5], (15, depth))
      phi = model.context(tf.reshape(neighbourhood[:12], (1, 1, 1, 12 * depth)))
      psi_here = psi[:, row : row + 1, column : column + 1]
      params = model.parameters(tf.concat([phi, psi_here], axis=-1))
      state, values = code(state, symbols[row, column][tf.newaxis], params[0, 0])
      recent = tf.tensor_scatter_nd_update(recent, [[2, column + 2]], values)
      return column + 1, state, recent, found.write(row * width + column, values[0])

    _, state, recent, found = range_coder.loop(
      lambda column, *_: column < width, one_position, (0, state, recent, found)
    )
    return row + 1, state, tf.pad(recent[1:], ((0, 1), (0, 0), (0, 0))), found

  # Two rows above and the row itself, with zeros around them. TensorFlow copies what a loop
  # updates: to carry the whole image would cost more than the networks, in favour of wavefronts.
  recent = tf.zeros(tf.stack([3, width + 4, depth]), tf.int32)
  found = tf.TensorArray(tf.int32, height * width, element_shape=(depth,))
  _, state, _, found = range_coder.loop(
    lambda row, *_: row < height, one_row, (0, state, recent, found)
  )
  return state, tf.reshape(found.stack(), tf.stack([height, width, depth]))


def prepare(name: str, image: np.ndarray, num_filters: int | None = None) -> dict[str, np.ndarray]:
  """Converts the entropy model of `random_codec`; returns its arrays."""
  _report(name, image, "conversion to integers")
  codec = random_codec(name, num_filters, image)
  y = _latents(codec, image[np.newaxis])
  return calibration.convert(codec.branches[0].entropy_model, [y], _MAX_LOSS).model.to_arrays()


def measure(
  name: str,
  image: np.ndarray,
  integers: dict[str, np.ndarray],
  num_filters: int | None = None,
  repeats: int = 5,
) -> Measured:
  """Encodes and decodes an image, stage by stage.

  Args:
    name: of a codec with a context model.
    image: uint8 [H, W, 3].
    integers: of `prepare`.
    num_filters: None for the paper's.
    repeats: runs of each stage after its first call, within _ENOUGH seconds; the fastest counts.

  Raises:
    BenchmarkError: decoders disagree.
  """

  def best(what, graph, *args):
    _report(name, image, what)
    graph(*args)
    return _fastest(repeats, graph, *args)

  codec = random_codec(name, num_filters, image)
  model = codec.branches[0].entropy_model.integer_class.from_arrays(integers)

  analysis, synthesis = _transforms(codec)
  write_z, read_z = _hyperprior(codec, model)
  loop = _loop(model, functools.partial(model.in_order, skew=integer_context.SKEW))
  t_analysis, y = best("transforms, encoding", analysis, tf.constant(image[np.newaxis]))
  symbols = tf.cast(tf.round(y[0]), tf.int32)
  t_write_z, (z_bytes, psi) = best("hyperprior, encoding", write_z, y)
  t_write_y, y_bytes = best("wavefronts, encoding", loop.write, symbols, psi)

  t_read_z, (z_exact, found) = best("hyperprior, decoding", read_z, z_bytes, *y.shape[1:3])
  _check(z_exact.numpy() and np.array_equal(found, psi), name, "psi")
  t_read_y, (y_exact, found) = best("wavefronts, decoding", loop.read, y_bytes, psi)
  _check(y_exact.numpy() and np.array_equal(found, symbols), name, "symbols in wavefronts")
  y_hat = tf.cast(found, tf.float32)[tf.newaxis]
  t_synthesis, _ = best("transforms, decoding", synthesis, y_hat, *image.shape[:2])
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB

  t_networks, _ = best("wavefronts, networks alone", loop.networks, symbols, psi)
  _report(name, image, "raster order, for comparison")
  t_raster, y_exact, found = _in_raster_order(model, symbols, psi, repeats)
  _check(y_exact.numpy() and np.array_equal(found, symbols), name, "symbols in raster order")

  def stages(transforms, hyperprior, whole_loop):
    range_coding = max(0.0, whole_loop - t_networks)
    return dict(zip(STAGES, (transforms, hyperprior, t_networks, range_coding)))

  pixels = image.shape[0] * image.shape[1]
  return Measured(
    name,
    Size(image.shape[1], image.shape[0]),
    stages(t_analysis, t_write_z, t_write_y),
    stages(t_synthesis, t_read_z, t_read_y),
    t_read_y,
    t_raster,
    8 * (len(z_bytes.numpy()) + len(y_bytes.numpy())) / pixels,
    peak,
  )


def _in_raster_order(model: integer_context.IntegerContext, symbols, psi, repeats: int):
  """Returns the seconds of decoding, whether the bytes are right, and the decoded symbols."""
  loop = _loop(model, functools.partial(raster_order, model))
  corner = psi[:, :4, :4]
  loop.read(loop.write(symbols[:4, :4], corner), corner)  # the first call
  positions = symbols.shape[0] * symbols.shape[1]
  times = min(repeats, 2 if positions < _MANY else 1)
  seconds, (y_exact, found) = _fastest(times, loop.read, loop.write(symbols, psi), psi)
  return seconds, y_exact, found


def _report(name: str, image: np.ndarray, what: str):
  print(f"{name} {image.shape[1]}x{image.shape[0]}: {what}", file=sys.stderr, flush=True)


def _fastest(times: int, graph, *args):
  """Returns the seconds of the fastest call, and what the last one has returned."""
  least, total = math.inf, 0.0
  for _ in range(times):
    start = time.perf_counter()
    result = graph(*args)
    tf.nest.map_structure(lambda each: each.numpy(), result)  # waits for a GPU
    seconds = time.perf_counter() - start
    least, total = min(least, seconds), total + seconds
    if total > _ENOUGH:
      break
  return least, result


def _check(same: bool, name: str, what: str):
  if not same:
    raise BenchmarkError(
      f"{name} decoded other {what} than were encoded; the machine's arithmetic is not exact, or "
      "the coder is broken: run the tests"
    )


def _graph(function, *signature):
  # Nothing here branches in Python on tensors, which AutoGraph would rewrite.
  return tf.function(function, signature, autograph=False)


def _latents(codec: codec_lib.Codec, images: tf.Tensor) -> tf.Tensor:
  """Returns y of RGB images, uint8 [B, H, W, 3]."""
  (y,) = codec.latents(codec.planes(images))
  return y


def _transforms(codec: codec_lib.Codec):
  """Returns graphs of g_a and g_s: of any image, as in `coding.Model`."""

  def synthesis(y_hat, height, width):
    return color.levels(codec.input_format.to_rgb(codec.decode([y_hat], height, width)))

  side = tf.TensorSpec((), tf.int32)
  y_hat = tf.TensorSpec((1, None, None, codec.branches[0].entropy_model.latent_depth), tf.float32)
  return (
    _graph(lambda images: _latents(codec, images), tf.TensorSpec((1, None, None, 3), tf.uint8)),
    _graph(synthesis, y_hat, side, side),
  )


def _hyperprior(codec: codec_lib.Codec, model: integer_context.IntegerContext):
  """Returns graphs: y to bytes of z and psi; bytes and y's height and width to whether the bytes
  are right, and psi."""

  def write(y):
    z = codec.branches[0].entropy_model.side_information(y)
    with tf.device("CPU:0"), range_coder.without_xla():
      data, z = model.code_z(model.table_coder.encoder(), model.symbols_of_z(z))
      return data, model.hyper(model.z_hat(z))

  def read(data, height, width):
    with tf.device("CPU:0"), range_coder.without_xla():
      exact, z = model.code_z(model.table_coder.decoder(data), model.blank_z(height, width))
      return exact, model.hyper(model.z_hat(z))

  side = tf.TensorSpec((), tf.int32)
  return (
    _graph(write, tf.TensorSpec((1, None, None, model.depth), tf.float32)),
    _graph(read, tf.TensorSpec((), tf.string), side, side),
  )


class _Loop(NamedTuple):
  """Graphs of the loop over y's positions.

  Attributes:
    networks: (symbols, psi) -> a result that is not used; codes nothing.
    write: (symbols, psi) -> bytes.
    read: (bytes, psi) -> (whether they are what their symbols encode to, symbols).
  """

  networks: Callable
  write: Callable
  read: Callable


def _loop(model: integer_context.IntegerContext, order) -> _Loop:
  """Makes the graphs of the loop in an order: (code, state, symbols, psi) -> (state, symbols)."""

  def coded(coder, symbols, psi):
    with tf.device("CPU:0"), range_coder.without_xla():
      state, symbols = order(
        functools.partial(model.y_coder.code, coder), coder.init(), symbols, psi
      )
      return coder.finalize(state), symbols

  def networks(symbols, psi):
    with tf.device("CPU:0"), range_coder.without_xla():
      return order(
        lambda total, values, params: (total + tf.reduce_sum(params), values),
        tf.constant(0),
        symbols,
        psi,
      )

  def write(symbols, psi):
    return coded(model.y_coder.encoder(), symbols, psi)[0]

  def read(data, psi):
    blank = tf.zeros(tf.concat([tf.shape(psi)[1:3], [model.depth]], 0), tf.int32)
    return coded(model.y_coder.decoder(data), blank, psi)

  symbols = tf.TensorSpec((None, None, model.depth), tf.int32)
  psi = tf.TensorSpec((1, None, None, model.hyper.filters), tf.int32)
  return _Loop(
    _graph(networks, symbols, psi),
    _graph(write, symbols, psi),
    _graph(read, tf.TensorSpec((), tf.string), psi),
  )


def table(measured: Sequence[Measured]) -> str:
  """Returns all that was measured as text, below 100 columns."""
  head = f"{'seconds':<10} {'size':<11} {'':<6}" + "".join(f" {name:>13}" for name in STAGES)
  lines = [f"{head} {'total':>10}"]
  for each in measured:
    lines.append("-" * len(lines[0]))
    name, size = each.codec, str(each.size)
    for direction, stages in (("encode", each.encode), ("decode", each.decode)):
      row = "".join(f" {stages[stage]:>13.3f}" for stage in STAGES)
      lines.append(f"{name:<10} {size:<11} {direction}{row} {sum(stages.values()):>10.3f}")
      name = size = ""
  lines += [
    "",
    f"{'y decoded':<10} {'size':<11} {'raster order':>14} {'wavefronts':>12} "
    f"{'raster/wavefront':>18} {'bits/pixel':>12} {'peak MiB':>10}",
  ]
  lines.append("-" * len(lines[-1]))
  for each in measured:
    lines.append(
      f"{each.codec:<10} {str(each.size):<11} {each.raster:>12.3f} s {each.wavefront:>10.3f} s "
      f"{each.raster / each.wavefront:>18.2f} {each.bits_per_pixel:>12.3f} {each.peak_mib:>10.0f}"
    )
  return "\n".join(lines)


def write_json(path: str, measured: Sequence[Measured]) -> None:
  """Writes the measurements as JSON, whole or not at all.

  {codec: {"768x512": {"encode": {stage: seconds}, "decode": {stage: seconds},
                       "raster_over_wavefront": of the decoding loops, "peak_mib": memory}}}

  Raises:
    image_files.ImageError: the file cannot be written.
  """
  content: dict[str, dict] = {}
  for each in measured:
    content.setdefault(each.codec, {})[str(each.size)] = {
      "encode": each.encode,
      "decode": each.decode,
      "raster_over_wavefront": each.raster / each.wavefront,
      "peak_mib": each.peak_mib,
    }
  atomic_files.write_text(path, json.dumps(content, indent=2) + "\n")


def machine() -> str:
  """Returns processor, cores and versions on one line."""
  processor = platform.machine()
  if os.path.exists("/proc/cpuinfo"):
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
      names = re.findall(r"^model name\s*: (.*)$", file.read(), re.M)
    processor = names[0] if names else processor
  versions = ", ".join(
    f"{name} {importlib.metadata.version(name)}"
    for name in ("tensorflow", "tensorflow-compression")
  )
  return f"{processor}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"
