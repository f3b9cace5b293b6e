"""The container: plain Python against golden files, TensorFlow ops against plain Python."""

from __future__ import annotations

import os
import pathlib
import random
import re
import zlib

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from khuvcm_tf import bitstream, errors
from khuvcm_tf.bitstream import layout, ops

_HERE = pathlib.Path(__file__).parent
_GOLDEN = _HERE / "golden"
_FINGERPRINT = bytes.fromhex("0123456789abcdef")
_GOLDEN_FILES = {
  "container_rgb": ((_FINGERPRINT, 0, 8, 512, 768), [b"side", b"latents"]),
  "container_grey_smallest": ((bytes(8), 1, 8, 1, 1), [b""]),
  "container_ycbcr444_10_bits": ((b"\xff" * 8, 2, 10, 65535, 2048), [b"", b"\x00" * 130, b"\xff"]),
  "container_ycbcr420_16_parts": (
    (_FINGERPRINT, 3, 8, 17, 33),
    [bytes([part]) * part for part in range(16)],
  ),
  "container_rgb_quality": ((_FINGERPRINT, 0, 8, 512, 768, 200), [b"side", b"latents"]),
  "container_features": ((_FINGERPRINT, 4, 32, 320, 480, 7, 15, 427, 640), [b"side", b"latents"]),
}
_VERSIONS = {"container_rgb_quality": 2, "container_features": 3}  # of others 1


def _sealed(body: bytes) -> bytes:
  return body + zlib.crc32(body).to_bytes(4, "little")


def _varint(number: int) -> bytes:
  low, rest = number % 128, number // 128
  return bytes([low]) if not rest else bytes([low + 128]) + _varint(rest)


def _file(input_format, bit_depth, varints, payload) -> bytes:
  """Returns a file with a good checksum; its fields and varints may be anything."""
  varints = [_varint(each) if isinstance(each, int) else each for each in varints]
  fixed = b"KVC\x01\x00" + _FINGERPRINT + bytes([input_format, bit_depth])
  return _sealed(fixed + b"".join(varints) + payload)


def _graph(function, *signature):
  return tf.function(function, input_signature=signature, autograph=False)


_STRING, _NUMBER = tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)
_unpack = _graph(lambda data, limit: ops.unpack(data, limit), _STRING, _NUMBER)
_crc32 = _graph(ops.crc32, _STRING)


def _plain_outcome(data, max_pixels=2**27):
  """Returns the header and substreams that `parse` gives, or the text of its error."""
  try:
    return bitstream.parse(data, max_pixels)
  except bitstream.BitstreamError as error:
    return str(error)


def _ops_outcome(data, max_pixels=2**27, unpack=_unpack):
  """Returns the same of `ops.unpack`."""
  header, substreams, status = unpack(data, tf.constant(max_pixels, tf.int64))
  fields = [field.numpy() for field in header]
  if status.code == 0:
    return (fields[0], *map(int, fields[1:])), substreams.numpy().tolist()
  assert fields[0] == b"" and not any(fields[1:]) and len(substreams) == 0
  return ops.message(status)


def _check_of(outcome) -> str:
  """Returns the key in `layout.TEXTS` of an outcome."""
  if not isinstance(outcome, str):
    return "GOOD"
  return next(n for n, text in layout.TEXTS.items() if outcome.startswith(text.split("{")[0]))


_fields = st.tuples(
  st.binary(min_size=8, max_size=8),
  st.sampled_from([(0, 8), (1, 8), (2, 8), (2, 10), (3, 8), (3, 10)]),
  st.integers(1, 65535),
  st.integers(1, 2048),
).map(lambda parts: (parts[0], *parts[1], *parts[2:]))
_substreams = st.lists(st.binary(max_size=300), min_size=1, max_size=16)


