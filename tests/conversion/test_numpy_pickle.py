"""Pickles of NumPy's arrays: read as any Python wrote them, refused in one line, never run.

Files whose names begin with `real_` were written by the Python or NumPy that their names say, on a
dict of weights such as detectron2's model zoo has it. Hostile ones are made by Python's pickler,
from objects that say themselves what is to be called and set.
"""

from __future__ import annotations

import os
import pathlib
import pickle
import pickletools
import random
import tracemalloc

import hypothesis
import hypothesis.extra.numpy as arrays_of
import hypothesis.strategies as st
import numpy as np
import pytest

from khuvcm_tf.conversion import checkpoint

HERE = pathlib.Path(__file__).parent
REAL = sorted(path.name for path in HERE.glob("real_*.pkl"))

_RECONSTRUCT = np.core.multiarray._reconstruct
_SCALAR = np.core.multiarray.scalar
_FROM_BUFFER = np.core.numeric._frombuffer
_EMPTY = (np.ndarray, (0,), b"b")


class _Made:
  """What a pickle makes by a call and BUILD, of any arguments and any state."""

  def __init__(self, function, arguments, *state):
    self._reduced = (function, arguments, *state)

  def __reduce__(self):
    return self._reduced


def _dtype(code="f4", state=(3, "<", None, None, None, -1, -1, 0)) -> _Made:
  return _Made(np.dtype, (code, False, True), state)


def _array(shape=(2, 3), data=bytes(24), dtype=None, transposed=False) -> _Made:
  return _Made(_RECONSTRUCT, _EMPTY, (1, shape, dtype or _dtype(), transposed, data))


# --- What Python and NumPy wrote


@pytest.mark.parametrize("name", REAL)
def test_real_files_give_what_was_pickled(name):
  found = checkpoint.read(str(HERE / name))
  counting = np.arange(24, dtype=np.float32)
  expected = {
    "conv.weight": counting.reshape(2, 3, 4),
    "transposed": counting.reshape(4, 6).T,
    "permuted": counting.reshape(2, 3, 4).transpose(1, 0, 2),
    "strided": counting.reshape(2, 3, 4)[:, ::2],
    "half": np.array([0, 0.25, 0.5, 0.75, 1], np.float16),
    "big-endian": np.array([1, -2], np.float64),
    "num_batches_tracked": np.array(7),
    "flags": np.array([True, False]),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
  }
  assert set(found) == set(expected)
  for key, array in expected.items():
    assert (found[key].dtype, found[key].shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found[key], array)
    assert not found[key].flags.writeable


def test_there_are_real_files_of_python_2_and_of_numpy_2():
  assert REAL == [
    "real_numpy25_protocol2.pkl",
    "real_numpy25_protocol5.pkl",
    "real_python27.pkl",
    "real_python36.pkl",
  ]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """A function: the bytes of a file -> its path, the same for all."""
  path = tmp_path_factory.mktemp("written") / "file.pkl"

  def written_(data: bytes) -> str:
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return str(path)

  return written_


_DTYPES = st.one_of(  # of either byte order
  arrays_of.floating_dtypes(),
  arrays_of.integer_dtypes(),
  arrays_of.unsigned_integer_dtypes(),
  arrays_of.boolean_dtypes(),
)
_ARRAYS = st.builds(
  lambda array, layout: layout(array),
  arrays_of.arrays(_DTYPES, arrays_of.array_shapes(min_dims=0, min_side=0, max_side=4)),
  st.sampled_from(
    [np.ascontiguousarray, np.asfortranarray, np.transpose, lambda a: a[..., ::-1] if a.ndim else a]
  ),
)


@hypothesis.given(
  protocol=st.sampled_from([2, 3, 4, 5]),
  state=st.dictionaries(st.text(max_size=5), _ARRAYS, min_size=1, max_size=3),
  wrapped=st.booleans(),
)
@hypothesis.settings(max_examples=150)
def test_any_arrays_in_any_protocol_come_back(written, protocol, state, wrapped):
  content = {"model": state, "__author__": "somebody"} if wrapped else state
  found = checkpoint.read(written(pickle.dumps(content, protocol)))
  assert list(found) == list(state)
  for name, array in state.items():
    native = array.astype(array.dtype.newbyteorder("="))
    assert (found[name].dtype, found[name].shape) == (native.dtype, native.shape)
    assert found[name].tobytes() == native.tobytes()  # NaN and -0 too


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_beside_the_arrays_are_left_aside(read, protocol):
  content = {
    "model": {"w": np.arange(3.0), "names": ["a", None], "best": np.int64(5)},
    "__author__": "Detectron2 Model Zoo",
    "matching_heuristics": True,
    "metrics": {"AP": np.float64(37.9), "at": (1, 2.5, b"bytes", "\u00e4")},
  }
  found = read(pickle.dumps(content, protocol))
  assert {name: array.tolist() for name, array in found.items()} == {"w": [0, 1, 2], "best": 5}


