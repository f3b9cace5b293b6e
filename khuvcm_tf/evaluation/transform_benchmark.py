"""Seconds and multiplications of codecs' transforms, by codec and activation.

Analysis is g_a of all branches, synthesis g_s of all branches: each branch's transforms are run one
after the other, and the figures are sums. Neither colour conversion nor hyper transforms nor
entropy parameters are in them, and cross_component's encoder runs luma's synthesis besides, since
chroma is conditioned on its result.

Seconds are of the transforms as coding runs them: in graphs for images of any size, in bands.
Multiplications are those of the plain networks' convolutions, GDN's 1x1 among them; overlaps of
bands are not counted, nor are operations on single values, such as PReLU's slopes (below 1 % of
all at the papers' sizes).

Weights and latents are random: time does not depend on them.
"""

from __future__ import annotations

import functools
import json
import math
import sys
import time
from collections.abc import Sequence
from typing import Callable, NamedTuple

import numpy as np
import tensorflow as tf

from khuvcm_tf import atomic_files, codecs
from khuvcm_tf.codecs import codec as codec_lib
from khuvcm_tf.data import sample_photos
from khuvcm_tf.evaluation import coding_benchmark

# Standard deviation of the latents that a synthesis is given, before they are rounded.
_SPREAD = 2.0
# For each kind of convolution the values [1, H, W, N] that meet all of a kernel [k, k, C, N] but
# its last axis: outputs of a convolution, inputs of a transposed one.
_OUTER = {
  "Conv2D": lambda op: op.outputs[0],
  "Conv2DBackpropInput": lambda op: op.inputs[2],
}


class Part(NamedTuple):
  """A transform of a branch, and its inputs.

  Attributes:
    apply: (x, context) -> y or x_hat: `Branch.analyze` or `Branch.synthesize`.
    x: samples [1, H, W, C], or y_hat [1, h, w, M].
    decoded: of the branches before.
  """

  apply: Callable
  x: tf.Tensor
  decoded: tuple[codec_lib.DecodedBranch, ...]


class Cost(NamedTuple):
  """Of the transforms of all branches: seconds, or multiplications for a pixel."""

  analysis: float
  synthesis: float


class Measured(NamedTuple):
  """The cost of a codec's transforms.

  Attributes:
    seconds: of the fastest runs.
    multiplications: for each pixel, None where they were not counted.
  """

  codec: str
  activation: str
  seconds: Cost
  multiplications: Cost | None


def run(
  names: Sequence[str],
  activations: Sequence[str],
  size: coding_benchmark.Size,
  num_filters: int | None = None,
  latent_depth: int | None = None,
  repeats: int = 5,
  count_operations: bool = False,
) -> list[Measured]:
  """Measures each codec with each activation, all of them in turn, `repeats` times.

  Args:
    names: of codecs.
    activations: of their transforms.
    size: of the image, `coding_benchmark.PHOTO` brought to size by `coding_benchmark.at_size`.
    num_filters, latent_depth: None for each codec's own.
    repeats: runs of all transforms after their first call; the fastest of each counts.
    count_operations: whether multiplications are counted.

  Raises:
    BenchmarkError: nothing is named, or operations cannot be counted.
    errors.Error: no such codec, or it does not take the activation or the sizes.
  """
  if not names or not activations:
    raise coding_benchmark.BenchmarkError(
      "found no codec or no activation, expected at least one of each"
    )
  sizes = {"num_filters": num_filters, "latent_depth": latent_depth}
  given = {key: value for key, value in sizes.items() if value is not None}
  image = coding_benchmark.at_size(sample_photos.load()[coding_benchmark.PHOTO], size)
  built = {  # all of them before the first is timed: an error comes at once
    (name, activation): codecs.create(name, activation=activation, **given)
    for name in dict.fromkeys(names)
    for activation in dict.fromkeys(activations)
  }
  counts, calls = [], []
  for row, codec in built.items():
    _report(f"{' '.join(row)}: graphs")
    both = parts(codec, image)
    counts.append(multiplications_per_pixel(codec, both) if count_operations else None)
    calls += [_in_bands(each) for each in both]
  seconds = fastest(calls, repeats)
  return [
    Measured(*row, Cost(*times), count)
    for row, *times, count in zip(built, seconds[::2], seconds[1::2], counts)
  ]


