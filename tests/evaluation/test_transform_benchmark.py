"""The transform benchmark: counts against closed forms, what is timed, and the output.

Closed forms are multiplications for each pixel: a stage of stride 2^i has 4^-i of the pixels.
"""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf import codecs, errors, layers
from khuvcm_tf.codecs import codec as codec_lib
from khuvcm_tf.data import sample_photos
from khuvcm_tf.evaluation import coding_benchmark, transform_benchmark

# One position of z: what codecs pad to.
IMAGE = coding_benchmark.at_size(sample_photos.load()["coffee"], coding_benchmark.Size(64, 64))
SMALL = {"num_filters": 24, "latent_depth": 32}
TWO_BRANCHES = {**SMALL, "chroma_filters": 10, "chroma_depth": 12}
PAPERS = {"num_filters": 192, "latent_depth": 192}


@functools.cache
def _counted(name, **arguments):
  codec = codecs.create(name, **arguments)
  both = transform_benchmark.parts(codec, IMAGE)
  return transform_benchmark.multiplications_per_pixel(codec, both)


def _mbt2018(n, m, gdn):
  convolutions = 25 * 3 * n / 4 + 25 * n * n / 16 + 25 * n * n / 64 + 25 * n * m / 256
  return convolutions + gdn * (n * n / 4 + n * n / 16 + n * n / 64)


def _luma_chroma420(n, m, gdn):
  luma, chroma, mix = 25 * 1 * (n / 2) / 4, 9 * 2 * (n / 2) / 4, n * n / 4
  behind = 25 * n * n / 16 + 25 * n * n / 64 + 25 * n * m / 256
  branches_gdn = 2 * (n / 2) * (n / 2) / 4
  return luma + chroma + mix + behind + gdn * (branches_gdn + n * n / 16 + n * n / 64)


def _cross_component(n, m, chroma_n, chroma_m, gdn):
  """Returns analysis and synthesis where chroma sees luma's latents and samples."""

  def stack(n, into, out):  # three stages and the layers of both ends
    return (
      into * n / 4 + 25 * n * n / 16 + 25 * n * n / 64 + 25 * n * out / 256 + gdn * 21 * n * n / 64
    )

  luma = stack(n, 25, m)
  join = (chroma_m + m) * chroma_m / 256
  meet = 9 * 20 * chroma_n / 4 + gdn * chroma_n * chroma_n / 4 + 9 * chroma_n * 2 / 4
  return (
    luma + stack(chroma_n, 9 * 6, chroma_m) + join,
    luma + stack(chroma_n, 9 * 16, chroma_m + m) + meet,
  )


@pytest.mark.parametrize("activation", ["gdn", "prelu"])
@pytest.mark.parametrize("sizes", [SMALL, PAPERS])
@pytest.mark.parametrize(
  "name, closed_form",
  [("mbt2018", _mbt2018), ("luma_chroma420", _luma_chroma420)],
)
def test_counts_equal_closed_forms(name, closed_form, sizes, activation):
  expected = closed_form(*sizes.values(), activation == "gdn")
  counted = _counted(name, **sizes, activation=activation)
  assert counted == pytest.approx((expected, expected), rel=1e-12)


@pytest.mark.parametrize("activation", ["gdn", "prelu"])
def test_two_branches_and_what_joins_them_are_summed(activation):
  expected = _cross_component(*TWO_BRANCHES.values(), activation == "gdn")
  counted = _counted("cross_component", **TWO_BRANCHES, activation=activation)
  assert counted == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
  "name, arguments", [("mbt2018", PAPERS), ("cheng2020", {"num_filters": 64})]
)
def test_counts_are_half_the_profilers_operations_but_for_those_on_single_values(name, arguments):
  codec = codecs.create(name, **arguments)
  for part in sum(transform_benchmark.parts(codec, IMAGE), []):
    counted = transform_benchmark.multiplications(part)
    context = codec_lib.Context(codec_lib.plain)
    operations = _profiled(lambda x: part.apply(x, context), part.x)  # noqa: B023
    assert counted < operations / 2 < 1.01 * counted


def _profiled(function, x):
  """Returns the operations that TensorFlow's profiler counts: an addition is one of its own."""
  profiler = tf.compat.v1.profiler
  what = profiler.ProfileOptionBuilder.float_operation()
  options = profiler.ProfileOptionBuilder(what).with_empty_output().build()
  graph = tf.function(function, autograph=False).get_concrete_function(x).graph
  return profiler.profile(graph, options=options).total_float_ops


@pytest.mark.parametrize("name", ["mbt2018", "luma_chroma420", "cross_component"])
def test_prelu_multiplies_less_than_gdn(name):
  sizes = TWO_BRANCHES if name == "cross_component" else SMALL
  gdn, prelu = (_counted(name, **sizes, activation=each) for each in ("gdn", "prelu"))
  assert prelu.analysis < gdn.analysis and prelu.synthesis < gdn.synthesis


