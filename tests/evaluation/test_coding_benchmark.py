"""The coding benchmark: two orders that must agree, latents of known spread, and the output."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tensorflow as tf

from khuvcm_tf.data import sample_photos
from khuvcm_tf.entropy import calibration, gaussian
from khuvcm_tf.entropy.calibration import conversion
from khuvcm_tf.evaluation import coding_benchmark

NAMES = ("mbt2018", "cheng2020")
IMAGE = coding_benchmark.at_size(sample_photos.load()["coffee"], coding_benchmark.Size(60, 50))


@pytest.fixture(scope="module")
def eagerly():
  """Graphs of models this small take longer to build than to do without.

  What a benchmark calls again for its time is done once.
  """
  tf.config.run_functions_eagerly(True)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(coding_benchmark, "_graph", lambda function, *_: _once(function))
    yield
  tf.config.run_functions_eagerly(False)


def _once(function):
  """Returns a function that calls another where it is given other objects than before."""
  found = {}

  def call(*arguments):
    key = tuple(map(id, arguments))
    if key not in found:
      found[key] = arguments, function(*arguments)  # The arguments too: else ids come again.
    return found[key][1]

  return call


@pytest.fixture(scope="module", params=NAMES)
def model(request, eagerly):
  """Returns a codec's name, the tiny codec, and its integer entropy model."""
  codec = coding_benchmark.random_codec(request.param, 8, IMAGE)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(conversion, "conversion_loss", lambda *_: 0.0)
    y = codec.latents(codec.planes(IMAGE[np.newaxis]))[0]
    return (
      request.param,
      codec,
      calibration.convert(codec.branches[0].entropy_model, [y], 1.0).model,
    )


def _made_up(integers, height, width):
  """Returns symbols [height, width, M] and psi that excite all of the networks."""
  rng = np.random.default_rng(0)
  largest = integers.parameters.amax[integers.context.filters :]
  psi = rng.uniform(-0.5, 0.5, (1, height, width, largest.size)) * largest
  symbols = rng.integers(-2, 3, (height, width, integers.depth))
  return tf.constant(symbols, tf.int32), tf.constant(psi.astype(np.int32))


def test_both_orders_give_the_same_where_each_value_depends_on_its_parameters(model):
  _, _, integers = model
  symbols, psi = _made_up(integers, 5, 9)

  def code(total, values, params):
    parts = tf.reduce_sum(tf.reshape(params, (tf.shape(params)[0], -1, integers.depth)), axis=1)
    return total + tf.reduce_sum(params), (values + parts) % 5 - 2

  start = tf.constant(0)
  total, found = coding_benchmark.raster_order(integers, code, start, symbols, psi)
  expected_total, expected = integers.in_order(code, start, symbols, psi, skew=3)
  np.testing.assert_array_equal(found, expected)
  assert int(total) == int(expected_total)
  # Parameters depend on the neighbours: with others, values are others.
  _, alone = coding_benchmark.raster_order(
    integers, code, start, symbols[2:3, 4:5], psi[:, 2:3, 4:5]
  )
  assert not np.array_equal(alone[0, 0], found[2, 4])


def test_raster_order_goes_through_rows_from_left_to_right(model):
  _, _, integers = model
  symbols, psi = _made_up(integers, 3, 4)
  _, found = coding_benchmark.raster_order(
    integers,
    lambda step, values, params: (step + 1, 0 * values + step),
    tf.constant(0),
    symbols,
    psi,
  )
  np.testing.assert_array_equal(found[..., 0], np.arange(12).reshape(3, 4))


def test_latents_have_evenly_spaced_logarithms_of_deviations_and_no_mean(model):
  _, codec, _ = model
  y = codec.latents(codec.planes(IMAGE[np.newaxis]))[0].numpy()
  np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
  np.testing.assert_allclose(np.sort(y.std((0, 1, 2))), np.geomspace(0.02, 1.5, 8), rtol=1e-4)


def test_the_model_predicts_scales_near_the_latents_own_deviations(model):
  _, codec, _ = model
  y = codec.latents(codec.planes(IMAGE[np.newaxis]))[0]
  z_hat = tf.round(codec.branches[0].entropy_model.side_information(y))
  _, _, indices = codec.branches[0].entropy_model.predicted(tf.round(y), z_hat)
  found = gaussian.MIN_SCALE * np.exp(gaussian.LOG_STEP * np.median(indices, axis=(0, 1, 2)))
  expected = np.broadcast_to(np.maximum(y.numpy().std((0, 1, 2)), gaussian.MIN_SCALE), found.shape)
  np.testing.assert_allclose(found, expected, rtol=0.3)


def test_the_bits_are_those_of_the_substreams_that_are_encoded(model):
  name, codec, integers = model
  measured = coding_benchmark.measure(name, IMAGE, integers.to_arrays(), 8, repeats=1)
  y = codec.latents(codec.planes(IMAGE[np.newaxis]))[0]
  substreams = integers.encode(y, codec.branches[0].entropy_model.side_information(y)).numpy()
  assert measured.bits_per_pixel == 8 * sum(map(len, substreams)) / (60 * 50)
  assert measured.size == (60, 50)
  assert tuple(measured.encode) == tuple(measured.decode) == coding_benchmark.STAGES
  assert measured.raster > 0 < measured.wavefront