def parts(codec: codec_lib.Codec, image: np.ndarray) -> tuple[list[Part], list[Part]]:
  """Returns the analyses and the syntheses of a codec's branches, with their inputs.

  Args:
    codec: of any number of branches.
    image: uint8 [H, W, 3], padded as the codec needs it. Analyses are given its samples,
      syntheses noise, and later branches what earlier ones decode of that noise.
  """
  x = codec.samples(codec.planes(image[np.newaxis]))
  analyses, syntheses, context = [], [], codec_lib.Context(codec_lib.in_bands)
  for branch in codec.branches:
    height, width = (side // branch.g_a.stride for side in x.shape[1:3])
    shape = 1, height, width, branch.entropy_model.latent_depth
    noise = tf.random.stateless_normal(shape, seed=(0, len(context.decoded)), stddev=_SPREAD)
    y_hat = tf.cast(tf.round(noise), codec.compute_dtype)
    analyses.append(Part(branch.analyze, x, context.decoded))
    syntheses.append(Part(branch.synthesize, y_hat, context.decoded))
    if branch is not codec.branches[-1]:
      context = context.after(branch, y_hat)
  return analyses, syntheses


def multiplications_per_pixel(
  codec: codec_lib.Codec, both: tuple[Sequence[Part], Sequence[Part]]
) -> Cost:
  """Returns the multiplications of the plain networks for each pixel of the padded image.

  Args:
    codec: with the parts.
    both: analyses and syntheses, of `parts`.
  """
  analyses, _ = both
  pixels = math.prod(analyses[0].x.shape[1:3]) * codec.input_format.subsampling**2
  return Cost(*(sum(map(multiplications, each)) / pixels for each in both))


def multiplications(part: Part) -> int:
  """Counts the multiplications of a part's convolutions; nothing runs.

  Each output of a convolution, and each input of a transposed one, is multiplied with a kernel for
  each channel on the other side. Products with zeros beyond the borders are counted too.

  Raises:
    BenchmarkError: there are products of other kinds, or some within functions or branches.
  """
  fixed = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), (part.x, part.decoded))
  graph = _graph(part, codec_lib.plain, fixed).graph
  odd = {op.type for op in graph.get_operations() if _is_odd(op.type)}
  if graph.as_graph_def().library.function or odd:
    found = ", ".join(sorted(odd)) or "functions within the graph"
    raise coding_benchmark.BenchmarkError(
      f"found {found}, expected all products in 2-D convolutions: nothing else can be counted"
    )
  count = 0
  for op in graph.get_operations():
    if op.type in _OUTER:
      count += _OUTER[op.type](op).shape.num_elements() * math.prod(op.inputs[1].shape[:3])
  return count


def _is_odd(kind: str) -> bool:
  """Whether an operation of this kind multiplies matrices, but is none of `_OUTER`."""
  return kind not in _OUTER and any(word in kind for word in ("Conv", "MatMul", "Einsum"))


def fastest(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
  """Returns the seconds of each call's fastest run.

  All are called once beforehand, then in turn: a busy machine disturbs them alike.
  """
  _report("first calls")
  for call in calls:
    call()
  least = [math.inf] * len(calls)
  for repeat in range(repeats):
    _report(f"round {repeat + 1} of {repeats}")
    for i, call in enumerate(calls):
      start = time.perf_counter()
      call()
      least[i] = min(least[i], time.perf_counter() - start)
  return least


def _report(what: str):
  print(what, file=sys.stderr, flush=True)


def _in_bands(transforms: Sequence[Part]) -> Callable[[], list[np.ndarray]]:
  """Returns a function that runs parts one after the other, as coding does, and waits for them."""

  def any_size(x):
    return tf.TensorSpec((1, None, None, x.shape[-1]), x.dtype)

  runs = []
  for part in transforms:
    inputs = part.x, part.decoded
    graph = _graph(part, codec_lib.in_bands, tf.nest.map_structure(any_size, inputs))
    runs.append(functools.partial(graph, *inputs))
  return lambda: [each().numpy() for each in runs]


def _graph(part: Part, how: codec_lib.Run, signature):
  """Returns the concrete function of (x, decoded) that applies a part in one way."""

  # Nothing here branches in Python on tensors, which AutoGraph would rewrite.
  def apply(x, decoded):
    return part.apply(x, codec_lib.Context(how, decoded))

  return tf.function(apply, signature, autograph=False).get_concrete_function()


def table(measured: Sequence[Measured], size: coding_benchmark.Size) -> str:
  """Returns all that was measured as text, below 100 columns; ratios are to the first row."""
  lines = _columns(f"seconds, {size}", measured, [each.seconds for each in measured], ".3f")
  counts = [each.multiplications for each in measured]
  if None not in counts:
    lines += ["", *_columns("multiplications/pixel", measured, counts, ",.0f")]
  return "\n".join(lines)


def _columns(title: str, measured: Sequence[Measured], costs: Sequence[Cost], form: str):
  head = "".join(f"{what:>14}{'ratio':>8}" for what in Cost._fields)
  lines = [f"{title:<22} {'activation':<10}{head}"]
  lines.append("-" * len(lines[0]))
  for each, cost in zip(measured, costs):
    cells = "".join(f"{a:>14{form}}{a / first:>8.3f}" for a, first in zip(cost, costs[0]))
    lines.append(f"{each.codec:<22} {each.activation:<10}{cells}")
  return lines


def write_json(path: str, measured: Sequence[Measured], size: coding_benchmark.Size) -> None:
  """Writes the measurements as JSON, whole or not at all.

  {codec: {activation: {"size": "768x512",
                        "seconds": {"analysis": seconds, "synthesis": seconds},
                        "multiplications_per_pixel": {the same} or null}}}

  Raises:
    image_files.ImageError: the file cannot be written.
  """
  content: dict[str, dict] = {}
  for each in measured:
    counts = each.multiplications
    content.setdefault(each.codec, {})[each.activation] = {
      "size": str(size),
      "seconds": each.seconds._asdict(),
      "multiplications_per_pixel": None if counts is None else counts._asdict(),
    }
  atomic_files.write_text(path, json.dumps(content, indent=2) + "\n")