def test_at_the_papers_sizes_luma_chroma420_multiplies_less_than_mbt2018_each_as_published():
  ours, theirs = _counted("luma_chroma420", **PAPERS), _counted("mbt2018", **PAPERS)
  assert ours.analysis < 0.95 * theirs.analysis and ours.synthesis < 0.95 * theirs.synthesis


@pytest.mark.parametrize("activation", ["gdn", "prelu"])
def test_with_one_activation_for_both_the_mix_costs_luma_chroma420_more_than_branches_save(
  activation,
):
  ours = _counted("luma_chroma420", **PAPERS, activation=activation)
  theirs = _counted("mbt2018", **PAPERS, activation=activation)
  assert ours.analysis > theirs.analysis and ours.synthesis > theirs.synthesis


def test_counts_for_a_pixel_are_those_of_the_padded_image():
  codec = codecs.create("luma_chroma420", num_filters=8, latent_depth=8)
  small = transform_benchmark.parts(codec, IMAGE[:33, :50])
  wide = transform_benchmark.parts(codec, np.tile(IMAGE, (1, 3, 1)))
  assert small[0][0].x.shape == (1, 32, 32, 6) and wide[0][0].x.shape == (1, 32, 96, 6)
  per_pixel = transform_benchmark.multiplications_per_pixel
  assert per_pixel(codec, small) == per_pixel(codec, wide)


@pytest.mark.parametrize(
  "apply, found",
  [
    (lambda x: tf.einsum("bhwc,cd->bhwd", x, tf.ones((3, 3))), "Einsum"),
    (lambda x: tf.matmul(x, tf.ones((3, 3))), "BatchMatMulV2"),
    (lambda x: tf.nn.depthwise_conv2d(x, tf.ones((1, 1, 3, 1)), [1] * 4, "SAME"), "Depthwise"),
    (lambda x: tf.cond(x[0, 0, 0, 0] > 0, lambda: 2 * x, lambda: x), "functions within the graph"),
  ],
)
def test_products_that_would_be_missed_are_an_error(apply, found):
  part = transform_benchmark.Part(lambda x, context: apply(x), tf.zeros((1, 4, 4, 3)), ())
  with pytest.raises(
    coding_benchmark.BenchmarkError, match=f"^found {found}.*, expected all products in"
  ):
    transform_benchmark.multiplications(part)


@pytest.fixture(scope="module", params=["mbt2018", "luma_chroma420", "cross_component"])
def tiny(request):
  """Returns a tiny codec and its parts."""
  codec = codecs.create(request.param, num_filters=8, latent_depth=12)
  return codec, transform_benchmark.parts(codec, IMAGE)


def test_what_is_timed_gives_a_decoders_image(tiny):
  codec, (_, syntheses) = tiny
  samples = np.concatenate(transform_benchmark._in_bands(syntheses)(), axis=-1)
  decoded = codec.decode([part.x for part in syntheses], 64, 64)
  for plane, expected in zip(codec.input_format.from_samples(samples, 64, 64), decoded):
    np.testing.assert_allclose(plane, expected, atol=1e-3)


def test_what_is_timed_gives_an_encoders_latents(tiny):
  codec, (analyses, syntheses) = tiny
  found = transform_benchmark._in_bands(analyses)()
  x, context = codec.samples(codec.planes(IMAGE[np.newaxis])), codec_lib.Context(codec_lib.in_bands)
  assert len(found) == len(codec.branches)
  for branch, y, decoded in zip(codec.branches, found, syntheses):
    np.testing.assert_allclose(y, branch.analyze(x, context), atol=1e-4)
    context = context.after(branch, decoded.x)


def test_bands_are_timed_and_plain_networks_counted(tiny, monkeypatch):
  codec, both = tiny
  seen, plain = [], layers.Transform.in_bands

  def in_bands(self, x):
    seen.append(self.name)
    return plain(self, x)

  monkeypatch.setattr(layers.Transform, "in_bands", in_bands)
  transform_benchmark.multiplications_per_pixel(codec, both)
  assert seen == []
  for parts in both:
    transform_benchmark._in_bands(parts)
  assert seen[: len(codec.branches)] == ["analysis"] * len(codec.branches)
  assert seen.count("synthesis") == len(codec.branches)


def test_latents_are_rounded_noise_with_a_spread_of_two(tiny):
  _, (_, syntheses) = tiny
  for part in syntheses:
    np.testing.assert_array_equal(part.x, np.round(part.x))
    # Rounding adds 1/12 to the variance.
    assert np.std(part.x) == pytest.approx(np.sqrt(4 + 1 / 12), rel=0.2)


def test_calls_are_made_in_turn_after_a_first_one_and_the_fastest_counts(monkeypatch):
  clock, made = [0.0], []
  takes = {"a": iter([100, 3, 1, 2]), "b": iter([1, 5, 7, 4])}

  def call(name):
    made.append(name)
    clock[0] += next(takes[name])

  monkeypatch.setattr(transform_benchmark.time, "perf_counter", lambda: clock[0])
  seconds = transform_benchmark.fastest([lambda: call("a"), lambda: call("b")], 3)
  assert seconds == [1, 4]  # b's first call was faster and does not count
  assert "".join(made) == "ab" * 4