def test_arrays_may_share_their_dtype_and_themselves(read):
  array = np.arange(4, dtype=np.float32)
  found = read(pickle.dumps({"a": array, "b": array, "c": array + 1}))
  assert [value.tolist() for value in found.values()] == [[0, 1, 2, 3], [0, 1, 2, 3], [1, 2, 3, 4]]


@pytest.mark.parametrize("protocol", [2, 3, 5])
def test_reading_takes_a_small_multiple_of_the_file(read, protocol):
  values = np.random.default_rng(0).integers(0, 256, 2**22, np.uint8)
  data = pickle.dumps(
    {"model": {f"w{i}": part for i, part in enumerate(np.split(values, 8))}}, protocol
  )
  tracemalloc.start()
  try:
    found = read(data)
    assert tracemalloc.get_traced_memory()[1] < 4 * len(data)
  finally:
    tracemalloc.stop()
  np.testing.assert_array_equal(np.concatenate(list(found.values())), values)


def test_the_blobs_of_caffe2_are_refused_with_what_to_take(refused):
  content = {"cfg": "MODEL: {}", "blobs": {"conv1_w": np.zeros(3), "res_conv1_bn_s": np.zeros(3)}}
  refused(
    pickle.dumps(content, 2),
    r"holds the blobs of Caffe2, .* expected the state dict of a whole model, .*; take the file "
    r"that PyTorch or detectron2 saved, such as model_final_\*\.pkl of its zoo",
  )


# --- Files that mean harm


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
  "value",
  [
    np.array([{}, None]),
    np.array(["text"]),
    np.array([b"text"]),
    np.zeros(3, [("x", "f4")]),
    np.zeros(3, "M8[s]"),
    np.zeros(3, "c8"),
    np.zeros(3, "V4"),
    np.str_("text"),
  ],
  ids=lambda value: str(value.dtype),
)
def test_objects_text_records_and_complex_numbers_are_refused(refused, protocol, value):
  refused(
    pickle.dumps({"model": {"w": value}}, protocol),
    r"has an array of dtype '[OUSVMc]\d+', expected numbers or truth values, no objects, text or "
    r"records; save the weights alone",
  )


def test_what_objects_of_an_array_would_run_is_not_run(refused, tmp_path):
  marker = tmp_path / "marker"
  attack = _Made(os.system, (f"touch {marker}",))
  for protocol in (2, 4):
    objects = np.array([None], object)
    objects[0] = attack
    # The dtype is refused before the objects are come to, or the function before the dtype.
    refused(pickle.dumps({"w": objects}, protocol), r"dtype 'O8'|asks for posix\.system")
    for function, arguments in ((_RECONSTRUCT, _EMPTY), (np.dtype, ("f4", False, True))):
      made = _Made(function, arguments, (1, (1,), attack, False, b""))
      refused(
        pickle.dumps({"w": made}, protocol), r"asks for posix\.system, .*nothing of it was run"
      )
      made = _Made(function, (attack,))
      refused(pickle.dumps({"w": made}, protocol), r"asks for posix\.system")
  assert not marker.exists()


