"""Thousands of damaged files: each is refused in one line or decodes to an image of its size.

Codecs differ here only in their entropy models: two of them, one with a context model, are tested
with more of the damage, the others with a quarter of it.

Seeds are fixed, so that a failure can be repeated. Checksums are repaired in more than half of the
files: with a wrong checksum a file is refused before the decoder starts.
"""

from __future__ import annotations

import collections
import itertools
import pathlib
import random
import resource
import zlib

import numpy as np
import pytest

from khuvcm_tf import bitstream, codecs, coding, model_files
from khuvcm_tf.bitstream import layout
from khuvcm_tf.data import frames

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
MAX_PIXELS = 2**18
# Bytes by which a process may grow while it decodes a damaged file of at most MAX_PIXELS, whose
# padded image may have 64 times as many.
MEMORY = 2**31

_FIXED = 15  # bytes before the first varint
_SIDES = [0, 1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 1000, 2047, 16383, 65535, 65536, 2**31, 2**32]
_EXTREMES = [0, 1, 2, 3, 15, 16, 17, 127, 128, 2**14, 2**31 - 1, 2**31, 2**32 - 1, 2**35 - 1]


# A codec is tested with one in so many damages; those not listed with one in four.
_PARTS = {"mbt2018_mean": 1, "mbt2018": 2}


class _Files:
  """A golden model and its files: of one pixel, grey, and of several blocks.

  Attributes:
    step: the codec is tested with one in `step` damages.
    version: of the files.
  """

  def __init__(self, name: str):
    self.model = model_files.load(str(GOLDEN / name / "model"))
    self.step = _PARTS.get(name, 4)
    self.good = [
      (GOLDEN / name / f"{title}.kvc").read_bytes() for title in ("smallest", "grey", "photo")
    ]
    self.version = self.good[0][3]
    self.parsed = [bitstream.parse(data) for data in self.good]
    self.count = len(self.model.codec.substreams)

  def file(self, header: bitstream.Header, substreams: list[bytes]) -> bytes:
    """Writes a file with a good checksum; header fields and substreams may be anything."""
    fixed = self.good[0][:5] + header.fingerprint + bytes([header.input_format, header.bit_depth])
    if self.version == 2:
      fixed += bytes([header.quality])
    numbers = [header.height, header.width, len(substreams), *map(len, substreams[:-1])]
    return _sealed(fixed + b"".join(map(_varint, numbers)) + b"".join(substreams))

  def with_one(self, change) -> list[list[bytes]]:
    """Returns the substreams of the largest image with each of them changed by itself."""
    substreams = list(self.parsed[2][1])
    return [
      [*substreams[:i], change(substreams[i]), *substreams[i + 1 :]] for i in range(self.count)
    ]

  def outcome(self, data: bytes) -> str:
    """Decodes; returns the name of the error, or "image"."""
    try:
      image = self.model.decompress(data, max_pixels=MAX_PIXELS)
    except (bitstream.BitstreamError, coding.ModelError) as error:
      assert str(error) and "\n" not in str(error)
      return type(error).__name__
    header, _ = bitstream.parse(data)
    if header.input_format == bitstream.YCBCR420:
      frames.check_frame(image, "the frame")
      assert image.y.shape == (header.height, header.width)
      assert image.bits == header.bit_depth
      return "image"
    channels = 1 if header.input_format == bitstream.GREY else 3
    assert image.shape == (header.height, header.width, channels)
    assert image.dtype == np.uint8
    return "image"


@pytest.fixture(scope="module", params=[*codecs.names(), "mbt2018_variable"])
def files(request):
  return _Files(request.param)


def _sealed(body: bytes) -> bytes:
  return body + zlib.crc32(body).to_bytes(4, "little")


def _varint(value: int) -> bytes:
  low, rest = value & 127, value >> 7
  return bytes([low]) if not rest else bytes([low | 128]) + _varint(rest)


# Each takes the bodies (files without their checksums) and returns a damaged one.


def _flip_bits(rng, bodies):
  body = bytearray(rng.choice(bodies))
  for _ in range(rng.choice([1, 1, 2, 8, 64])):
    body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
  return bytes(body)