def test_each_row_has_its_own_seconds_and_counts(monkeypatch):
  monkeypatch.setattr(transform_benchmark, "_in_bands", lambda parts: parts)
  monkeypatch.setattr(transform_benchmark, "fastest", lambda calls, _: list(range(len(calls))))
  size, cost = coding_benchmark.Size(64, 64), transform_benchmark.Cost
  names, activations = ["mbt2018", "luma_chroma420", "mbt2018"], ["prelu", "gdn"]
  found = transform_benchmark.run(names, activations, size, 8, 12, 1, count_operations=True)
  forms = (("mbt2018", _mbt2018), ("luma_chroma420", _luma_chroma420))
  rows = [(name, gdn, form(8, 12, gdn)) for name, form in forms for gdn in (False, True)]
  assert found == [
    (name, "gdn" if gdn else "prelu", cost(2 * i, 2 * i + 1), cost(count, count))
    for i, (name, gdn, count) in enumerate(rows)
  ]
  (alone,) = transform_benchmark.run(["mbt2018"], ["gdn"], size, 8, 12, 1)
  assert alone.multiplications is None


@pytest.mark.parametrize(
  "names, activations, said",
  [
    (["mbt2018", "jpeg"], ["gdn"], "no codec is called 'jpeg'; there are .*mbt2018"),
    (["mbt2018"], ["gdn", "relu"], "mbt2018 .*`activation` is 'relu', expected 'gdn' or 'prelu'"),
    (["ycbcr444"], [""], "ycbcr444 .*`activation` is '', expected 'gdn' or 'prelu'"),
    (["cheng2020"], ["gdn"], "cheng2020 .* unexpected keyword argument 'latent_depth'"),
    ([], ["gdn"], "^found no codec or no activation, expected at least one of each"),
    (["mbt2018"], [], "^found no codec or no activation, expected at least one of each"),
  ],
)
def test_what_cannot_be_built_is_an_error_before_anything_is_timed(
  monkeypatch, capsys, names, activations, said
):
  monkeypatch.setattr(transform_benchmark, "fastest", None)
  with pytest.raises(errors.Error, match=said):
    transform_benchmark.run(names, activations, coding_benchmark.Size(64, 64), 8, 12)
  assert capsys.readouterr().err == ""


def _measured(codec, activation, factor, counted=True):
  seconds = transform_benchmark.Cost(1.5 * factor, 200.0 * factor)
  counts = transform_benchmark.Cost(91296.0 * factor, 1234567.0 * factor) if counted else None
  return transform_benchmark.Measured(codec, activation, seconds, counts)


def test_the_table_shows_ratios_to_the_first_row_within_100_columns():
  measured = [_measured("cross_component", "prelu", 1), _measured("mbt2018", "gdn", 0.5)]
  text = transform_benchmark.table(measured, coding_benchmark.Size(19200, 10800))
  lines = text.splitlines()
  assert max(map(len, lines)) <= 100
  assert lines[0].startswith("seconds, 19200x10800 ")
  rows = [line.split() for line in lines]
  assert "cross_component prelu 1.500 1.000 200.000 1.000".split() in rows
  assert "mbt2018 gdn 0.750 0.500 100.000 0.500".split() in rows
  assert "cross_component prelu 91,296 1.000 1,234,567 1.000".split() in rows
  assert "mbt2018 gdn 45,648 0.500 617,284 0.500".split() in rows


def test_the_table_has_no_multiplications_where_none_were_counted():
  measured = [_measured("mbt2018", "gdn", 1, counted=False)]
  text = transform_benchmark.table(measured, coding_benchmark.Size(64, 48))
  assert len(text.splitlines()) == 3 and "multiplications" not in text


def test_json_holds_seconds_and_multiplications_by_codec_and_activation(tmp_path):
  measured = [
    _measured("mbt2018", "gdn", 1),
    _measured("ycbcr444", "gdn", 1, counted=False),
    _measured("mbt2018", "prelu", 2),
  ]
  path = tmp_path / "t.json"
  transform_benchmark.write_json(str(path), measured, coding_benchmark.Size(64, 48))
  content = json.loads(path.read_text())
  assert {codec: list(rows) for codec, rows in content.items()} == {
    "mbt2018": ["gdn", "prelu"],
    "ycbcr444": ["gdn"],
  }
  assert content["mbt2018"]["prelu"] == {
    "size": "64x48",
    "seconds": {"analysis": 3.0, "synthesis": 400.0},
    "multiplications_per_pixel": {"analysis": 182592.0, "synthesis": 2469134.0},
  }
  assert content["ycbcr444"]["gdn"]["multiplications_per_pixel"] is None