class TestPack:
  @given(_fields, _substreams)
  def test_is_undone_by_parse(self, fields, substreams):
    file = bitstream.pack(bitstream.Header(*fields), substreams)
    assert bitstream.parse(file) == (bitstream.Header(*fields), substreams)

  def test_costs_at_most_32_bytes_for_an_rgb_image_of_two_substreams(self):
    substreams = [bytes(3_000_000), bytes(10)]
    file = bitstream.pack(bitstream.Header(_FINGERPRINT, 0, 8, 65535, 65535), substreams)
    assert len(file) - 3_000_010 <= 32

  @pytest.mark.parametrize(
    "fields, substreams, text",
    [
      ((b"short", 0, 8, 1, 1), [b""], r"fingerprint .*found 5 bytes, expected 8; take it from"),
      ((bytes(8), 4, 8, 1, 1), [b""], r"input format: found 4, expected 0 to 3 .*newer program"),
      ((bytes(8), -1, 8, 1, 1), [b""], r"input format: found -1, expected 0 to 3"),
      ((bytes(8), 0, 10, 1, 1), [b""], r"bit depth: found 10, expected 8 .*at most 8 .*convert"),
      ((bytes(8), 2, 12, 1, 1), [b""], r"bit depth: found 12, expected 8 .*at most 10"),
      ((bytes(8), 2, 264, 1, 1), [b""], r"bit depth: found 264, expected 8 .*at most 10"),
      ((bytes(8), 0, 8, 70000, 1), [b""], r"height .*found 70000, expected 1 to 65535 .*in parts"),
      ((bytes(8), 0, 8, 1, 0), [b""], r"width .*found 0, expected 1 to 65535 .*in parts"),
      ((bytes(8), 0, 8, 1, 1), [], r"substreams .*found 0, expected 1 to 16; compress"),
      ((bytes(8), 0, 8, 1, 1), [b""] * 17, r"substreams .*found 17, expected 1 to 16; compress"),
    ],
  )
  def test_refuses_what_parse_would_refuse_and_so_do_the_ops(self, fields, substreams, text):
    header = bitstream.Header(*fields)
    with pytest.raises(bitstream.BitstreamError, match=text) as plain:
      bitstream.pack(header, substreams)
    with pytest.raises(bitstream.BitstreamError, match=re.escape(str(plain.value))):
      ops.pack(header, substreams)

  @pytest.mark.parametrize(
    "changed, text",
    [
      ({"input_format": 0}, r"input format: found 0, expected 0 to 4 .*feature maps in version 3"),
      ({"bit_depth": 8}, r"bit depth: found 8, .*32 for features\), at most 32"),
      ({"levels": 0}, r"levels of features .*found 0, expected 1 to 15"),
      ({"levels": 16}, r"levels of features .*found 16, expected 1 to 15"),
      ({"original_height": 0}, r"height of the image .*found 0, expected 1 to 65535"),
      ({"original_width": 65536}, r"width of the image .*found 65536, expected 1 to 65535"),
      ({"quality": 256}, r"quality out of range: found 256"),
    ],
  )
  def test_refuses_headers_of_features_that_parse_would_refuse(self, changed, text):
    header = bitstream.Header(*_GOLDEN_FILES["container_features"][0])._replace(**changed)
    with pytest.raises(bitstream.BitstreamError, match=text) as plain:
      bitstream.pack(header, [b""], 3)
    with pytest.raises(bitstream.BitstreamError, match=re.escape(str(plain.value))):
      ops.pack(header, [b""], 3)

  @pytest.mark.parametrize(
    "changed, substreams, text",
    [
      ({}, b"main", r"`substreams` is bytes, expected a list of bytes; put it into a list"),
      ({"height": 1.5}, [b"main"], r"`height` of the header is float, expected an integer"),
      ({"fingerprint": "modelABC"}, [b"main"], r"`fingerprint` of the header is str, expected b"),
      ({"fingerprint": 8}, [b"main"], r"`fingerprint` of the header is int, expected bytes"),
      ({}, ["main"], r"str found"),
    ],
  )
  def test_refuses_other_types(self, changed, substreams, text):
    header = bitstream.Header(_FINGERPRINT, 0, 8, 1, 1)._replace(**changed)
    with pytest.raises(TypeError, match=text):
      bitstream.pack(header, substreams)