@pytest.mark.parametrize(
  "value, match",
  [
    (_array(shape=(2, 2)), "an array of shape 2 x 2 and dtype f4 has 24 bytes"),
    (_array(shape=(7,)), "of shape 7 and dtype f4 has 24 bytes"),
    (_array(shape=()), "of shape 1 and dtype f4 has 24 bytes"),
    (_array(shape=(2**62, 2**62)), "of shape 4611686018427387904 x 46116860184273"),
    (_array(shape=(2**40,), data=b""), "of shape 1099511627776 and dtype f4 has 0 bytes"),
    (_array(shape=(0, 2**62), data=b""), "damaged"),
    (_array(shape=(-2, -3)), "the shape of an array is none"),
    (_array(shape=(2**63, 0)), "the shape of an array is none"),
    (_array(shape=(2.0, 3)), "the shape of an array is none"),
    (_array(shape=(True, 6)), "the shape of an array is none"),
    (_array(shape=(1,) * 33), "the shape of an array is none"),
    (_array(shape=[2, 3]), "the shape or the order of an array is none"),
    (_array(shape=6), "the shape or the order of an array is none"),
    (_array(data=None), "an array has no bytes"),
    (_array(data=[1] * 24), "an array has no bytes"),
    (_array(data="\u0100" * 24), "damaged: 'latin-1' codec can't encode"),
    (_array(data=_array()), "an array has no bytes"),
    (_array(dtype=np.float32), "asks for numpy.float32, expected tensors"),
    (_array(dtype="f4"), "an array has contents twice, or no dtype"),
    (_array(dtype=np.ndarray), "or no dtype"),
    (_array(dtype=_Made(np.dtype, ("f4", False, True))), "or no dtype"),
    (_array(transposed="F"), "the state of an array is none"),
    (_array(dtype=_dtype("b1"), data=b"\0\1\2\0\0\0"), "a truth value is neither 0 nor 1"),
    (_Made(_RECONSTRUCT, _EMPTY), "an array has no contents"),
    (_Made(_RECONSTRUCT, _EMPTY, (1, (2, 3), _dtype(), False)), "the state of an array is none"),
    (_Made(_RECONSTRUCT, _EMPTY, "state"), "the state of an array is none"),
    (_Made(_RECONSTRUCT, (np.dtype, (0,), b"b")), "of another class than numpy.ndarray"),
    (_Made(_RECONSTRUCT, ()), "damaged"),
    (_Made(np.ndarray, ((2**40,),)), "calls numpy.ndarray, which is no function"),
    (_Made(np.dtype, ("f16", False, True)), "has an array of dtype 'f16', expected numbers"),
    (_Made(np.dtype, (("f4", (2**40,)), False, True)), "has an array of dtype a tuple, expected"),
    (_Made(np.dtype, ("(9999999,9999999)f4",)), r"dtype '\(9999999,9999999\)f4', expected"),
    (_dtype(), "no tensors by name"),
    (_array(dtype=_dtype(state=(3, "=", None, None, None, -1, -1, 0))), "a dtype is none of num"),
    (_array(dtype=_dtype(state=(3, "|", None, None, None, -1, -1, 0))), "a dtype is none of num"),
    (_array(dtype=_dtype(state=(3, "<", None, ("a",), {}, -1, -1, 0))), "a dtype is none of num"),
    (_array(dtype=_dtype(state=(3, "<"))), "the state of a dtype is none"),
    (_array(dtype=_dtype(state=[3, "<", None, None, None, -1, -1, 0])), "of a dtype is none"),
    (_Made(_SCALAR, (_dtype(), b"abc")), "an array of shape 1 and dtype f4 has 3 bytes"),
    (_Made(_SCALAR, (_dtype(),)), "damaged"),
    (_Made(_FROM_BUFFER, (bytes(24), _dtype(), (2, 4), "C")), "of shape 2 x 4 and dtype f4 has 24"),
    (_Made(_FROM_BUFFER, (bytes(24), _dtype(), (2, 3), "A")), "the shape or the order"),
    (_Made(_FROM_BUFFER, (bytes(24), _dtype(), (2, 3), ["C"])), "the shape or the order"),
    (_Made(_FROM_BUFFER, (bytes(24), _dtype(), (2, 3), "K")), "damaged"),
    (_Made(_FROM_BUFFER, (bytes(24), _dtype(), (2, 3), "K", (0, 0))), "the axes of an array"),
    (_Made(_FROM_BUFFER, (bytes(24), _dtype(), (2, 3), "K", (1,))), "the axes of an array"),
    (_Made(_FROM_BUFFER, (bytes(24), _dtype(), (2, 3), "K", (0, 2**62))), "the axes of an array"),
    (_Made(_FROM_BUFFER, (bytes(24), _dtype(), (2, 3), "K", (0, -1))), "shape of an array is none"),
    (_Made(_FROM_BUFFER, ({}, _dtype(), (2, 3), "C")), "an array has no bytes"),
  ],
)
def test_an_array_that_makes_no_sense_is_refused(refused, value, match):
  for protocol in (3, 5):
    refused(pickle.dumps({"w": value}, protocol), match)


@pytest.mark.parametrize(
  "opcodes, match",
  [
    # An array, then a dtype, whose contents are set once more.
    (b"h\x00(K\x01)h\x01\x89C\x04abcdtb", "an array has contents twice"),
    (
      b"h\x01(K\x03X\x01\0\0\0>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb",
      "state of a dtype is none",
    ),
    (b"h\x00K\x01K\x02s", "sets an entry of what is no dict"),
    (b"h\x00K\x01a", "appends to what is no list"),
    (b"h\x00)R", "calls what is no function"),
    (b"}h\x00K\x01s", "a dict has a key of type Array"),
    (b"}h\x01K\x01s", "a dict has a key of type Dtype"),
    (b"\x97", r"the opcode b'\\x97', which checkpoints do not have"),  # a buffer beside the pickle
    (b"c_codecs\nencode\nX\x01\0\0\0aX\x05\0\0\0utf-8\x86R", "what is no text in Latin-1"),
    (b"c_codecs\nencode\nK\x07X\x06\0\0\0latin1\x86R", "what is no text in Latin-1"),
    (b"c__builtin__\nbytes\nK\x07\x85R", "no bytes are made of something"),
    (b"cbuiltins\nbytes\n)R", r"asks for builtins\.bytes"),
  ],
)
def test_an_opcode_that_makes_no_sense_for_arrays_is_refused(refused, opcodes, match):
  made = (
    b"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87Rq\x00"
    b"(K\x01)cnumpy\ndtype\nX\x02\0\0\0f4\x89\x88\x87Rq\x01"
    b"(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89C\x04abcdtb"
  )
  refused(b"\x80\x04(" + made[2:] + opcodes + b"t.", match)
  refused(made + b".", "holds one tensor without name and no tensors by name")


