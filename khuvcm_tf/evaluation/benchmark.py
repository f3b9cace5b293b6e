"""How long codecs with a context model take, stage by stage, and what wavefronts save.

  stage           encoding                           decoding
  transforms      g_a                                g_s
  hyperprior      h_a, z to bytes, h_s to psi        bytes to z, h_s to psi
  context_loop    the context model's networks, wavefront after wavefront, where y is known
  range_coder     the whole loop that writes y       the whole loop that reads y
                  less its networks                  less its networks

The same model also decodes place by place, as the papers say it (`raster_order`); both orders must
give the same symbols.

Weights are random: time does not depend on what they have learned, but for the range coder's, which
grows with the bits. So latents, and what the model tells of them, get the spread of a trained
model's (`random_codec`).
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

from khuvcm_tf import bitstream, codecs, errors
from khuvcm_tf.data import images, sample_photos
from khuvcm_tf.entropy import exact, integer_context, range_coder
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
# What integers may cost: any amount, as these models are of no use but for their time.
_LIMIT = 9.0
# So many places pass in raster order once: that is slow, and a mean of many equal steps.
_MANY = 4096
# Seconds after which a stage is not repeated.
_ENOUGH = 10.0


class BenchmarkError(errors.Error):
  """A benchmark that cannot be run, or whose decoders disagree."""


class Size(NamedTuple):
  """Of a picture, in pixels."""

  width: int
  height: int

  def __str__(self):
    return f"{self.width}x{self.height}"


class Measured(NamedTuple):
  """What a codec takes for a picture.

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
    sizes: of the pictures.
    image: a picture's file, None for scikit-image's `PHOTO`; brought to size by `at_size`.
    num_filters: None for the papers'.
    repeats: how often each stage runs after its first call, within _ENOUGH; the fastest counts.
    num_threads: of TensorFlow, 0 for its default.

  Raises:
    BenchmarkError: a name is none, a process was killed, or decoders disagree.
    images.ImageError: the picture cannot be read.
  """
  for name in names:
    if name not in _ARGUMENTS:
      raise BenchmarkError(
        f"found codec {name!r}, expected one with a context model: {', '.join(_ARGUMENTS)}"
      )
  if not names or not sizes:
    raise BenchmarkError("found no codec or no size, expected at least one of each")
  photo = sample_photos.load()[PHOTO] if image is None else images.read_image(image)
  found = []
  for name in dict.fromkeys(names):
    for size in dict.fromkeys(sizes):
      picture = at_size(photo, size)
      try:
        integers = _elsewhere(num_threads, prepare, name, picture, num_filters)
        found.append(
          _elsewhere(num_threads, measure, name, picture, integers, num_filters, repeats)
        )
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


def random_codec(name: str, num_filters: int | None, picture: np.ndarray) -> codecs.Codec:
  """Builds a codec with random weights whose latents are spread like a trained model's.

  Channel c of y has mean 0 and standard deviation s_c on the picture, and the context model takes
  its latents for N(mu, s_c^2), but for what the random networks add to mu and log s_c. The s_c are
  spaced evenly on a logarithmic scale, in random order.

  Args:
    name: of a codec with a context model.
    num_filters: None for the paper's.
    picture: uint8 [H, W, 3].
  """
  tf.keras.utils.set_random_seed(0)
  codec = codecs.create(name, **{key: num_filters or n for key, n in _ARGUMENTS[name].items()})
  y = _latents(codec, picture[np.newaxis]).numpy()
  spread = np.random.default_rng(0).permutation(np.geomspace(*_SPREAD, y.shape[-1]))
  factor = spread / np.maximum(y.std((0, 1, 2)), 1e-6)
  codec.branches[0].analysis.add(tf.keras.layers.Rescaling(factor, -factor * y.mean((0, 1, 2))))
  bias = codec.named_weights()["entropy_parameters/conv2/bias"]
  log_scales = np.tile(np.log(spread), codec.branches[0].latent_coder.num_mixtures)
  bias.assign(np.append(bias.numpy()[: -log_scales.size], log_scales))
  return codec


def raster_order(coder: integer_context.IntegerContext, code, state, symbols, psi):
  """Passes all places, one after the other: `IntegerContext.in_order` as one reads it in a paper.

  Args:
    coder: of which the networks are taken.
    code: (state, values int32 [1, M], told int32 [1, 3 K M]) -> (state, values), of a place.
    state: its first state.
    symbols: int32 [h, w, M], what `code` is given.
    psi: int32 [1, h, w, F].

  Returns:
    The last state, and the symbols that `code` has returned.
  """
  height, width, depth = tf.shape(psi)[1], tf.shape(psi)[2], coder.depth

  def one_row(row, state, near, found):
    def one_place(column, state, near, found):
      around = tf.reshape(near[:, column : column + 5], (15, depth))
      phi = coder.context(tf.reshape(around[:12], (1, 1, 1, 12 * depth)))
      psi_here = psi[:, row : row + 1, column : column + 1]
      told = coder.parameters(tf.concat([phi, psi_here], axis=-1))
      state, values = code(state, symbols[row, column][tf.newaxis], told[0, 0])
      near = tf.tensor_scatter_nd_update(near, [[2, column + 2]], values)
      return column + 1, state, near, found.write(row * width + column, values[0])

    _, state, near, found = range_coder.loop(
      lambda column, *_: column < width, one_place, (0, state, near, found)
    )
    return row + 1, state, tf.pad(near[1:], ((0, 1), (0, 0), (0, 0))), found

  # Two rows above and the row itself, with zeros around. TensorFlow copies what a loop updates, so
  # that carrying the whole picture would cost more than the networks, to wavefronts' favour.
  near = tf.zeros(tf.stack([3, width + 4, depth]), tf.int32)
  found = tf.TensorArray(tf.int32, height * width, element_shape=(depth,))
  _, state, _, found = range_coder.loop(
    lambda row, *_: row < height, one_row, (0, state, near, found)
  )
  return state, tf.reshape(found.stack(), tf.stack([height, width, depth]))


def prepare(
  name: str, picture: np.ndarray, num_filters: int | None = None
) -> dict[str, np.ndarray]:
  """Converts the latent coder of `random_codec`; returns its state."""
  _tell(name, picture, "conversion to integers")
  codec = random_codec(name, num_filters, picture)
  y = _latents(codec, picture[np.newaxis])
  return exact.convert(codec.branches[0].latent_coder, [y], _LIMIT).coder.state()


def measure(
  name: str,
  picture: np.ndarray,
  integers: dict[str, np.ndarray],
  num_filters: int | None = None,
  repeats: int = 5,
) -> Measured:
  """Encodes and decodes a picture, stage by stage.

  Args:
    name: of a codec with a context model.
    picture: uint8 [H, W, 3].
    integers: of `prepare`.
    num_filters: None for the paper's.
    repeats: how often each stage runs after its first call, within _ENOUGH; the fastest counts.

  Raises:
    BenchmarkError: decoders disagree.
  """

  def best(what, graph, *args):
    _tell(name, picture, what)
    graph(*args)
    return _fastest(repeats, graph, *args)

  codec = random_codec(name, num_filters, picture)
  coder = exact.from_state(codec.branches[0].latent_coder, integers)

  analysis, synthesis = _transforms(codec)
  write_z, read_z = _hyperprior(codec, coder)
  loop = _loop(coder, functools.partial(coder.in_order, skew=integer_context.SKEW))
  t_analysis, y = best("transforms, encoding", analysis, tf.constant(picture[np.newaxis]))
  symbols = tf.cast(tf.round(y[0]), tf.int32)
  t_write_z, (z_bytes, psi) = best("hyperprior, encoding", write_z, y)
  t_write_y, y_bytes = best("wavefronts, encoding", loop.write, symbols, psi)

  t_read_z, (z_exact, told) = best("hyperprior, decoding", read_z, z_bytes, *y.shape[1:3])
  _check(z_exact.numpy() and np.array_equal(told, psi), name, "psi")
  t_read_y, (y_exact, found) = best("wavefronts, decoding", loop.read, y_bytes, psi)
  _check(y_exact.numpy() and np.array_equal(found, symbols), name, "symbols in wavefronts")
  y_hat = tf.cast(found, tf.float32)[tf.newaxis]
  t_synthesis, _ = best("transforms, decoding", synthesis, y_hat, *picture.shape[:2])
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB

  t_networks, _ = best("wavefronts, networks alone", loop.networks, symbols, psi)
  _tell(name, picture, "raster order, for comparison")
  t_raster, y_exact, found = _in_raster_order(coder, symbols, psi, repeats)
  _check(y_exact.numpy() and np.array_equal(found, symbols), name, "symbols in raster order")

  def stages(transforms, hyperprior, whole_loop):
    range_coding = max(0.0, whole_loop - t_networks)
    return dict(zip(STAGES, (transforms, hyperprior, t_networks, range_coding)))

  pixels = picture.shape[0] * picture.shape[1]
  return Measured(
    name,
    Size(picture.shape[1], picture.shape[0]),
    stages(t_analysis, t_write_z, t_write_y),
    stages(t_synthesis, t_read_z, t_read_y),
    t_read_y,
    t_raster,
    8 * (len(z_bytes.numpy()) + len(y_bytes.numpy())) / pixels,
    peak,
  )


def _in_raster_order(coder: integer_context.IntegerContext, symbols, psi, repeats: int):
  """Returns the seconds of decoding, whether the bytes are right, and the decoded symbols."""
  loop = _loop(coder, functools.partial(raster_order, coder))
  corner = psi[:, :4, :4]
  loop.read(loop.write(symbols[:4, :4], corner), corner)  # the first call
  places = symbols.shape[0] * symbols.shape[1]
  times = min(repeats, 2 if places < _MANY else 1)
  seconds, (y_exact, found) = _fastest(times, loop.read, loop.write(symbols, psi), psi)
  return seconds, y_exact, found


def _tell(name: str, picture: np.ndarray, what: str):
  print(f"{name} {picture.shape[1]}x{picture.shape[0]}: {what}", file=sys.stderr, flush=True)


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


def _latents(codec: codecs.Codec, pictures: tf.Tensor) -> tf.Tensor:
  """Returns y of RGB pictures, uint8 [B, H, W, 3]."""
  (y,) = codec.latents(codec.planes(pictures))
  return y


def _transforms(codec: codecs.Codec):
  """Returns graphs of g_a and g_s: of any picture, as in `coding.Model`."""

  def synthesis(y_hat, height, width):
    return color.levels(codec.picture_format.rgb(codec.decode([y_hat], height, width)))

  side = tf.TensorSpec((), tf.int32)
  y_hat = tf.TensorSpec((1, None, None, codec.branches[0].latent_coder.latent_depth), tf.float32)
  return (
    _graph(lambda pictures: _latents(codec, pictures), tf.TensorSpec((1, None, None, 3), tf.uint8)),
    _graph(synthesis, y_hat, side, side),
  )


def _hyperprior(codec: codecs.Codec, coder: integer_context.IntegerContext):
  """Returns graphs: y to bytes of z and psi; bytes and y's height and width to whether the bytes
  are right, and psi."""

  def write(y):
    z = codec.branches[0].latent_coder.side_information(y)
    with tf.device("CPU:0"), range_coder.uncompiled():
      data, z = coder.pass_z(coder.table_coder.writer(), coder.symbols_of_z(z))
      return data, coder.hyper(coder.z_hat(z))

  def read(data, height, width):
    with tf.device("CPU:0"), range_coder.uncompiled():
      exact, z = coder.pass_z(coder.table_coder.reader(data), coder.unknown_z(height, width))
      return exact, coder.hyper(coder.z_hat(z))

  side = tf.TensorSpec((), tf.int32)
  return (
    _graph(write, tf.TensorSpec((1, None, None, coder.depth), tf.float32)),
    _graph(read, tf.TensorSpec((), tf.string), side, side),
  )


class _Loop(NamedTuple):
  """Graphs of the loop over y's places.

  Attributes:
    networks: (symbols, psi) -> what nobody needs; codes nothing.
    write: (symbols, psi) -> bytes.
    read: (bytes, psi) -> (whether they are what their symbols encode to, symbols).
  """

  networks: Callable
  write: Callable
  read: Callable


def _loop(coder: integer_context.IntegerContext, order) -> _Loop:
  """Makes the graphs of the loop in an order: (code, state, symbols, psi) -> (state, symbols)."""

  def coded(stream, symbols, psi):
    with tf.device("CPU:0"), range_coder.uncompiled():
      state, symbols = order(
        functools.partial(coder.y_coder.code, stream), stream.open(), symbols, psi
      )
      return stream.close(state), symbols

  def networks(symbols, psi):
    with tf.device("CPU:0"), range_coder.uncompiled():
      return order(
        lambda total, values, told: (total + tf.reduce_sum(told), values),
        tf.constant(0),
        symbols,
        psi,
      )

  def write(symbols, psi):
    return coded(coder.y_coder.writer(), symbols, psi)[0]

  def read(data, psi):
    unknown = tf.zeros(tf.concat([tf.shape(psi)[1:3], [coder.depth]], 0), tf.int32)
    return coded(coder.y_coder.reader(data), unknown, psi)

  symbols = tf.TensorSpec((None, None, coder.depth), tf.int32)
  psi = tf.TensorSpec((1, None, None, coder.hyper.filters), tf.int32)
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
    images.ImageError: the file cannot be written.
  """
  content: dict[str, dict] = {}
  for each in measured:
    content.setdefault(each.codec, {})[str(each.size)] = {
      "encode": each.encode,
      "decode": each.decode,
      "raster_over_wavefront": each.raster / each.wavefront,
      "peak_mib": each.peak_mib,
    }
  images.write_text(path, json.dumps(content, indent=2) + "\n")


def check_writable(path: str) -> None:
  """Raises BenchmarkError where no file can be written: better before minutes of measuring."""
  folder = os.path.dirname(os.path.abspath(path))
  if os.path.isdir(path) or not os.access(folder, os.W_OK):
    raise BenchmarkError(f"{path}: cannot be written; expected a file's name in a writable folder")


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