class TestParse:
  @pytest.mark.parametrize(
    "data, text",
    [
      (b"", r"file is empty: found 0 bytes, expected at least 22; compress"),
      (b"KVC\x01", r"too short: found 4 bytes, expected at least 22; copy it again"),
      (b"\x89PNG" + bytes(40), r"not a \.kvc file: .*0x89504e47, expected 0x4b564303 .*check"),
      (b"\x00PNG" + bytes(40), r"not a \.kvc file: its first bytes are 0x00504e47, expected 0x4b"),
      (b"KVC\x07" + bytes(40), r"version 7, expected 1 to 3; read it with"),
      (b"KVC\x01\x02" + bytes(40), r"flags: found 2, expected 0; read it with"),
      (b"KVC\x01" + bytes(40), r"damaged, .*CRC-32 is 0x[0-9a-f]{8}, expected 0x00000000 .*copy"),
    ],
  )
  def test_names_what_is_wrong_at_the_start(self, data, text):
    with pytest.raises(bitstream.BitstreamError, match=text):
      bitstream.parse(data)

  @pytest.mark.parametrize(
    "input_format, bit_depth, numbers, payload, text",
    [
      (4, 32, [1, 1, 1], b"", r"input format: found 4, expected 0 to 3 .*newer program"),
      (1, 10, [1, 1, 1], b"", r"bit depth: found 10, expected 8 .*at most 8 .*convert"),
      (3, 9, [1, 1, 1], b"", r"bit depth: found 9, expected 8 .*at most 10 .*convert"),
      (0, 8, [b"\x81\x00", 1, 1], b"", r"shortest form .*found at byte 16, expected at most 5"),
      (0, 8, [1, b"\x80" * 5 + b"\x01", 1], b"", r"overlong.*found at byte 21"),
      (0, 8, [1, 1, b"\xff"], b"", r"unfinished: found at byte 18.*; compress"),
      (0, 8, [0, 1, 1], b"", r"height .*found 0, expected 1 to 65535"),
      (0, 8, [1, 2**35 - 1, 1], b"", r"width .*found 34359738367, expected 1 to 65535"),
      (0, 8, [65535, 65535, 1], b"", r"found 4294836225 pixels, expected at most 134217728; raise"),
      (0, 8, [1, 1, 0], b"", r"substreams out of range: found 0, expected 1 to 16"),
      (0, 8, [1, 1, 2**35 - 1], b"", r"substreams out of range: found 34359738367"),
      (0, 8, [1, 1, 2, 5], b"1234", r"exceed the file: .*need 28 bytes, expected at most 27; comp"),
      (0, 8, [1, 1, 3, 2**35 - 1, 2**35 - 1], b"1234", r"exceed .*need 68719476766 bytes"),
    ],
  )
  def test_names_what_is_wrong_in_a_sealed_header(
    self, input_format, bit_depth, numbers, payload, text
  ):
    data = _file(input_format, bit_depth, numbers, payload)
    with pytest.raises(bitstream.BitstreamError, match=text):
      bitstream.parse(data)
    assert _ops_outcome(data) == _plain_outcome(data)

  def test_calls_a_file_that_its_header_exceeds_cut_short(self):
    header = bitstream.Header(_FINGERPRINT, 0, 8, 512, 768)
    file = bitstream.pack(header, [bytes(1000), bytes(1000)])
    with pytest.raises(
      bitstream.BitstreamError,
      match=r"cut short or damaged: found 600 bytes, expected at least 1026 by its header; copy",
    ):
      bitstream.parse(file[:600])

  def test_refuses_each_cut_and_each_extension(self):
    file = (_GOLDEN / "container_rgb.kvc").read_bytes()
    expected = ["EMPTY"] + 21 * ["TOO_SHORT"] + 3 * ["CRC"] + 4 * ["CUT"] + 7 * ["CRC"]
    cuts = [_plain_outcome(file[:length]) for length in range(len(file))]
    assert [_check_of(cut) for cut in cuts] == expected
    assert cuts == [_ops_outcome(file[:length]) for length in range(len(file))]
    for end in (b"\x00", file[-1:], file):
      assert _check_of(_plain_outcome(file + end)) == "CRC"

  def test_accepts_exactly_max_pixels(self):
    file = bitstream.pack(bitstream.Header(_FINGERPRINT, 0, 8, 10, 10), [b"main"])
    assert bitstream.parse(file, max_pixels=100)[0].height == 10
    with pytest.raises(bitstream.BitstreamError, match="found 100 pixels, expected at most 99"):
      bitstream.parse(file, max_pixels=99)

  def test_refuses_other_types(self):
    with pytest.raises(
      TypeError, match="`data` is str, expected bytes; read the file in mode 'rb'"
    ):
      bitstream.parse("KVC")
    with pytest.raises(TypeError, match="float"):
      bitstream.parse(b"", max_pixels=1e8)

  def test_raises_an_error_that_programs_print(self):
    assert issubclass(bitstream.BitstreamError, errors.Error)

  def test_all_texts_are_one_line_with_a_remedy(self):
    for name, text in list(layout.TEXTS.items())[1:]:
      assert "\n" not in text and "; " in text and "{found" in text, name


