"""The container against zlib, a plain reader written from docs/format.md, and golden files."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import random
import re
import threading
import zlib

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from khuvcm_tf import bitstream, errors

_HERE = pathlib.Path(__file__).parent
_GOLDEN = _HERE / "golden"
_FINGERPRINT = bytes.fromhex("0123456789abcdef")

_spec = importlib.util.spec_from_file_location("plain_bitstream", _HERE / "plain_bitstream.py")
plain = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(plain)

_GOLDEN_FILES = {
  "container_rgb": ((_FINGERPRINT, 0, 8, 512, 768), [b"side", b"latents"]),
  "container_grey_smallest": ((bytes(8), 1, 8, 1, 1), [b""]),
  "container_ycbcr444_10_bits": ((b"\xff" * 8, 2, 10, 65535, 2048), [b"", b"\x00" * 130, b"\xff"]),
  "container_ycbcr420_16_parts": (
    (_FINGERPRINT, 3, 8, 17, 33),
    [bytes([part]) * part for part in range(16)],
  ),
}


def _pack(fields, substreams):
  return bitstream.pack(bitstream.Header(*fields), substreams).numpy()


def _code(status):
  return list(bitstream._TEXTS)[int(status.code)]


def _outcome(data, max_pixels=2**27):
  """What our reader makes of a file: the fields and substreams, or the name of the check."""
  header, substreams, status = bitstream.unpack(data, max_pixels)
  if status.code == 0:
    fields = (header.fingerprint.numpy(), *(int(field) for field in header[1:]))
    return fields, substreams.numpy().tolist()
  assert tuple(header[1:]) == (0, 0, 0, 0) and len(substreams) == 0
  with pytest.raises(bitstream.BitstreamError, match=re.escape(bitstream.message(status))):
    bitstream.parse(data, max_pixels)
  return _code(status)


def _plain_outcome(data, max_pixels=2**27):
  try:
    return plain.parse(data, max_pixels)
  except plain.Refused as refused:
    return str(refused)


_fields = st.tuples(
  st.binary(min_size=8, max_size=8),
  st.sampled_from([(0, 8), (1, 8), (2, 8), (2, 10), (3, 8), (3, 10)]),
  st.integers(1, 65535),
  st.integers(1, 2048),
).map(lambda parts: (parts[0], *parts[1], *parts[2:]))
_substreams = st.lists(st.binary(max_size=300), min_size=1, max_size=16)


class TestCrc32:
  def test_equals_zlib_for_each_length_up_to_70(self):
    data = random.Random(1).randbytes(70)
    for length in range(71):
      assert bitstream.crc32(data[:length]).numpy() == zlib.crc32(data[:length])

  @pytest.mark.parametrize("length", [4095, 4096, 4097, 65531, 65532, 100_003, 1_000_000])
  def test_equals_zlib_for_long_strings(self, length):
    data = random.Random(length).randbytes(length)
    assert bitstream.crc32(data).numpy() == zlib.crc32(data)

  @given(st.binary(max_size=200))
  @settings(max_examples=50, deadline=None)
  def test_equals_zlib_for_any_content(self, data):
    assert bitstream.crc32(data).numpy() == zlib.crc32(data)

  def test_of_the_digits_is_the_published_check_value(self):
    assert bitstream.crc32(b"123456789").numpy() == 0xCBF43926

  def test_refuses_what_is_not_a_string(self):
    with pytest.raises(TypeError, match="string"):
      bitstream.crc32(tf.constant(3))


class TestPack:
  @given(_fields, _substreams)
  @settings(max_examples=40, deadline=None)
  def test_writes_what_the_plain_writer_writes(self, fields, substreams):
    assert _pack(fields, substreams) == plain.write(*fields, substreams)

  @given(_fields, _substreams)
  @settings(max_examples=40, deadline=None)
  def test_is_undone_by_parse(self, fields, substreams):
    assert bitstream.parse(_pack(fields, substreams)) == (fields, substreams)

  def test_costs_at_most_32_bytes_for_an_rgb_picture_of_two_substreams(self):
    substreams = [bytes(3_000_000), bytes(10)]
    file = _pack((_FINGERPRINT, 0, 8, 65535, 65535), substreams)
    assert len(file) - 3_000_010 <= 32

  @pytest.mark.parametrize(
    "fields, substreams, text",
    [
      ((b"short", 0, 8, 1, 1), [b""], r"fingerprint .*found 5 bytes, expected 8; take it from"),
      ((bytes(8), 4, 8, 1, 1), [b""], r"input format: found 4, expected 0 to 3 .*newer program"),
      ((bytes(8), -1, 8, 1, 1), [b""], r"input format: found -1, expected 0 to 3"),
      ((bytes(8), 0, 10, 1, 1), [b""], r"bit depth: found 10, expected 8 .*convert the picture"),
      ((bytes(8), 2, 12, 1, 1), [b""], r"bit depth: found 12, expected 8 .*at most 10"),
      ((bytes(8), 0, 8, 70000, 1), [b""], r"height .*found 70000, expected 1 to 65535 .*in parts"),
      ((bytes(8), 0, 8, 1, 0), [b""], r"width .*found 0, expected 1 to 65535 .*in parts"),
      ((bytes(8), 0, 8, 1, 1), [], r"substreams .*found 0, expected 1 to 16; compress"),
      ((bytes(8), 0, 8, 1, 1), [b""] * 17, r"substreams .*found 17, expected 1 to 16; compress"),
    ],
  )
  def test_refuses_what_unpack_would_refuse(self, fields, substreams, text):
    with pytest.raises(bitstream.BitstreamError, match=text):
      _pack(fields, substreams)

  def test_refuses_a_scalar_of_substreams(self):
    with pytest.raises(ValueError, match=r"`substreams` has shape \(\), expected \[n\]; stack"):
      _pack((bytes(8), 0, 8, 1, 1), b"main")

  def test_and_parse_refuse_wrong_arguments_and_go_on_in_other_threads(self):
    good = (bytes(8), 0, 8, 1, 1)
    with pytest.raises(ValueError, match=r"a field of `header` has shape \(1,\), expected scalars"):
      _pack(([bytes(8)], *good[1:]), [b"main"])
    with pytest.raises(ValueError, match=r"a field of `header` has shape \(2,\), expected scalars"):
      _pack((*good[:4], [1, 2]), [b"main"])
    with pytest.raises(TypeError, match="float"):
      bitstream.parse(_pack(good, [b"main"]), max_pixels=1e8)
    # A `tf.function` that was called with wrong shapes or types keeps its lock.
    found = []
    other = threading.Thread(
      target=lambda: found.append(bitstream.parse(_pack(good, [b"main"]))), daemon=True
    )
    other.start()
    other.join(timeout=60)
    assert found == [(good, [b"main"])]


class TestParse:
  @pytest.mark.parametrize(
    "data, text",
    [
      (b"", r"file is empty: found 0 bytes, expected at least 22; compress"),
      (b"KVC\x01", r"too short: found 4 bytes, expected at least 22; copy it again"),
      (b"\x89PNG" + bytes(40), r"not a \.kvc file: .*0x89504e47, expected 0x4b564301 .*check"),
      (b"KVC\x07" + bytes(40), r"version 7, expected 1; read it with"),
      (b"KVC\x01\x02" + bytes(40), r"flags: found 2, expected 0; read it with"),
      (b"KVC\x01" + bytes(40), r"damaged, .*CRC-32 is 0x[0-9a-f]{8}, expected 0x00000000 .*copy"),
    ],
  )
  def test_says_what_is_wrong_at_the_start(self, data, text):
    with pytest.raises(bitstream.BitstreamError, match=text):
      bitstream.parse(data)

  @pytest.mark.parametrize(
    "input_format, bit_depth, numbers, payload, text",
    [
      (4, 32, [1, 1, 1], b"", r"input format: found 4, expected 0 to 3 .*newer program"),
      (1, 10, [1, 1, 1], b"", r"bit depth: found 10, expected 8 .*convert"),
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
  def test_says_what_is_wrong_in_a_sealed_header(
    self, input_format, bit_depth, numbers, payload, text
  ):
    varints = [plain.varint(each) if isinstance(each, int) else each for each in numbers]
    data = plain.write_numbers(_FINGERPRINT, input_format, bit_depth, varints, payload)
    with pytest.raises(bitstream.BitstreamError, match=text):
      bitstream.parse(data)
    assert _outcome(data) == _plain_outcome(data)

  def test_calls_a_file_that_its_header_exceeds_cut_short(self):
    file = _pack((_FINGERPRINT, 0, 8, 512, 768), [bytes(1000), bytes(1000)])
    with pytest.raises(
      bitstream.BitstreamError,
      match=r"cut short or damaged: found 600 bytes, expected at least 1026 by its header; copy",
    ):
      bitstream.parse(file[:600])

  def test_refuses_each_cut_and_each_extension(self):
    file = _pack((_FINGERPRINT, 0, 8, 512, 768), [b"side", b"latents"])
    for length in range(len(file)):
      assert _outcome(file[:length]) == _plain_outcome(file[:length]) != _outcome(file)
    for end in (b"\x00", file[-1:], file):
      assert _outcome(file + end) == "CRC"

  def test_accepts_exactly_max_pixels(self):
    file = _pack((_FINGERPRINT, 0, 8, 10, 10), [b"main"])
    assert bitstream.parse(file, max_pixels=100)[0].height == 10
    with pytest.raises(bitstream.BitstreamError, match="found 100 pixels, expected at most 99"):
      bitstream.parse(file, max_pixels=99)

  def test_refuses_what_is_not_bytes(self):
    with pytest.raises(
      TypeError, match="`data` is str, expected bytes; read the file in mode 'rb'"
    ):
      bitstream.parse("KVC")

  def test_raises_an_error_that_programs_print(self):
    assert issubclass(bitstream.BitstreamError, errors.Error)

  def test_all_texts_are_one_line_with_a_remedy(self):
    for name, text in list(bitstream._TEXTS.items())[1:]:
      assert "\n" not in text and "; " in text and "{found" in text, name


def _mutated(file, others, rng):
  """A file changed at one to three places: flips, cuts, splices, extremes in the header."""
  data = bytearray(file)
  for _ in range(rng.randint(1, 3)):
    place = rng.randrange(len(data)) if data else 0
    header_place = rng.randrange(min(len(data), 40)) if data else 0
    kind = rng.randrange(7)
    if kind == 0:
      data[place : place + 1] = bytes([data[place] ^ 1 << rng.randrange(8)]) if data else b""
    elif kind == 1:
      del data[place:]
    elif kind == 2:
      other = rng.choice(others)
      data[place:] = other[rng.randrange(len(other)) :]
    elif kind == 3:
      data[header_place : header_place + 1] = rng.choice([b"\x00", b"\x7f", b"\x80", b"\xff"])
    elif kind == 4:
      extremes = [0, 1, 16, 17, 127, 128, 65535, 65536, 2**31, 2**32, 2**35 - 1, 2**35, 2**63]
      data[header_place:header_place] = plain.varint(rng.choice(extremes))
    elif kind == 5:
      data[place:place] = rng.randbytes(rng.randint(1, 20))
    else:
      del data[header_place : header_place + rng.randint(1, 3)]
  return bytes(data)


class TestDamagedFiles:
  @pytest.mark.parametrize("is_sealed", [False, True])
  def test_are_read_or_refused_as_the_plain_reader_does(self, is_sealed):
    rng = random.Random(f"mutations {is_sealed}")
    files = [plain.write(*fields, parts) for fields, parts in _GOLDEN_FILES.values()]
    outcomes = set()
    for _ in range(400):
      data = _mutated(rng.choice(files), files, rng)
      data = plain.seal(data[:-4]) if is_sealed else data
      expected = _plain_outcome(data)
      assert _outcome(data) == expected, data.hex()
      outcomes.add(expected if isinstance(expected, str) else "GOOD")
    # The mutations are worth something only if they reach most checks.
    assert len(outcomes) >= (12 if is_sealed else 6), outcomes

  @given(st.binary(max_size=120))
  @settings(max_examples=100, deadline=None)
  def test_of_random_bytes_behind_a_valid_start_are_treated_alike(self, rest):
    data = plain.seal(b"KVC\x01\x00" + _FINGERPRINT + b"\x03\x08" + rest)
    assert _outcome(data) == _plain_outcome(data)

  @given(st.lists(st.integers(0, 2**35 - 1) | st.integers(0, 20), min_size=3, max_size=18))
  @settings(max_examples=100, deadline=None)
  def test_with_any_numbers_in_the_header_are_treated_alike(self, numbers):
    varints = [plain.varint(number) for number in numbers]
    data = plain.write_numbers(_FINGERPRINT, 0, 8, varints, bytes(30))
    assert _outcome(data, max_pixels=2**62) == _plain_outcome(data, max_pixels=2**62)


class _Container(tf.Module):
  @tf.function(input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([], tf.int32)])
  def write(self, substreams, height):
    header = bitstream.Header(_FINGERPRINT, bitstream.YCBCR420, 10, height, 33)
    return bitstream.pack(header, substreams)

  @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
  def read(self, data):
    header, substreams, status = bitstream.unpack(data, 2**27)
    with tf.control_dependencies([bitstream.assert_valid(status)]):
      return tf.identity(header.height), tf.identity(substreams)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("container"))
  tf.saved_model.save(_Container(), folder)
  return tf.saved_model.load(folder)


class TestSavedModel:
  def test_writes_and_reads_as_we_do_eagerly(self, exported):
    for count in (1, 2, 16):
      substreams = [bytes([part]) * 1000 * part for part in range(count)]
      file = exported.write(substreams, 17).numpy()
      assert file == plain.write(_FINGERPRINT, 3, 10, 17, 33, substreams)
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
  def test_are_what_we_write_and_read(self, name):
    fields, substreams = _GOLDEN_FILES[name]
    path = _GOLDEN / f"{name}.kvc"
    if os.environ.get("REGENERATE") == "1":
      path.write_bytes(plain.write(*fields, substreams))
    assert _pack(fields, substreams) == path.read_bytes()
    assert bitstream.parse(path.read_bytes()) == (fields, substreams)

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
    assert names == [name for name in bitstream._TEXTS if name not in ("GOOD", "FINGERPRINT")]