@pytest.mark.parametrize("model", ["mbt2018"], indirect=True)
@pytest.mark.parametrize("wrong", ["symbols in raster order", "symbols in wavefronts"])
def test_an_order_that_decodes_other_symbols_is_an_error(model, monkeypatch, wrong):
  name, codec, integers = model
  right = coding_benchmark._loop

  def loop(integers, order):
    loop = right(integers, order)
    if ("raster" in wrong) != (order.func is coding_benchmark.raster_order):
      return loop

    def read(data, psi):
      y_exact, symbols = loop.read(data, psi)
      return y_exact, symbols + tf.one_hot(0, integers.depth, dtype=tf.int32)

    return loop._replace(read=read)

  monkeypatch.setattr(coding_benchmark, "_loop", loop)
  monkeypatch.setattr(coding_benchmark, "random_codec", lambda *_: codec)
  with pytest.raises(coding_benchmark.BenchmarkError, match=f"{name} decoded other {wrong}"):
    coding_benchmark.measure(name, IMAGE, integers.to_arrays(), 8, repeats=1)


@pytest.mark.parametrize(
  "seconds, times, expected_calls, fastest",
  [([3, 1, 2], 3, 3, 1), ([2, 1, 3], 2, 2, 1), ([8, 4, 1], 3, 2, 4), ([30, 1], 2, 1, 30)],
)
def test_the_fastest_call_counts_and_none_follows_after_10_seconds(
  monkeypatch, seconds, times, expected_calls, fastest
):
  clock, calls = [0.0], []

  def graph(argument):
    clock[0] += seconds[len(calls)]
    calls.append(argument)
    return tf.constant(argument)

  monkeypatch.setattr(coding_benchmark.time, "perf_counter", lambda: clock[0])
  least, result = coding_benchmark._fastest(times, graph, 7)
  assert (least, int(result), calls) == (fastest, 7, [7] * expected_calls)


def test_a_large_photo_is_cropped_and_a_small_one_mirrored():
  photo = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
  cropped = coding_benchmark.at_size(photo, coding_benchmark.Size(2, 1))
  np.testing.assert_array_equal(cropped, np.array([[[0] * 3, [1] * 3]]))
  mirrored = coding_benchmark.at_size(photo, coding_benchmark.Size(7, 3))[..., 1]
  expected = [[0, 1, 2, 2, 1, 0, 0], [3, 4, 5, 5, 4, 3, 3], [3, 4, 5, 5, 4, 3, 3]]
  np.testing.assert_array_equal(mirrored, expected)


def test_colours_stay_where_a_photo_is_mirrored():
  photo = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
  mirrored = coding_benchmark.at_size(photo, coding_benchmark.Size(10, 4))
  np.testing.assert_array_equal(mirrored, np.concatenate([photo, photo[:, ::-1]], axis=1))


@pytest.mark.parametrize("text", ["64", "0x48", "64x", "-1x4", "64x48x3", "65536x1", "a x b", ""])
def test_text_that_is_no_size_is_an_error(text):
  with pytest.raises(
    coding_benchmark.BenchmarkError, match=f"found size '{text}', expected WIDTHxHEIGHT"
  ):
    coding_benchmark.parse_size(text)


def test_codecs_without_a_context_model_are_an_error_before_anything_starts(monkeypatch):
  monkeypatch.setattr(coding_benchmark, "_elsewhere", None)
  size = coding_benchmark.Size(64, 48)
  for name in ("mbt2018_mean", "jpeg"):
    with pytest.raises(coding_benchmark.BenchmarkError, match=f"'{name}', .*: mbt2018, cheng2020$"):
      coding_benchmark.run(["mbt2018", name], [size])
  for names, sizes in (([], [size]), (["mbt2018"], [])):
    with pytest.raises(coding_benchmark.BenchmarkError, match="^found no codec or no size"):
      coding_benchmark.run(names, sizes)


def _measured(codec, size, raster):
  encode = dict(zip(coding_benchmark.STAGES, (1.0, 0.25, 0.5, 2.0)))
  decode = dict(zip(coding_benchmark.STAGES, (111.5, 0.125, 0.5, 3.0)))
  return coding_benchmark.Measured(codec, size, encode, decode, 3.5, raster, 0.75, 1234.5)


MEASURED = [
  _measured(codec, coding_benchmark.Size(*size), raster)
  for codec in NAMES
  for size, raster in (((768, 512), 7.0), ((19200, 10800), 14.0))
]


def test_the_table_shows_totals_and_ratios_within_100_columns():
  lines = coding_benchmark.table(MEASURED).splitlines()
  assert max(map(len, lines)) <= 100
  rows = [line.split() for line in lines]
  assert ["cheng2020", "768x512", "encode", "1.000", "0.250", "0.500", "2.000", "3.750"] in rows
  assert ["decode", "111.500", "0.125", "0.500", "3.000", "115.125"] in rows
  assert "cheng2020 19200x10800 14.000 s 3.500 s 4.00 0.750 1234".split() in rows


def test_json_holds_stages_ratios_and_peaks_by_codec_and_size(tmp_path):
  coding_benchmark.write_json(str(tmp_path / "b.json"), MEASURED)
  content = json.loads((tmp_path / "b.json").read_text())
  assert {codec: list(sizes) for codec, sizes in content.items()} == dict.fromkeys(
    NAMES, ["768x512", "19200x10800"]
  )
  assert content["mbt2018"]["768x512"] == {
    "encode": {"transforms": 1.0, "hyperprior": 0.25, "context_loop": 0.5, "range_coder": 2.0},
    "decode": {"transforms": 111.5, "hyperprior": 0.125, "context_loop": 0.5, "range_coder": 3.0},
    "raster_over_wavefront": 2.0,
    "peak_mib": 1234.5,
  }


def test_the_machine_is_described_with_its_cores_and_versions():
  assert re.fullmatch(
    r".+, \d+ cores; Python 3\.\d+\.\d+, tensorflow 2\.14\.\d, tensorflow-compression 2\.14\.\d",
    coding_benchmark.machine(),
  )