class TestOps:
  @given(_fields, _substreams)
  @settings(max_examples=40, deadline=None)
  def test_write_and_read_as_plain_python_does(self, fields, substreams):
    header = bitstream.Header(*fields)
    file = ops.pack(header, substreams).numpy()
    assert file == bitstream.pack(header, substreams)
    assert _ops_outcome(file) == (header, substreams)

  def test_refuse_wrong_shapes(self):
    good = bitstream.Header(bytes(8), 0, 8, 1, 1)
    with pytest.raises(ValueError, match=r"`substreams` has shape \(\), expected \[n\]; stack"):
      ops.pack(good, b"main")
    with pytest.raises(ValueError, match=r"a field of `header` has shape \(2,\), expected scalar"):
      ops.pack(good._replace(width=[1, 2]), [b"main"])

  def test_crc32_equals_zlib_for_each_length_up_to_70(self):
    data = random.Random(1).randbytes(70)
    for length in range(71):
      assert _crc32(data[:length]).numpy() == zlib.crc32(data[:length])

  @pytest.mark.parametrize("length", [4095, 4096, 4097, 65531, 65532, 100_003, 1_000_000])
  def test_crc32_equals_zlib_for_long_strings(self, length):
    data = random.Random(length).randbytes(length)
    assert _crc32(data).numpy() == zlib.crc32(data)

  @given(st.binary(max_size=200))
  @settings(max_examples=50, deadline=None)
  def test_crc32_equals_zlib_for_any_content(self, data):
    assert _crc32(data).numpy() == zlib.crc32(data)

  def test_crc32_of_the_digits_is_the_published_check_value(self):
    assert ops.crc32(b"123456789").numpy() == 0xCBF43926


def _mutated(file, others, rng):
  """A file changed at one to three positions: flips, cuts, splices, extremes in the header."""
  data = bytearray(file)
  for _ in range(rng.randint(1, 3)):
    position = rng.randrange(len(data)) if data else 0
    in_header = rng.randrange(min(len(data), 40)) if data else 0
    kind = rng.randrange(7)
    if kind == 0:
      flipped = [octet ^ 1 << rng.randrange(8) for octet in data[position : position + 1]]
      data[position : position + 1] = bytes(flipped)
    elif kind == 1:
      del data[position:]
    elif kind == 2:
      other = rng.choice(others)
      data[position:] = other[rng.randrange(len(other)) :]
    elif kind == 3:
      data[in_header : in_header + 1] = rng.choice([b"\x00", b"\x7f", b"\x80", b"\xff"])
    elif kind == 4:
      extremes = [0, 1, 16, 17, 127, 128, 65535, 65536, 2**31, 2**32, 2**35 - 1, 2**35, 2**63]
      data[in_header:in_header] = _varint(rng.choice(extremes))
    elif kind == 5:
      data[position:position] = rng.randbytes(rng.randint(1, 20))
    else:
      del data[in_header : in_header + rng.randint(1, 3)]
  return bytes(data)