def _of_shared_bytes(shared: bytes) -> bytes:
  """A pickle of 20,000 arrays that all refer to the same 2**16 bytes, which `shared` makes."""
  dtype = pickle.dumps(_dtype("u1"), 2)[2:-1]  # without PROTO and STOP
  begin = b"\x80\x04}(K\x00" + dtype + b"r\x00\x01\0\0K\x01" + shared + b"r\x01\x01\0\0"
  array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R"
  array += b"(K\x01J\x00\x00\x01\0\x85j\x00\x01\0\0\x89j\x01\x01\0\0tb"
  names = (b"X\x05\0\0\0" + f"{i:05}".encode() for i in range(20_000))
  return begin + b"".join(name + array for name in names) + b"u."


_LENGTH = 2**16
_BOMBS = {
  "shared bytes": _of_shared_bytes(b"B" + _LENGTH.to_bytes(4, "little") + bytes(_LENGTH)),
  "shared text": _of_shared_bytes(b"X" + _LENGTH.to_bytes(4, "little") + b"a" * _LENGTH),
  "shared text of protocol 2": _of_shared_bytes(
    b"c_codecs\nencode\nX"
    + _LENGTH.to_bytes(4, "little")
    + b"a" * _LENGTH
    + b"X\x06\0\0\0latin1\x86R"
  ),
  "text made bytes again and again": (
    b"\x80\x02(c_codecs\nencode\nq\x00X"
    + (2**20).to_bytes(4, "little")
    + b"a" * 2**20
    + b"q\x01X\x06\0\0\0latin1q\x02"
    + b"h\x00h\x01h\x02\x86R" * 100_000
    + b"t."
  ),
  "array in its own state": (
    b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87Rq\x00"
    b"(K\x01h\x00h\x00h\x00h\x00tb."
  ),
}


@pytest.mark.parametrize("name", _BOMBS)
def test_a_bomb_does_not_go_off(refused, name):
  tracemalloc.start()
  try:
    refused(_BOMBS[name], "are larger together" if "shared" in name else "damaged|no tensors")
    assert tracemalloc.get_traced_memory()[1] < 2**26
  finally:
    tracemalloc.stop()


# --- Damage


def _outcome(path: str) -> str:
  try:
    found = checkpoint.read(path)
  except checkpoint.CheckpointError as error:
    assert len(str(error).splitlines()) == 1 and len(str(error)) < 1000
    return "refused"
  assert all(type(array) is np.ndarray for array in found.values())
  assert sum(array.nbytes for array in found.values()) <= os.path.getsize(path)
  return "read"


@pytest.mark.parametrize("name", REAL)
def test_every_truncated_file_is_refused(written, name):
  data = (HERE / name).read_bytes()
  assert _outcome(written(data)) == "read"
  assert {_outcome(written(data[:end])) for end in range(len(data))} == {"refused"}


@pytest.mark.parametrize("name", REAL)
def test_a_byte_that_is_wrong_is_read_or_refused_in_one_line(written, name):
  rng, data = random.Random(name), (HERE / name).read_bytes()
  outcomes = []
  for position in range(len(data)):
    wrong = data[position] ^ rng.randrange(1, 256)
    outcomes.append(_outcome(written(data[:position] + bytes([wrong]) + data[position + 1 :])))
  # What is wrong in a number, or in an entry beside the model, is not found.
  assert outcomes.count("refused") > len(data) // 4


def test_any_opcodes_in_any_order_are_read_or_refused_in_one_line(written):
  rng, words = random.Random(3), []
  for name in REAL:
    data = (HERE / name).read_bytes()[2:-1]
    places = [place - 2 for _, _, place in pickletools.genops(b"\x80\x02" + data + b".")]
    words += {data[begin:end] for begin, end in zip(places[1:], places[2:])}
  words += [b"t", b"R", b"b", b"(", b"u", b"\x85", b"\x86", b"\x87"] * 20
  for _ in range(2000):
    opcodes = b"".join(rng.choices(sorted(words), k=rng.randrange(1, 25)))
    _outcome(written(b"\x80\x02" + opcodes + b"."))
