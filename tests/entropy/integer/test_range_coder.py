"""The range coder: what is encoded is decoded, in the bits that the tables give."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from khuvcm_tf.entropy import gaussian
from khuvcm_tf.entropy.calibration import tables as calibration_tables
from khuvcm_tf.entropy.integer import range_coder

_TABLES = calibration_tables.assemble(
  # Alphabets that lie off zero, and one of two symbols, which are both at an edge.
  [calibration_tables.byte_alphabet(), (-7, np.full(5, 0.2)), (3, np.array([0.9, 0.1]))]
  + calibration_tables.gaussian_alphabets()
)
_FIRST_SCALE = 3
_ROWS = len(_TABLES.low)
_CODER = range_coder.TableCoder(_TABLES)


@st.composite
def _values_and_rows(draw):
  """Values that escapes can code: around the edges, inside, or anywhere."""
  rows = draw(st.lists(st.integers(0, _ROWS - 1), max_size=30))
  values = []
  for row in rows:
    low, high = int(_TABLES.low[row]), int(_TABLES.high[row])
    least, most = low - range_coder.MAX_EXCESS, high + range_coder.MAX_EXCESS
    values.append(
      draw(
        st.one_of(
          st.integers(low, high),
          st.sampled_from([low, high, low - 1, high + 1, low + 1, high - 1, least, most]),
          st.integers(least, most),
        )
      )
    )
  return np.array(values, np.int32), np.array(rows, np.int32)


def _coded(coder, vectors):
  """Codes (values, rows); returns the values that come back, and what `finalize` returns."""
  state, found = coder.init(), []
  for values, rows in vectors:
    state, values = _CODER.code(
      coder, state, tf.constant(values, tf.int32), tf.constant(rows, tf.int32)
    )
    found.append(values.numpy())
  return found, coder.finalize(state)


def _encoded(*vectors):
  found, data = _coded(_CODER.encoder(), vectors)
  for values, (expected, _) in zip(found, vectors):
    np.testing.assert_array_equal(values, expected)
  return data.numpy()


def _bits(*vectors):
  found, bits = _coded(_CODER.bit_counter(), vectors)
  for values, (expected, _) in zip(found, vectors):
    np.testing.assert_array_equal(values, expected)
  return float(bits)


def _decoded(data, rows_of_vectors):
  """Returns the values of all vectors, and whether the bytes are what these encode to."""
  # A decoder ignores the values that it is given.
  vectors = [(np.full(len(rows), 77), rows) for rows in rows_of_vectors]
  found, exact = _coded(_CODER.decoder(tf.constant(data)), vectors)
  return found, bool(exact)


def _gaussian_values(count, seed=0):
  rng = np.random.default_rng(seed)
  index = rng.integers(0, gaussian.NUM_SCALES, count)
  values = np.rint(rng.normal(size=count) * gaussian.scale_table()[index])
  return values.astype(np.int32), (index + _FIRST_SCALE).astype(np.int32)


class TestRoundTrip:
  @settings(max_examples=150, deadline=None)
  @given(st.lists(_values_and_rows(), min_size=1, max_size=3))
  def test_gives_back_any_values_that_escapes_can_code_in_any_number_of_vectors(self, vectors):
    data = _encoded(*vectors)
    assert data == _encoded(*vectors)
    found, exact = _decoded(data, [rows for _, rows in vectors])
    assert exact
    for values, (expected, _) in zip(found, vectors):
      np.testing.assert_array_equal(values, expected)

  def test_of_empty_vectors_is_an_empty_string(self):
    empty = np.zeros(0, np.int32), np.zeros(0, np.int32)
    data = _encoded(empty, empty)
    assert data == b""
    found, exact = _decoded(data, [[], []])
    assert [list(values) for values in found] == [[], []]
    assert exact

  def test_is_the_same_in_a_graph(self):
    values, rows = _gaussian_values(300)
    data = _encoded((values, rows))

    @tf.function(autograph=False)
    def in_graph(values, rows):
      encoder, decoder = _CODER.encoder(), _CODER.decoder(tf.constant(data))
      state, _ = _CODER.code(encoder, encoder.init(), values, rows)
      decoded, found = _CODER.code(decoder, decoder.init(), tf.zeros_like(values), rows)
      return encoder.finalize(state), found, decoder.finalize(decoded)

    encoded, found, exact = in_graph(values, rows)
    assert encoded == data
    assert exact
    np.testing.assert_array_equal(found, values)


class TestBitCounter:
  def test_of_many_values_is_its_length_within_a_hundred_thousandth_and_8_bytes(self):
    vector = _gaussian_values(100_000)
    real, estimate = 8 * len(_encoded(vector)), _bits(vector)
    # A coder of 32 bits loses little over 1e-5; ends are rounded to bytes.
    assert estimate - 32 <= real <= estimate * (1 + 1e-5) + 64

  @settings(max_examples=60, deadline=None)
  @given(_values_and_rows())
  def test_sums_16_less_the_logarithm_of_counts_and_16_more_for_each_escape(self, vector):
    values, rows = vector
    expected = 0.0
    for value, row in zip(values, rows):
      low, high, start = _TABLES.low[row], _TABLES.high[row], _TABLES.start[row]
      clipped = min(max(value, low), high)
      at = start + clipped - low
      count = _TABLES.lookup[at + 1] - _TABLES.lookup[at]
      expected += 16 - np.log2(count) + (16 if clipped in (low, high) else 0)
    assert _bits(vector) == pytest.approx(expected, abs=1e-9)

  @settings(max_examples=60, deadline=None)
  @given(_values_and_rows())
  def test_of_any_values_is_what_they_take(self, vector):
    # An encoder ends with the shortest number in its interval, which can save some bits.
    real, estimate = 8 * len(_encoded(vector)), _bits(vector)
    assert estimate - 32 <= real <= estimate * 1.001 + 17


class TestEscapes:
  @pytest.mark.parametrize("row", [1, _FIRST_SCALE, _ROWS - 1])
  @pytest.mark.parametrize("side", [-1, 1])
  def test_end_65535_beyond_an_alphabet(self, row, side):
    edge = int(_TABLES.high[row] if side > 0 else _TABLES.low[row])
    rows = np.array([row], np.int32)
    last = np.array([edge + side * range_coder.MAX_EXCESS], np.int32)
    (found,), exact = _decoded(_encoded((last, rows)), [rows])
    assert exact
    assert found == last
    for code in (_encoded, _bits):
      with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"(?s)a latent lies.*65536.*beyond its alphabet, at most.*65535.*can be coded",
      ):
        code((last + side, rows))

  @pytest.mark.parametrize("value", [2**31 - 1, -(2**31)])
  def test_refuse_the_outermost_integers(self, value):
    with pytest.raises(tf.errors.InvalidArgumentError, match="a latent lies"):
      _encoded((np.array([value], np.int32), np.array([_FIRST_SCALE], np.int32)))


class TestForeignBytes:
  """Whatever the bytes, decoding ends, with values that escapes can code."""

  def _check(self, data):
    _, rows = _gaussian_values(2000)
    (found,), exact = _decoded(data, [rows])
    assert found.shape == rows.shape
    excess = np.maximum(_TABLES.low[rows] - found, found - _TABLES.high[rows])
    assert excess.max() <= range_coder.MAX_EXCESS
    # What was decoded can be encoded: the decoder has compared it with the bytes.
    again = _encoded((found, rows))
    assert exact == (again == data)
    (found_again,), exact_again = _decoded(again, [rows])
    assert exact_again
    np.testing.assert_array_equal(found_again, found)
    return exact

  @settings(max_examples=60, deadline=None)
  @given(st.binary(max_size=200))
  def test_of_random_bytes(self, data):
    self._check(data)

  # The second makes tfc's own escapes loop without end.
  @pytest.mark.parametrize("data", [b"", b"\x80", b"\x80" * 4, b"\xff" * 500, b"\x00" * 500])
  def test_of_special_bytes(self, data):
    self._check(data)

  def test_that_were_lengthened_are_not_exact(self):
    values, rows = _gaussian_values(2000)
    data = _encoded((values, rows))
    assert self._check(data)
    # A decoder reads zeros behind the end.
    (found,), _ = _decoded(data + b"\x00", [rows])
    np.testing.assert_array_equal(found, values)
    for more in (b"\x00", b"\xff", b"more", data):
      assert not self._check(data + more)

  def test_that_were_cut_are_decoded_to_other_values(self):
    values, rows = _gaussian_values(2000)
    data = _encoded((values, rows))
    for length in (0, 1, 2, 3, 5, len(data) // 2, len(data) - 1):
      self._check(data[:length])
      (found,), _ = _decoded(data[:length], [rows])
      assert np.any(found != values)


class TestLoop:
  def test_carries_the_state_of_a_coder(self):
    """A vector in pieces of one value gives the bytes of the whole where none is escaped."""
    values, rows = _gaussian_values(40)
    inside = (values > _TABLES.low[rows]) & (values < _TABLES.high[rows])
    values, rows = values[inside], rows[inside]
    encoder = _CODER.encoder()

    @tf.function(autograph=False)
    def in_pieces():
      def one(i, state):
        each = tf.constant(values)[i : i + 1], tf.constant(rows)[i : i + 1]
        return i + 1, _CODER.code(encoder, state, *each)[0]

      _, state = range_coder.loop(lambda i, _: i < len(values), one, (0, encoder.init()))
      return encoder.finalize(state)

    assert in_pieces() == _encoded((values, rows))