class TestDamagedFiles:
  @pytest.mark.parametrize("is_sealed", [False, True])
  def test_are_read_or_refused_by_both_readers_alike(self, is_sealed):
    rng = random.Random(f"mutations {is_sealed}")
    files = [path.read_bytes() for path in sorted(_GOLDEN.glob("container_*.kvc"))]
    checks = set()
    for _ in range(400):
      data = _mutated(rng.choice(files), files, rng)
      data = _sealed(data[:-4]) if is_sealed else data
      expected = _plain_outcome(data)
      assert _ops_outcome(data) == expected, data.hex()
      checks.add(_check_of(expected))
    # The mutations are worth something only if they reach most checks.
    assert len(checks) >= (12 if is_sealed else 6), checks

  @given(st.binary(max_size=120))
  @settings(max_examples=100, deadline=None)
  def test_of_any_bytes_behind_a_valid_start_are_treated_alike(self, rest):
    data = _sealed(b"KVC\x01\x00" + _FINGERPRINT + b"\x03\x08" + rest)
    assert _ops_outcome(data) == _plain_outcome(data)

  @given(st.lists(st.integers(0, 2**35 - 1) | st.integers(0, 20), min_size=3, max_size=18))
  @settings(max_examples=100, deadline=None)
  def test_with_any_numbers_in_the_header_are_treated_alike(self, numbers):
    data = _file(0, 8, numbers, bytes(30))
    assert _ops_outcome(data, max_pixels=2**62) == _plain_outcome(data, max_pixels=2**62)


_HEADER_2 = bitstream.Header(_FINGERPRINT, 0, 8, 512, 768, quality=200)


class TestVersion2:
  def test_has_its_byte_behind_the_bit_depth(self):
    first = (_GOLDEN / "container_rgb.kvc").read_bytes()
    expected = _sealed(first[:3] + b"\x02" + first[4:15] + b"\xc8" + first[15:-4])
    assert bitstream.pack(_HEADER_2, [b"side", b"latents"], version=2) == expected
    assert ops.pack(_HEADER_2, [b"side", b"latents"], version=2).numpy() == expected
    assert bitstream.parse(expected) == (_HEADER_2, [b"side", b"latents"])
    assert _ops_outcome(expected, unpack=ops.unpack) == (_HEADER_2, [b"side", b"latents"])

  @pytest.mark.parametrize("name", [name for name in _GOLDEN_FILES if name not in _VERSIONS])
  def test_leaves_version_1_as_it_is(self, name):
    fields, substreams = _GOLDEN_FILES[name]
    data = (_GOLDEN / f"{name}.kvc").read_bytes()
    header = bitstream.Header(*fields)
    assert bitstream.pack(header, substreams) == data
    assert ops.pack(header, substreams).numpy() == data
    assert bitstream.parse(data) == (header, substreams)  # quality is the default
    assert _ops_outcome(data, unpack=ops.unpack) == (header, substreams)

  @pytest.mark.parametrize(
    "quality, version, text",
    [
      (256, 2, r"quality out of range: found 256, expected 0 to 255; take"),
      (200, 1, r"lacks a field .*: found the value 200, expected the default 0; write a newer ver"),
    ],
  )
  def test_refuses_values_that_the_version_cannot_hold(self, quality, version, text):
    header = _HEADER_2._replace(quality=quality)
    for pack in (bitstream.pack, ops.pack):
      with pytest.raises(bitstream.BitstreamError, match=text):
        pack(header, [b"main"], version=version)

  def test_is_read_or_refused_by_both_readers_alike(self):
    unpack = _graph(lambda data, limit: ops.unpack(data, limit), _STRING, _NUMBER)
    rng = random.Random("version 2")
    files = [bitstream.pack(_HEADER_2, [b"side", b"latents"], version=2)]
    files += [path.read_bytes() for path in sorted(_GOLDEN.glob("container_*.kvc"))]
    for _ in range(200):
      data = _mutated(files[rng.choice([0, 0, 0, 1, 2, 3, 4])], files, rng)
      data = _sealed(data[:-4]) if rng.random() < 0.8 else data
      assert _ops_outcome(data, unpack=unpack) == _plain_outcome(data), data.hex()
    smallest = _sealed(b"KVC\x02\x00" + _FINGERPRINT + bytes([0, 8, 0, 1, 1]))
    assert _ops_outcome(smallest, unpack=unpack) == _plain_outcome(smallest)
    assert _check_of(_plain_outcome(smallest)) == "VARINT"