def _exchange_bytes(rng, bodies):
  body = bytearray(rng.choice(bodies))
  for _ in range(rng.choice([1, 3])):
    body[rng.randrange(_FIXED, len(body))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
  return bytes(body)


def _cut(rng, bodies):
  body = rng.choice(bodies)
  return body[: rng.randrange(len(body))]


def _splice(rng, bodies):
  head, tail = rng.choice(bodies), rng.choice(bodies)
  return head[: rng.randrange(len(head))] + tail[rng.randrange(len(tail)) :]


def _insert(rng, bodies):
  body = rng.choice(bodies)
  position = rng.randrange(len(body) + 1)
  return body[:position] + rng.randbytes(rng.choice([1, 2, 100])) + body[position:]


def _remove(rng, bodies):
  body = rng.choice(bodies)
  position = rng.randrange(len(body))
  return body[:position] + body[position + rng.choice([1, 2, 20]) :]


def _extend(rng, bodies):
  return rng.choice(bodies) + rng.choice([b"\x00", b"\xff" * 3, rng.randbytes(40)])


def _replace_payload(rng, bodies):
  body = rng.choice(bodies)
  start = rng.randrange(_FIXED, len(body))
  return body[:start] + rng.randbytes(len(body) - start)


_DAMAGES = [
  _flip_bits,
  _exchange_bytes,
  _cut,
  _splice,
  _insert,
  _remove,
  _extend,
  _replace_payload,
]


def test_damage_ends_in_an_error_or_in_an_image_of_the_size_in_the_header(files):
  rng = random.Random(7)
  bodies = [data[:-4] for data in files.good]
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  counts = collections.Counter()
  for damage, i in itertools.product(_DAMAGES, range(220 // files.step)):
    body = damage(rng, bodies)
    if i % 8 < 5:
      counts[files.outcome(_sealed(body))] += 1
    else:
      data = body + rng.choice(files.good)[-4:]
      found = files.outcome(data)
      assert data in files.good or found == "BitstreamError"
      counts["unsealed"] += 1
  # Each way to end was taken: the checks above were of something.
  assert counts["BitstreamError"] > 500 // files.step
  assert counts["ModelError"] >= 4 // files.step
  assert counts["image"] >= 4 // files.step
  grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
  assert grown < MEMORY


def _headers(files):
  """Files whose headers say extremes, one field at a time, with good checksums."""
  header, substreams = files.parsed[2]
  for side in _SIDES:
    yield files.file(header._replace(height=side), substreams)
    yield files.file(header._replace(width=side), substreams)
  for height, width in ((65535, 4), (4, 65535), (512, 512), (513, 512), (65536, 1), (0, 65535)):
    yield files.file(header._replace(height=height, width=width), substreams)
  for value in range(256):
    yield files.file(header._replace(input_format=value), substreams)
    yield files.file(header._replace(bit_depth=value), substreams)
    if files.version == 2:
      yield files.file(header._replace(quality=value), substreams)
  for bit in range(64):
    other = (int.from_bytes(header.fingerprint, "big") ^ 1 << bit).to_bytes(8, "big")
    yield files.file(header._replace(fingerprint=other), substreams)
  body = files.good[2][:-4]
  for position, value in itertools.product((3, 4), range(0, 256, 5)):
    yield _sealed(body[:position] + bytes([value]) + body[position + 1 :])
  numbers = [header.height, header.width, 2, len(substreams[0])]
  for position, value in itertools.product(range(4), _EXTREMES):
    changed = [*numbers[:position], value, *numbers[position + 1 :]]
    fixed = layout.LAYOUTS[files.version].fixed_bytes
    yield _sealed(body[:fixed] + b"".join(map(_varint, changed)) + b"".join(substreams))


def test_extremes_in_the_header_end_in_an_error_or_in_an_image_of_that_size(files):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  headers = itertools.islice(_headers(files), 0, None, files.step)
  counts = collections.Counter(files.outcome(data) for data in headers)
  assert counts["BitstreamError"] > 500 // files.step
  assert counts["ModelError"] == 64 // files.step  # one for each bit of the fingerprint
  grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
  assert grown < MEMORY


class TestSubstreams:
  def _refused(self, files, substreams, match="other bytes than their symbols encode to: .*copy"):
    with pytest.raises(bitstream.BitstreamError, match=match):
      files.model.decompress(files.file(files.parsed[2][0], substreams))

  @pytest.mark.parametrize("stream", [b"", b"\x80" * 20_000, b"\xff" * 20_000])
  def test_of_no_bytes_or_far_too_many_are_refused(self, files, stream):
    """From 0xff a context model may read as many bits as an escape can have: 30 bytes a latent."""
    for substreams in files.with_one(lambda _: stream):
      self._refused(files, substreams)
    self._refused(files, [stream] * files.count)

  @pytest.mark.parametrize("stream", [b"\x80", b"\x00", b"\x80\x80", b"\x01"])
  def test_of_one_or_two_bytes_come_to_an_end(self, files, stream):
    """With the escapes of tensorflow-compression, 0x80 never ended; here it may be valid."""
    for substreams in (*files.with_one(lambda _: stream), [stream] * files.count):
      data = files.file(files.parsed[2][0], substreams)
      assert files.outcome(data) in ("BitstreamError", "image")

  @pytest.mark.parametrize("end", [bytes(1), bytes(7), b"\x80" * 9, b"\x01" * 20, b"\xff" * 300])
  def test_with_bytes_left_over_are_refused(self, files, end):
    """These cannot be part of other symbols: zeros, or more bytes than the coder reads ahead."""
    for substreams in files.with_one(lambda stream: stream + end):
      self._refused(files, substreams)

  def test_cut_short_are_refused_unless_other_symbols_encode_to_them(self, files):
    """A decoder reads zeros behind the end, so a cut stream may be the whole code of other symbols.

    A cut z is refused, as it changes the parameters of all of y. A codec without z may decode all.
    """
    header, substreams = files.parsed[2]
    cuts = [
      cut
      for i in range(1, min(12, max(map(len, substreams))))
      for cut in files.with_one(lambda stream, i=i: stream[: max(len(stream) - i, 1)])
    ]
    found = [files.outcome(files.file(header, cut)) for cut in cuts if cut != substreams]
    assert set(found) <= {"BitstreamError", "image"}
    assert "BitstreamError" in found or files.count == 1

  def test_of_exchanged_positions_are_refused(self, files):
    if files.count == 1:
      pytest.skip("a single substream has no other position")
    _, substreams = files.parsed[2]
    self._refused(files, substreams[::-1])

  @pytest.mark.parametrize("count", [1, 3, 16])
  def test_of_another_number_are_refused(self, files, count):
    count += count == files.count
    match = rf"the file has {count} substreams, expected {files.count} for this model; copy"
    self._refused(files, [b"x"] * count, match)
