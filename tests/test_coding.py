"""The public face: images to bytes and back, and what each refusal says."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import threading
import zlib

import numpy as np
import pytest
import tensorflow as tf

import khuvcm_tf
from khuvcm_tf import bitstream, coding, errors, model_files
from khuvcm_tf.codecs import codec as codec_lib
from khuvcm_tf.data import frames
from khuvcm_tf.ops import padding

GOLDEN = pathlib.Path(__file__).parent / "golden"
FOLDER = str(GOLDEN / "mbt2018_mean" / "model")
CONTEXT = str(GOLDEN / "mbt2018" / "model")
OF_FRAMES = str(GOLDEN / "luma_chroma420" / "model")


@pytest.fixture(scope="module")
def model():
  return khuvcm_tf.load(FOLDER)


@pytest.fixture(scope="module")
def context_model():
  return model_files.load(CONTEXT)


@pytest.fixture(scope="module")
def image():
  """A smooth uint8 [40, 70, 3]."""
  steps = np.cumsum(np.random.default_rng(0).integers(-9, 10, (40, 70, 3)), axis=1)
  return np.clip(steps + 128, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def frame(image):
  """A raw frame of 10 bits, luma [39, 69]."""
  levels = 4 * image.astype(np.uint16)
  return frames.Frame(levels[:39, :69, 0], levels[:39:2, :69:2, 1], levels[:39:2, :69:2, 2], 10)


def _sealed(body: bytes) -> bytes:
  return body + zlib.crc32(body).to_bytes(4, "little")


def _with_fingerprint(data: bytes, fingerprint: bytes) -> bytes:
  return _sealed(data[:5] + fingerprint + data[13:-4])


class TestCompress:
  @pytest.mark.parametrize("size", [(1, 1), (1, 70), (40, 1), (17, 33), (40, 70)])
  @pytest.mark.parametrize("channels", [1, 3])
  def test_of_any_size_decodes_to_what_the_image_padded_by_its_last_rows_does(
    self, model, image, size, channels
  ):
    source = image[: size[0], : size[1], :channels]
    data = model.compress(source)
    decoded = model.decompress(data)
    assert decoded.shape == source.shape and decoded.dtype == np.uint8
    padded = model.compress(padding.pad_to_multiple(source[np.newaxis], 64)[0].numpy())
    assert bitstream.parse(data)[1] == bitstream.parse(padded)[1]
    expected = model.decompress(padded)[: size[0], : size[1]]
    np.testing.assert_array_equal(decoded, expected)

  def test_writes_the_fingerprint_the_size_and_the_format(self, model, image):
    for source, kind in ((image, bitstream.RGB), (image[..., :1], bitstream.GREY)):
      header, substreams = bitstream.parse(model.compress(source))
      assert header == bitstream.Header(model.fingerprint, kind, 8, 40, 70)
      assert len(substreams) == 2

  def test_takes_grey_images_with_and_without_an_axis_of_channels(self, model, image):
    data = model.compress(image[..., 0])
    assert data == model.compress(image[..., :1])
    assert model.decompress(data).shape == (40, 70, 1)

  def test_of_grey_is_that_of_equal_colours(self, model, image):
    grey = image[..., :1]
    colour = bitstream.parse(model.compress(np.repeat(grey, 3, axis=2)))
    assert bitstream.parse(model.compress(grey))[1] == colour[1]

  def test_takes_views(self, model, image):
    mirrored = image[:, ::-1]
    data = model.compress(mirrored)
    assert data == model.compress(np.ascontiguousarray(mirrored))

  @pytest.mark.parametrize(
    "shape, dtype",
    [
      ((4, 4, 3), np.float32),
      ((4, 4, 3), np.int64),
      ((4, 4, 3), np.uint16),
      ((4, 4, 4), np.uint8),
      ((4, 4, 2), np.uint8),
      ((4,), np.uint8),
      ((1, 4, 4, 3), np.uint8),
      ((0, 4, 3), np.uint8),
      ((4, 0, 3), np.uint8),
      ((65536, 1, 1), np.uint8),
    ],
  )
  def test_refuses_what_is_no_8_bit_image(self, model, shape, dtype):
    text = (
      rf"`image` is {np.dtype(dtype).name} \[{', '.join(map(str, shape))}\], expected uint8 "
      r"\[H, W, 3\] or \[H, W, 1\] with sides of 1 to 65535"
    )
    for method in (model.compress, model.estimate):
      with pytest.raises(coding.ModelError, match=text):
        method(np.zeros(shape, dtype))

  @pytest.mark.parametrize("name", ["model", "context_model"])
  def test_names_a_latent_that_lies_too_far_in_one_line(self, name, image, monkeypatch, request):
    """As of a model whose training has diverged, to large latents or to none."""
    model = request.getfixturevalue(name)
    broken = coding.Model(model.codec, model.entropy_models, model.fingerprint, model.description)
    factor = tf.Variable(1e6)
    analyze = codec_lib.Branch.analyze
    monkeypatch.setattr(
      codec_lib.Branch, "analyze", lambda branch, *args: analyze(branch, *args) * factor
    )
    text = r"the image cannot be coded: a latent lies \d+ beyond its alphabet, at most 65535 can"
    for value in (1e6, np.inf, np.nan):
      factor.assign(value)
      for method in (broken.compress, broken.estimate):
        with pytest.raises(coding.ModelError, match=text) as caught:
          method(image)
        assert "\n" not in str(caught.value)
    factor.assign(1.0)
    assert broken.compress(image) == model.compress(image)


class TestEstimate:
  def test_gives_bits_of_each_substream_a_little_below_the_real_ones(self, model, image):
    _, substreams = bitstream.parse(model.compress(image))
    estimate = model.estimate(image)
    assert list(estimate) == ["z", "y"]
    for bits, substream in zip(estimate.values(), substreams):
      assert isinstance(bits, float)
      assert bits - 8 <= 8 * len(substream) <= 1.01 * bits + 32

  def test_of_a_frame_is_a_little_below_the_real_bits(self, frame):
    model = model_files.load(OF_FRAMES)
    _, substreams = bitstream.parse(model.compress(frame))
    estimate = model.estimate(frame)
    assert tuple(estimate) == model.codec.substreams
    for bits, substream in zip(estimate.values(), substreams):
      assert bits - 8 <= 8 * len(substream) <= 1.01 * bits + 32

  def test_refuses_frames_where_the_codec_does(self, model, frame):
    for method in (model.compress, model.estimate):
      with pytest.raises(
        coding.ModelError, match=r"codec mbt2018_mean is not one of 4:2:0, expected one for raw fr"
      ):
        method(frame)


class TestDecompress:
  def test_refuses_damage_with_the_message_of_the_container(self, model, image):
    data = model.compress(image)
    with pytest.raises(bitstream.BitstreamError, match=r"its CRC-32 is"):
      model.decompress(data[:-1] + b"\x00")

  def test_refuses_images_larger_than_max_pixels(self, model, image):
    data = model.compress(image)
    assert model.decompress(data, max_pixels=2800).shape == (40, 70, 3)
    with pytest.raises(bitstream.BitstreamError, match=r"found 2800 pixels.* at most 2799; raise"):
      model.decompress(data, max_pixels=2799)

  def test_refuses_files_of_another_entropy_coder(self, model, image):
    other = bytes([model.fingerprint[0] ^ 1]) + model.fingerprint[1:]
    data = _with_fingerprint(model.compress(image), other)
    for allowed in (False, True):
      with pytest.raises(
        coding.ModelError,
        match=rf"made with model {other.hex()}, expected this one, "
        rf"{model.fingerprint.hex()}; use the model that wrote it",
      ):
        model.decompress(data, allow_other_synthesis=allowed)

  def test_refuses_files_of_another_synthesis_unless_it_is_allowed(self, model, image):
    other = model.fingerprint[:-1] + bytes([model.fingerprint[-1] ^ 1])
    data = _with_fingerprint(model.compress(image), other)
    with pytest.raises(
      coding.ModelError,
      match=rf"model {other.hex()}, which decodes the same symbols to other pixels than"
      rf" this one, {model.fingerprint.hex()}; .*or give --allow_other_synthesis",
    ):
      model.decompress(data)
    decoded = model.decompress(data, allow_other_synthesis=True)
    np.testing.assert_array_equal(decoded, model.decompress(model.compress(image)))

  def test_of_a_model_with_another_synthesis_gives_other_pixels_of_the_same_symbols(
    self, model, image
  ):
    other = model_files.load(FOLDER)
    for name, weight in other.codec.named_weights().items():
      if name.startswith("synthesis/"):
        weight.assign(weight * 0.5)
    other.fingerprint = model.fingerprint[: coding.ENTROPY_BYTES] + b"new"
    data = model.compress(image)
    decoded = other.decompress(data, allow_other_synthesis=True)
    assert decoded.shape == image.shape
    assert (decoded != model.decompress(data)).any()
    symbols = [
      each.entropy_models[0].decode(tf.constant(bitstream.parse(data)[1]), 4, 8)
      for each in (model, other)
    ]
    for one, two in zip(*symbols):
      np.testing.assert_array_equal(one, two)

  @pytest.mark.parametrize("substreams", [[b"z"], [b"z", b"y", b"x"]])
  def test_refuses_another_number_of_substreams(self, model, substreams):
    data = _file(model, bitstream.RGB, substreams)
    text = rf"the file has {len(substreams)} substreams, expected 2 for this model; copy it again"
    with pytest.raises(bitstream.BitstreamError, match=text):
      model.decompress(data)

  @pytest.mark.parametrize("kind", [bitstream.YCBCR444, bitstream.YCBCR420])
  def test_refuses_the_input_format_of_another_codec(self, model, kind):
    text = rf"input format is {kind}, expected one of 0 \(RGB\), 1 \(grey\) for this model; use the"
    with pytest.raises(bitstream.BitstreamError, match=text):
      model.decompress(_file(model, kind, [b"z", b"y"]))

  def test_refuses_substreams_that_are_not_what_their_symbols_encode_to(self, model, image):
    _, (z, y) = bitstream.parse(model.compress(image))
    data = _file(model, bitstream.RGB, [z, y + b"\x00"], image.shape[:2])
    text = r"hold other bytes than their symbols encode to: the file is damaged; copy it again from"
    with pytest.raises(bitstream.BitstreamError, match=text):
      model.decompress(data)

  def test_refuses_what_is_not_bytes(self, model):
    with pytest.raises(TypeError, match=r"`data` is str, expected bytes"):
      model.decompress("KVC")


def _file(model, kind, substreams, size=(16, 16)):
  header = bitstream.Header(model.fingerprint, kind, 8, *size)
  return bitstream.pack(header, substreams)


class TestGraphs:
  """What an exported model runs: errors come with the texts of the methods."""

  @pytest.fixture(scope="class")
  def precise(self):
    """A model in float64: what a graph fuses rounds float32 otherwise."""
    return khuvcm_tf.load(FOLDER, "float64")

  @pytest.fixture(scope="class")
  def compress(self, precise):
    form, dtype = precise.codec.input_format, precise.codec.plane_dtype

    def compress_(image, input_format):
      return precise.compress_graph(form.image_to_planes(image, dtype), input_format, 8)

    signature = tf.TensorSpec((None, None, None), tf.uint8), tf.TensorSpec((), tf.int32)
    return tf.function(compress_, signature, autograph=False)

  @pytest.fixture(scope="class")
  def decompress(self, precise):
    def decompress_(data):
      planes, header = precise.decompress_graph(data, bitstream.RGB, bitstream.GREY)
      is_grey = header.input_format == bitstream.GREY
      return precise.codec.input_format.planes_to_image(planes, is_grey)

    return tf.function(decompress_, (tf.TensorSpec((), tf.string),), autograph=False)

  def test_give_the_bytes_and_pixels_of_the_methods(self, precise, compress, decompress, image):
    for source, input_format in ((image, bitstream.RGB), (image[..., :1], bitstream.GREY)):
      data = precise.compress(source)
      assert compress(source, input_format).numpy() == data
      np.testing.assert_array_equal(decompress(data), precise.decompress(data))

  def test_refuse_damage_with_the_messages_of_the_methods(self, precise, decompress, image):
    data = precise.compress(image)
    left_over = _file(precise, 0, [b"\xff" * 400, b"y"])
    for damaged in (b"", data[:30], data[:-1], b"\x89PNG" + data, left_over):
      with pytest.raises(bitstream.BitstreamError) as expected:
        precise.decompress(damaged)
      with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        decompress(tf.constant(damaged))
      assert coding.assertion(caught.value) == str(expected.value)

  def test_refuse_foreign_files(self, precise, decompress, image):
    foreign = _with_fingerprint(precise.compress(image), bytes(8))
    for data, text in (
      (foreign, r"the file was made with another model; use the one that wrote it"),
      (
        _file(precise, 2, [b"z", b"y"]),
        r"holds another kind of image; use the model and signature that",
      ),
      (_file(precise, 0, [b"z"]), r"holds another kind of image; use the model and signature that"),
    ):
      with pytest.raises(tf.errors.InvalidArgumentError, match=text):
        decompress(tf.constant(data))


class TestThreads:
  @pytest.mark.parametrize("name", ["model", "context_model"])
  def test_that_share_a_model_get_what_one_after_the_other_gets(self, name, image, request):
    alone = request.getfixturevalue(name)
    shared = model_files.load(FOLDER if name == "model" else CONTEXT)
    sources = [image, image[:17, :33], image[:1, :1, :1], image[::-1]]
    barrier = threading.Barrier(len(sources))

    def results(model, source):
      data = model.compress(source)
      return data, model.decompress(data).tobytes(), model.estimate(source)

    def together(source):
      barrier.wait()  # The first calls of all meet, where graphs are made.
      return [results(shared, source) for _ in range(2)]

    with concurrent.futures.ThreadPoolExecutor(len(sources)) as pool:
      found = list(pool.map(together, sources))
    for source, of_source in zip(sources, found):
      assert of_source == [results(alone, source)] * 2


class TestMemory:
  def test_too_small_for_a_large_image_is_an_error_before_the_image_is_coded(
    self, model, monkeypatch
  ):
    monkeypatch.setattr(coding, "free_memory", lambda: 2**30)
    large = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (4000, 3000, 3))
    text = (
      r"an image of 3000x4000 pixels needs about \d+\.\d GiB of memory, but 1\.0 GiB are free; "
      r"code it in parts or on a larger machine"
    )
    with pytest.raises(coding.ModelError, match=text):
      model.compress(large)
    with pytest.raises(coding.ModelError, match=text):
      model.decompress(_file(model, bitstream.RGB, [b"z", b"y"], (4000, 3000)))

  def test_is_not_asked_about_for_a_small_image(self, model, image, monkeypatch):
    monkeypatch.setattr(coding, "free_memory", lambda: 0)
    assert model.compress(image)

  def test_counts_what_the_cache_of_files_would_give_back(self):
    pages = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * pages
    assert 2**20 < coding.free_memory() <= total

  def test_is_asked_of_sysconf_where_there_is_no_proc(self, monkeypatch):
    def refuse(*_, **__):
      raise FileNotFoundError

    monkeypatch.setattr(coding, "open", refuse, raising=False)
    values = {"SC_AVPHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", values.__getitem__)
    assert coding.free_memory() == 40960
    monkeypatch.setattr(os, "sysconf", lambda name: int(name))  # a name it does not know
    assert coding.free_memory() is None


def test_all_refusals_are_errors_that_programs_print_in_one_line():
  assert issubclass(coding.ModelError, errors.Error)
  assert issubclass(bitstream.BitstreamError, errors.Error)