class _Container(tf.Module):
  @tf.function(input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([], tf.int32)])
  def write(self, substreams, height):
    header = bitstream.Header(_FINGERPRINT, bitstream.YCBCR420, 10, height, 33)
    return ops.pack(header, substreams)

  @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
  def read(self, data):
    header, substreams, status = ops.unpack(data, 2**27)
    with tf.control_dependencies([ops.assert_valid(status)]):
      return tf.identity(header.height), tf.identity(substreams)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("container"))
  tf.saved_model.save(_Container(), folder)
  return tf.saved_model.load(folder)


class TestSavedModel:
  def test_writes_and_reads_as_plain_python_does(self, exported):
    header = bitstream.Header(_FINGERPRINT, 3, 10, 17, 33)
    for count in (1, 2, 16):
      substreams = [bytes([part]) * 1000 * part for part in range(count)]
      file = exported.write(substreams, 17).numpy()
      assert file == bitstream.pack(header, substreams)
      height, read = exported.read(file)
      assert (int(height), read.numpy().tolist()) == (17, substreams)

  def test_stops_at_a_damaged_file_with_the_text_of_the_error(self, exported):
    file = exported.write([b"side", b"latents"], 17).numpy()
    damaged = file[:-1] + bytes([file[-1] ^ 1])
    with pytest.raises(bitstream.BitstreamError) as error:
      bitstream.parse(damaged)
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape(str(error.value))):
      exported.read(damaged)

  def test_refuses_to_write_a_header_out_of_range(self, exported):
    with pytest.raises(tf.errors.InvalidArgumentError, match="height .*found 70000, expected 1 to"):
      exported.write([b"main"], 70000)

  def test_has_no_python_inside(self, exported):
    for function in (exported.write, exported.read):
      graph = function.get_concrete_function().graph.as_graph_def()
      bodies = [node for body in graph.library.function for node in body.node_def]
      assert not [node.op for node in (*graph.node, *bodies) if "PyFunc" in node.op]


class TestGoldenFiles:
  @pytest.mark.parametrize("name", list(_GOLDEN_FILES))
  def test_are_what_is_written_and_read(self, name):
    fields, substreams = _GOLDEN_FILES[name]
    path = _GOLDEN / f"{name}.kvc"
    version = _VERSIONS.get(name, 1)
    data = bitstream.pack(bitstream.Header(*fields), substreams, version)
    if os.environ.get("REGENERATE") == "1":
      path.write_bytes(data)
    assert data == path.read_bytes()
    assert bitstream.parse(path.read_bytes()) == (bitstream.Header(*fields), substreams)

  def test_the_example_of_the_documentation_is_one_of_them(self):
    page = (_HERE.parent / "docs" / "format.md").read_text()
    rows = re.findall(r"^[0-9a-f]{8}  ((?:[0-9a-f]{2} )+) *\|", page, re.MULTILINE)
    meanings = re.findall(r"^\| `((?:[0-9a-f]{2} ?)+)` +\|", page, re.MULTILINE)
    example = bytes.fromhex("".join(rows))
    assert example == (_GOLDEN / "container_rgb.kvc").read_bytes()
    assert bytes.fromhex("".join(meanings)) == example

  def test_the_tables_of_checks_in_the_documentation_and_the_code_agree(self):
    page = (_HERE.parent / "docs" / "format.md").read_text()
    names = re.findall(r"^\| ([A-Z_]+) +\|", page, re.MULTILINE)
    of_writers = ("GOOD", "FINGERPRINT", "QUALITY", "ABSENT")
    assert names == [name for name in layout.TEXTS if name not in of_writers]
