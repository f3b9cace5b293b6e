"""Checkpoints of PyTorch: read as they were written, refused in one line, never run.

PyTorch is no requirement. Two tiny files of its own stand beside this one; all others are encoded
here, opcode by opcode, or by Python's pickler with modules that bear PyTorch's names.
"""

from __future__ import annotations

import collections
import io
import itertools
import json
import os
import pathlib
import pickle
import pickletools
import random
import struct
import sys
import tracemalloc
import types
import zipfile

import numpy as np
import pytest

from khuvcm_tf.conversion import checkpoint, pickle_machine

HERE = pathlib.Path(__file__).parent
# What a few kB of hostile file may take of memory; a bomb that goes off takes 2**30 and more.
MEMORY = 2**25

_KINDS = {
  "FloatStorage": "f4",
  "DoubleStorage": "f8",
  "HalfStorage": "f2",
  "LongStorage": "i8",
  "IntStorage": "i4",
  "ShortStorage": "i2",
  "CharStorage": "i1",
  "ByteStorage": "u1",
  "BoolStorage": "?",
}
_COUNTING = np.arange(24, dtype="<f4").tobytes()


# --- Encoders: a pickle, the two formats of torch.save, safetensors


class _Global(collections.namedtuple("_Global", "module name")):
  """A name that a pickle asks for."""


class _Call(collections.namedtuple("_Call", "function arguments")):
  """REDUCE."""


class _Persistent(collections.namedtuple("_Persistent", "identity")):
  """BINPERSID."""


class _Built(collections.namedtuple("_Built", "value state")):
  """BUILD."""


class _Raw(collections.namedtuple("_Raw", "opcodes")):
  """Opcodes as they stand."""


def _code(value) -> bytes:
  if value is None:
    return b"N"
  if isinstance(value, bool):
    return b"\x88" if value else b"\x89"
  if isinstance(value, int):
    data = value.to_bytes(16, "little", signed=True)
    return b"\x8a\x10" + data
  if isinstance(value, float):
    return b"G" + struct.pack(">d", value)
  if isinstance(value, str):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data
  if isinstance(value, _Global):
    return b"c" + f"{value.module}\n{value.name}\n".encode()
  if isinstance(value, _Call):
    return _code(value.function) + _code(value.arguments) + b"R"
  if isinstance(value, _Persistent):
    return _code(value.identity) + b"Q"
  if isinstance(value, _Built):
    return _code(value.value) + _code(value.state) + b"b"
  if isinstance(value, _Raw):
    return value.opcodes
  if isinstance(value, dict):
    return b"}(" + b"".join(_code(k) + _code(v) for k, v in value.items()) + b"u"
  ends = {tuple: (b"(", b"t"), list: (b"](", b"e")}[type(value)]
  return ends[0] + b"".join(_code(v) for v in value) + ends[1]


def _pickle(value) -> bytes:
  return b"\x80\x02" + _code(value) + b"."


_ORDERED = _Global("collections", "OrderedDict")
_REBUILD = _Global("torch._utils", "_rebuild_tensor_v2")


def _storage(key="0", kind="FloatStorage", count=24) -> _Persistent:
  return _Persistent(("storage", _Global("torch", kind), key, "cuda:0", count))


def _tensor(storage=None, shape=(24,), strides=(1,), offset=0, function=_REBUILD) -> _Call:
  storage = storage or _storage()
  return _Call(function, (storage, offset, shape, strides, False, _Call(_ORDERED, ())))


def _zip(content: bytes, storages=None, others=None, **options) -> bytes:
  """The zip of torch.save around a pickle."""
  entries = {"a/data.pkl": content, "a/version": b"3\n", **(others or {})}
  entries.update(
    (f"a/data/{key}", data)
    for key, data in ({"0": _COUNTING} if storages is None else storages).items()
  )
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w", **options) as archive:
    for name, data in entries.items():
      archive.writestr(name, data)
  return stream.getvalue()


def _legacy(content: bytes, storages=None, item=4, little=True, protocol=1001) -> bytes:
  """The five pickles and the storages that torch.save wrote before 1.6."""
  storages = {"0": _COUNTING} if storages is None else storages
  system = {"protocol_version": protocol, "little_endian": little, "type_sizes": {"int": 4}}
  head = [_pickle(0x1950A86A20F9469CFC6C), _pickle(protocol), _pickle(system)]
  tail = [struct.pack("<q", len(data) // item) + data for data in storages.values()]
  return b"".join([*head, content, _pickle(list(storages)), *tail])


def _safetensors(header, data: bytes) -> bytes:
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack("<Q", len(text)) + text + data


def _npz(save=np.savez, **arrays) -> bytes:
  stream = io.BytesIO()
  save(stream, **arrays)
  return stream.getvalue()


def _entry(dtype, shape, begin, end):
  return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def _assert_same(found: np.ndarray, expected: np.ndarray) -> None:
  """Values, dtype, shape: `assert_array_equal` alone lets a scalar stand for an array."""
  assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
  np.testing.assert_array_equal(found, expected)


both = pytest.mark.parametrize("wrapped", [_zip, _legacy], ids=["zip", "legacy"])
# As they stand: for pickles that are refused before a storage is looked for.
bare_too = pytest.mark.parametrize(
  "wrapped", [_zip, _legacy, lambda content: content], ids=["zip", "legacy", "bare"]
)


# --- What PyTorch wrote


@pytest.mark.parametrize("name", ["real_zip.pth", "real_legacy.pth.tar"])
def test_files_of_pytorch_2_2_2_give_what_was_saved(name):
  tensors = checkpoint.read(str(HERE / name))
  counting = np.arange(24, dtype=np.float32)
  expected = {
    "conv.weight": counting.reshape(2, 3, 4),
    "transposed": counting.reshape(4, 6).T,
    "strided": np.array([[2, 5], [9, 12], [16, 19]], np.float32),
    "half": np.array([0, 0.25, 0.5, 0.75, 1], np.float16),
    "brain": -np.arange(5, dtype=np.float32),
    "long": np.array([-1, 0, 1]),
    "flags": np.array([True, False]),
    "scalar": np.array(0.5),
    "empty": np.zeros(0, np.int32),
  }
  assert list(tensors) == list(expected)
  for key, array in expected.items():
    _assert_same(tensors[key], array)
  assert np.shares_memory(tensors["conv.weight"], tensors["strided"])


# --- torch.save


@pytest.mark.parametrize("kind", _KINDS)
def test_every_type_of_storage_is_its_type_of_numpy(read, kind):
  array = np.array([0, 1, 1, 0, 1]).astype(_KINDS[kind])
  if kind not in ("BoolStorage", "ByteStorage"):
    array *= -3
  content = _pickle({"w": _tensor(_storage(kind=kind, count=5), (5,))})
  for data in (
    _zip(content, {"0": array.tobytes()}),
    _legacy(content, {"0": array.tobytes()}, array.itemsize),
  ):
    _assert_same(read(data)["w"], array)


def test_bfloat16_is_the_upper_half_of_float32(read):
  words = np.array([0x3F80, 0xC000, 0x4049, 0x0001, 0x7F80, 0x8000], "<u2")
  values = np.array([1, -2, 3.140625, 2.0**-133, np.inf, -0.0], np.float32)
  content = _pickle({"w": _tensor(_storage(kind="BFloat16Storage", count=6), (6,))})
  found = read(_zip(content, {"0": words.tobytes()}))["w"]
  assert found.dtype == np.float32
  assert found.tobytes() == values.tobytes()


@both
@pytest.mark.parametrize(
  "shape, strides, offset",
  [
    ((4, 6), (6, 1), 0),
    ((6, 4), (1, 6), 0),  # transposed
    ((2, 2, 3), (12, 4, 1), 5),
    ((3, 2), (7, 3), 2),
    ((3, 3), (2, 1), 1),  # overlapping
    ((), (), 23),
    ((1, 5), (2**62, 1), 0),  # the stride of a single element is never taken
    ((0, 3), (3, 1), 0),
  ],
)
def test_element_i_of_a_view_lies_at_offset_plus_i_times_stride(
  read, wrapped, shape, strides, offset
):
  found = read(wrapped(_pickle({"w": _tensor(None, shape, strides, offset)})))["w"]
  assert found.shape == shape and found.dtype == np.float32
  for index in itertools.product(*map(range, shape)):
    assert found[index] == offset + sum(i * stride for i, stride in zip(index, strides))


@both
def test_tensors_of_one_storage_share_memory(read, wrapped):
  found = read(wrapped(_pickle({"w": _tensor(), "part": _tensor(None, (3,), (2,), 1)})))
  assert found["part"].tolist() == [1, 3, 5]
  assert np.shares_memory(found["w"], found["part"])
  assert not found["w"].flags.writeable


def test_a_part_of_a_storage_begins_at_its_own_first_element(read):
  identity = ("storage", _Global("torch", "FloatStorage"), "0", "cpu", 24, ("p", 10, 6))
  content = {"w": _tensor(_Persistent(identity), (2,), (3,), 1)}
  assert read(_legacy(_pickle(content)))["w"].tolist() == [11, 14]


@both
@pytest.mark.parametrize("key", ["state_dict", "model", "net"])
def test_the_state_dict_of_a_training_checkpoint_is_taken(read, wrapped, key):
  state = {"state": {0: {"step": _tensor(), "lr": 1e-4}}, "param_groups": [{"params": [0, 1]}]}
  content = {"epoch": 3, "loss": _tensor(), "optimizer": state, "lr_scheduler": {"best": None}}
  content[key] = {"g_a.0.weight": _tensor(None, (3,)), "count": 3, "nothing": None, "more": {}}
  found = read(wrapped(_pickle(content)))
  assert {name: array.tolist() for name, array in found.items()} == {"g_a.0.weight": [0, 1, 2]}


@both
def test_what_detectron2s_training_saves_gives_its_model(read, wrapped):
  metric = _Raw(pickle.dumps(np.float64(37.9), 2)[2:-1])  # without PROTO and STOP
  group = {"lr": 0.02, "momentum": 0.9, "nesterov": False, "foreach": None, "params": [0]}
  content = {
    "model": _Built(
      _Call(
        _ORDERED, ([["stem.weight", _tensor(None, (2, 3), (3, 1))], ["pixel_std", _tensor()]],)
      ),
      {"_metadata": _Call(_ORDERED, ([["stem.norm", {"version": 3}]],))},
    ),
    "optimizer": {"state": {0: {"momentum_buffer": _tensor()}}, "param_groups": [group]},
    "scheduler": {"base_lrs": [0.02], "last_epoch": 5},
    "trainer": {"iteration": 4, "hooks": {"BestCheckpointer": {"best_metric": metric}}},
    "iteration": 4,
  }
  found = read(wrapped(_pickle(content)))
  assert list(found) == ["stem.weight", "pixel_std"]
  _assert_same(found["stem.weight"], np.arange(6, dtype=np.float32).reshape(2, 3))


def test_state_dict_goes_before_model_and_net(read):
  first, other = {"first": _tensor()}, {"other": _tensor()}
  assert list(read(_zip(_pickle({"net": other, "model": other, "state_dict": first})))) == ["first"]
  assert list(read(_zip(_pickle({"net": other, "model": first})))) == ["first"]


def test_a_tensor_may_be_named_as_a_wrapper(read):
  assert list(read(_zip(_pickle({"model": _tensor(), "net": _tensor()})))) == ["model", "net"]


@both
def test_parameters_sizes_dtypes_and_metadata_are_inert(read, wrapped):
  parameter = _Global("torch._utils", "_rebuild_parameter")
  pairs = _Call(_ORDERED, ([["python2", _tensor()]],))  # what Python 2 wrote for OrderedDict
  content = {
    "size": _Call(_Global("torch", "Size"), ((3, 4),)),
    "dtype": _Global("torch", "float32"),
    "parameter": _Call(parameter, (_tensor(), True, _Call(_ORDERED, ()))),
    "first": _tensor(function=_Global("torch._utils", "_rebuild_tensor")),
    "state": _Built(pairs, {"_metadata": {"": {"version": 1}}, "update": 1, "__class__": 2}),
  }
  assert list(read(wrapped(_pickle(content)))) == ["parameter", "first"]
  assert list(read(wrapped(_pickle({"net": content["state"]})))) == ["python2"]


@both
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_every_protocol_since_2_are_read(read, wrapped, protocol, monkeypatch):
  class Storage:
    pass

  class Tensor:
    def __init__(self, *shape):
      self.shape = shape

    def __reduce__(self):
      hooks = collections.OrderedDict()
      strides = tuple(int(np.prod(self.shape[i + 1 :])) for i in range(len(self.shape)))
      return rebuild, (Storage(), 0, self.shape, strides, False, hooks)

  class Pickler(pickle.Pickler):
    def persistent_id(self, value):
      return ("storage", kind, "0", "cpu", 24) if isinstance(value, Storage) else None

  def rebuild(*_):
    raise AssertionError("called")

  kind = type("FloatStorage", (), {"__module__": "torch"})
  rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
  torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
  torch._utils, torch.FloatStorage, utils._rebuild_tensor_v2 = utils, kind, rebuild
  state = collections.OrderedDict((f"layer{i}.weight", Tensor(2, 3, i)) for i in range(5))
  stream = io.BytesIO()
  with monkeypatch.context() as patch:
    patch.setitem(sys.modules, "torch", torch)
    patch.setitem(sys.modules, "torch._utils", utils)
    plain = [1, -1, 300, 70000, 2**70, -1.5, True, None, "\u00fc" * 300, (1, 2, 3, 4)]
    plain += [b"bytes"] * (protocol > 2)  # those of protocol 2 ask for a function
    Pickler(stream, protocol).dump({"plain": plain, "net": state})
  found = read(wrapped(stream.getvalue()))
  assert list(found) == list(state)
  for i in range(5):
    _assert_same(found[f"layer{i}.weight"], np.arange(6 * i).reshape(2, 3, i).astype("f4"))


def test_a_big_endian_zip_is_read_by_its_byteorder(read):
  content = _pickle({"w": _tensor(), "b": _tensor(_storage("1", "BFloat16Storage", 2), (2,))})
  storages = {"0": np.arange(24, dtype=">f4").tobytes(), "1": b"\x3f\x80\xc0\x00"}
  found = read(_zip(content, storages, {"a/byteorder": b"big"}))
  assert found["w"].tolist() == list(range(24)) and found["b"].tolist() == [1, -2]
  assert found["w"].dtype.isnative


def test_a_big_endian_file_of_the_older_format_is_refused(refused):
  refused(_legacy(_pickle({"w": _tensor()}), little=False), "big-endian machine, expected a little")


# --- safetensors and numpy.savez


def test_safetensors_of_every_type_are_read(read):
  codes = "F64 F32 F16 I64 I32 I16 I8 U64 U32 U16 U8 BOOL".split()
  dtypes = "f8 f4 f2 i8 i4 i2 i1 u8 u4 u2 u1 ?".split()
  arrays = {code: np.array([[0, 1], [1, 1]], f"<{dtype}") for code, dtype in zip(codes, dtypes)}
  header, data = {"__metadata__": {"format": "pt"}}, b""
  for code, array in arrays.items():
    header[code] = _entry(code, [2, 2], len(data), len(data) + array.nbytes)
    data += array.tobytes()
  header["brain"] = _entry("BF16", [2, 1], len(data), len(data) + 4)
  header["empty"] = _entry("F32", [0, 3], len(data), len(data))
  found = read(_safetensors(header, data + b"\x80\x3f\x00\xc0"))
  assert list(found) == [*codes, "brain", "empty"]
  for code, array in arrays.items():
    _assert_same(found[code], array)
  _assert_same(found["brain"], np.array([[1], [-2]], np.float32))
  assert found["empty"].shape == (0, 3)


@pytest.mark.parametrize(
  "header, match",
  [
    ({"a": _entry("F32", [2], 0, 8), "b": _entry("F32", [2], 4, 12)}, "overlap or leave gaps"),
    ({"a": _entry("F32", [1], 0, 4), "b": _entry("F32", [1], 8, 12)}, "overlap or leave gaps"),
    ({"a": _entry("F32", [2], 0, 8)}, "overlap or leave gaps"),
    ({"a": _entry("F32", [4], 0, 16)}, "the bytes 0 to 16 of 12"),
    ({"a": _entry("F32", [2], 0, 12)}, "of shape 2 has the bytes 0 to 12 of 12"),
    ({"a": _entry("F32", [2**62, 2**62], 0, 12)}, "of shape 4611686018427387904 x 46116860184273"),
    ({"a": _entry("F32", [-3], 12, 0)}, "that are no sizes"),
    ({"a": _entry("F32", [3], 0, True)}, "that are no sizes"),
    ({"a": _entry("F32", [1] * 33, 0, 4)}, "has no shape"),
    ({"a": _entry("F8_E4M3", [12], 0, 12)}, "has dtype 'F8_E4M3'; expected one of F64, F32"),
    ({"a": {"dtype": "F32"}}, "damaged"),
    ({"a": 3}, "damaged"),
    ({"__metadata__": {"format": "pt"}}, "holds no tensors"),
    (b'{"a":{},"a":{}}', "a name comes twice"),
    (b"{" + b"[" * 100000, "damaged"),
    (b'{"a":' + b"9" * 10000, "damaged"),
    (b"{\xff}", "damaged"),
  ],
)
def test_a_wrong_header_of_safetensors_is_refused(refused, header, match):
  refused(_safetensors(header, bytes(12)), match)


@pytest.mark.parametrize("length", [13, 100_000_001, 2**40, 2**55])
def test_a_header_of_safetensors_beyond_the_file_is_refused(refused, length):
  refused(struct.pack("<Q", length) + b"{" + bytes(11), f"header has {length} bytes, expected at")


def test_a_header_of_safetensors_is_at_most_100_megabytes(refused, monkeypatch):
  monkeypatch.setattr(checkpoint, "_MAX_HEADER", 100)
  header = {"a": _entry("U8", [0], 0, 0), "__metadata__": {"x": "y" * 100}}
  refused(_safetensors(header, b""), "expected at most 100")


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", "<i8", ">i2", "u1", "?"])
def test_arrays_of_savez_are_read(read, dtype):
  array = np.array([[0, 1, 1], [1, 0, 1]], dtype)
  arrays = {"a.weight": array, "f": np.asfortranarray(array), "s": array[0, 1], "e": array[:0]}
  found = read(_npz(**arrays))
  assert list(found) == list(arrays)
  for name, value in arrays.items():
    np.testing.assert_array_equal(found[name], value.astype(array.dtype.newbyteorder("=")))
    assert found[name].dtype == array.dtype.newbyteorder("=") and found[name].dtype.isnative


def test_objects_and_records_of_savez_are_refused(refused):
  refused(_npz(a=np.array([{}])), r"header .*'\|O'.*; expected numbers, no objects")
  refused(_npz(a=np.zeros(3, [("x", "f4")])), "expected numbers, no objects or records")
  refused(_npz(a=np.array(["text"])), "expected numbers")


def test_an_array_of_savez_has_the_size_that_it_says(refused):
  good = _npz(a=np.zeros(1234, np.uint8))
  stream = io.BytesIO()
  with zipfile.ZipFile(io.BytesIO(good)) as archive, zipfile.ZipFile(stream, "w") as other:
    other.writestr("a.npy", archive.read("a.npy").replace(b"(1234,)", b"(9999,)"))
  refused(stream.getvalue(), "an array of shape 9999 has 1234 bytes")


# --- Files of another kind


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".safetensors", ".npz", ".txt", ""])
def test_the_name_of_a_file_says_nothing_of_its_format(read, suffix):
  content = _pickle({"w": _tensor()})
  files = [
    _zip(content),
    _legacy(content),
    _npz(w=np.arange(24.0)),
    _safetensors({"w": _entry("F32", [24], 0, 96)}, _COUNTING),
  ]
  for data in files:
    assert read(data, f"weights{suffix}")["w"].tolist() == list(range(24))


@pytest.mark.parametrize(
  "data, match",
  [
    (b"", "is empty; expected a checkpoint of torch.save"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "is a Git LFS pointer.*pull"),
    (b"\n<!DOCTYPE html><html>Not found</html>", "is an HTML or XML page"),
    (b'<?xml version="1.0"?><Error>', "is an HTML or XML page"),
    (b"Hello, world.\n\n", r"is text that begins with 'Hello, world\.'"),
    ("Gr\u00fc\u00dfe".encode(), "is text"),
    (b"\x1f\x8b\x08\x00" + bytes(20), "compressed by gzip; .*; unpack it first"),
    (b"./pickle" + bytes(249) + b"ustar\x0000" + bytes(249), "is a tar archive, as PyTorch wrote"),
    (b"\x89HDF\r\n\x1a\n" + bytes(30), "begins with the bytes 894844460d0a1a0a"),
    (b"\0", "begins with the bytes 00"),
    (b"PK\x03\x04", "damaged"),
    (b"PK\x05\x06" + bytes(18), "is a zip of nothing; expected one of torch.save"),
    (b"\x80", "damaged"),
    (pickle.dumps({"w": 3}), "holds a dict of 'w' and no tensors by name"),
    (pickle.dumps(0x1950A86A20F9469CFC6D), "holds a int and no tensors by name"),
    (pickle.dumps({"w": 3}) + b".", "damaged: something follows the end of its pickle"),
    (pickle.dumps({"blobs": {"conv1_w": 3}}), "holds the blobs of Caffe2, .* model_final_"),
  ],
)
def test_another_file_is_refused_by_what_it_is(refused, data, match):
  refused(data, match)


def test_a_zip_of_something_else_is_refused_by_its_entries(refused):
  refused(_zip(b"", others={"b/data.pkl": b""}), r"is a zip of 'a/data\.pkl', 'a/version'")
  script = {"a/constants.pkl": _pickle(()), "a/code/__torch__.py": b"pass"}
  refused(_zip(_pickle({}), others=script), "is a TorchScript archive, a program; .*state_dict")


def test_what_is_no_file_is_refused(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  for name, match in [
    ("missing.pth", "missing.pth: was not read: No such file or directory; expected a checkpoint"),
    ("", "is no file; expected a checkpoint"),
    ("pipe", "is no file"),
    ("\0", "damaged: embedded null byte"),
  ]:
    with pytest.raises(checkpoint.CheckpointError, match=match):
      checkpoint.read(str(tmp_path / name))


@both
@pytest.mark.parametrize(
  "content, match",
  [
    ({}, "holds a dict of nothing and no tensors by name; expected a state dict, or one under"),
    ({"ema": {"w": _tensor()}, 5: 1}, "a dict of 'ema', 5 and no tensors by name"),
    ({"state_dict": {}, "w": _tensor()}, "a dict of nothing and no tensors"),
    ([_tensor()], "holds a list and no tensors by name"),
    (_tensor(), "holds one tensor without name"),
    (None, "holds a NoneType"),
    ({7: _tensor()}, "has an integer for its name"),
  ],
)
def test_a_checkpoint_without_named_tensors_is_refused(refused, wrapped, content, match):
  refused(wrapped(_pickle(content), {} if content in ({}, None) else None), match)


@bare_too
@pytest.mark.parametrize(
  "module, name, match",
  [
    ("torch._utils", "_rebuild_qtensor", r"_rebuild_qtensor \(quantized tensors are not read\)"),
    ("torch", "QInt8Storage", r"torch.QInt8Storage \(quantized tensors"),
    ("torch._utils", "_rebuild_sparse_tensor", r"\(sparse tensors are not read\)"),
    ("torch", "ComplexFloatStorage", r"\(complex tensors are not read\)"),
    ("torch._utils", "_rebuild_device_tensor_from_numpy", "_from_numpy, expected tensors and"),
    ("torch.nn.modules.container", "Sequential", "asks for torch.nn.modules.container.Sequential"),
    ("my.codec", "Codec", "asks for my.codec.Codec, expected tensors .* run; save the model's"),
  ],
)
def test_tensors_of_other_kinds_and_classes_are_refused_by_name(
  refused, wrapped, module, name, match
):
  refused(wrapped(_pickle({"w": _tensor(), "x": _Global(module, name)})), match)


def test_a_module_with_its_code_is_refused(refused):
  module = _Persistent(("module", _Global("torch", "FloatStorage"), "model.py", "import os", 3))
  refused(_legacy(_pickle({"w": module})), "refers to a module with its code, expected tensors")


# --- Files that mean harm


class _Runs:
  """Runs a function when it is unpickled."""

  def __init__(self, function, *arguments):
    self.reduced = (function, arguments)

  def __reduce__(self):
    return self.reduced


def _attacks(marker) -> dict[str, _Call | _Runs]:
  source = f"open({str(marker)!r}, 'w').close()"
  shell = f"touch {marker}"
  inner = pickle.dumps(_Runs(os.system, shell))
  return {
    "posix.system": _Runs(os.system, shell),
    "nt.system": _Call(_Global("nt", "system"), (shell,)),
    "os.system": _Call(_Global("os", "system"), (shell,)),
    "builtins.eval": _Runs(eval, source),
    "builtins.exec": _Runs(exec, source),
    "builtins.getattr": _Runs(getattr, "text", "upper"),
    "builtins.__import__": _Call(_Global("builtins", "__import__"), ("this",)),
    "subprocess.Popen": _Call(_Global("subprocess", "Popen"), (["touch", str(marker)],)),
    "runpy._run_code": _Call(_Global("runpy", "_run_code"), (source, {})),
    "pickle.loads": _Runs(pickle.loads, inner),
    "torch.load": _Call(_Global("torch", "load"), (str(marker),)),
    "torch.storage._load_from_bytes": _Call(
      _Global("torch.storage", "_load_from_bytes"), (_Raw(b"C" + bytes([len(inner)]) + inner),)
    ),
    "torch._utils.os.system": _Call(_Global("torch._utils", "os.system"), (shell,)),
    "torch.serialization.os.system": _Call(_Global("torch.serialization.os", "system"), (shell,)),
    "torch._utils._rebuild_tensor_v2.__globals__": _Raw(
      _code("torch._utils") + _code("_rebuild_tensor_v2.__globals__") + b"\x93"
    ),
    "collections.OrderedDict.__init__": _Global("collections", "OrderedDict.__init__"),
    "collections.namedtuple": _Runs(collections.namedtuple, "T", "a b"),
    "collections.Counter": _Global("collections", "Counter"),
    "khuvcm_tf.conversion.checkpoint.read": _Runs(checkpoint.read, str(marker)),
    "numpy.load": _Global("numpy", "load"),
    "numpy.core.multiarray.fromfile": _Global("numpy.core.multiarray", "fromfile"),
    "numpy.testing._private.utils.runstring": _Global("numpy.testing._private.utils", "runstring"),
    "numpy.ndarray.tofile": _Raw(_code("numpy") + _code("ndarray.tofile") + b"\x93"),
    "_codecs.decode": _Global("_codecs", "decode"),
    "__builtin__.bytearray": _Call(_Global("__builtin__", "bytearray"), (2**40,)),
    "operator.attrgetter": _Global("operator", "attrgetter"),
    "functools.partial": _Global("functools", "partial"),
  }


@bare_too
@pytest.mark.parametrize("name", _attacks("x"))
@pytest.mark.parametrize("place", ["alone", "in the optimizer", "as an argument", "as a key"])
def test_a_name_that_could_do_harm_is_refused_and_not_run(refused, wrapped, tmp_path, name, place):
  marker = tmp_path / "marker"
  attack = _attacks(marker)[name]
  if isinstance(attack, _Runs):
    attack = _Raw(pickle.dumps(attack, 2)[2:-1])  # without PROTO and STOP
  content = {
    "alone": attack,
    "in the optimizer": {"state_dict": {"w": _tensor()}, "optimizer": {"state": [attack]}},
    "as an argument": {"w": _tensor(shape=_Call(_Global("torch", "Size"), (attack,)))},
    "as a key": _Raw(b"}" + _code(attack) + b"K\x01s"),
  }[place]
  shown = name.replace("builtins", r"(builtins|__builtin__)").replace(".", r"\.")
  refused(wrapped(_pickle(content)), f"asks for {shown}, expected .*; nothing of it was run; save")
  assert not marker.exists()


def test_the_attacks_do_run_where_python_unpickles_them(tmp_path):
  for name in ("posix.system", "builtins.eval", "builtins.exec", "pickle.loads"):
    marker = tmp_path / name
    pickle.loads(pickle.dumps(_attacks(marker)[name], 2))
    assert marker.exists()


@pytest.mark.parametrize("position", range(5))
def test_each_pickle_of_the_older_format_is_watched(refused, tmp_path, position):
  marker = tmp_path / "marker"
  attack = pickle.dumps(_Runs(os.system, f"touch {marker}"), 2)
  pickles = [_pickle(0x1950A86A20F9469CFC6C), _pickle(1001), _pickle({"little_endian": True})]
  pickles += [_pickle({"w": _tensor()}), _pickle([])]
  pickles[position] = attack
  refused(b"".join(pickles) + bytes(100), r"asks for posix\.system")
  assert not marker.exists()


@both
@pytest.mark.parametrize(
  "content, match",
  [
    (_Built([], {"append": 3}), "sets attributes of what is no dict"),
    (_Built(_tensor(), {"shape": 3}), "sets attributes of what is no dict"),
    (_Built(_REBUILD, {"call": 3}), "sets attributes of what is no dict"),
    (_Call("text", ()), "calls what is no function"),
    (_Call(_ORDERED, [1]), "calls what is no function"),
    (_Call(_Global("torch", "FloatStorage"), (2**40,)), "calls torch.FloatStorage, which is no"),
    (_Call(_Global("torch", "float32"), ()), "calls torch.float32, which is no function"),
    (_Call(_ORDERED, ("ab",)), "no list of pairs"),
    (_Call(_ORDERED, (["ab"],)), "no list of pairs"),
    (_Call(_ORDERED, (1, 2)), "damaged"),
    (_Call(_REBUILD, (_storage(), 0)), "damaged"),
    (_Call(_REBUILD, ("storage", 0, (1,), (1,))), "a tensor has no storage"),
    (_Call(_Global("torch._utils", "_rebuild_parameter"), ("w",)), "a parameter has no tensor"),
    (_Persistent("storage"), "refers to what is no storage"),
    (_Persistent(("storage", _ORDERED, "0", "cpu", 24)), "a storage has no type or no key"),
    (_Persistent(("storage", _Global("torch", "FloatStorage"), 0, "cpu", 24)), "or no key"),
    (
      _Persistent((*_storage().identity, ("p", 20, 5))),
      "a part reaches beyond the end of its storage",
    ),
    (_storage(count=-1), "a storage has no size"),
    (_storage(count=2.5), "a storage has no size"),
    (_tensor(shape=(25,)), "a tensor of 25 elements lies in a storage of 24; .*clone"),
    (_tensor(shape=(10**9,), strides=(0,)), "a tensor of 1000000000 elements lies in a storage"),
    (_tensor(shape=(2**62,) * 32, strides=(0,) * 32), "elements lies in a storage of 24"),
    (_tensor(shape=(2,), strides=(24,)), "reaches beyond the end of its storage"),
    (_tensor(shape=(1,), offset=24), "reaches beyond the end of its storage"),
    (_tensor(shape=(2,), offset=1, strides=(-1,)), "the strides of a tensor are none"),
    (_tensor(shape=(2,), offset=-1), "the offset, the shape or the strides"),
    (_tensor(shape=(-2,)), "the offset, the shape or the strides"),
    (_tensor(shape=(True,)), "the offset, the shape or the strides"),
    (_tensor(shape=(2, 2)), "the shape or the strides"),
    (_tensor(shape=[2]), "the shape or the strides"),
    (_tensor(shape=(1,) * 33, strides=(1,) * 33), "the shape or the strides"),
    (_tensor(_storage(count=25), (25,)), "storage '0' has 96 bytes, expected 25 elements of 4"),
    (_tensor(_storage(count=2**60), (2**60,)), "storage '0' has 96 bytes, expected 1152921504606"),
    (_Raw(b"}(\x85K\x01u"), "damaged"),
    (_Raw(b"})K\x01s"), "a key of type tuple, expected text or integer"),
    (_Raw(b"}G\0\0\0\0\0\0\0\0K\x01s"), "a key of type float"),
    (_Raw(b"}" + _code(2**63) + b"Ns"), "a key of type int"),
    (_Raw(b"\x8a\x11" + bytes(16) + b"\x01"), "an integer of more than 128 bits"),
    (_Raw(b"]K\x01K\x01s"), "sets an entry of what is no dict"),
    (_Raw(b"}K\x01a"), "appends to what is no list"),
    (_Raw(b"}(K\x01u"), "a key without a value"),
    (_Raw(b"h\x07"), "damaged"),
    (_Raw(b"0"), "the opcode b'0', which checkpoints do not have"),
    (_Raw(b"(iposix\nsystem\n"), "the opcode b'i'"),
    (_Raw(b"(cposix\nsystem\nX\x01\0\0\0xo"), "asks for posix.system"),
    (_Raw(b"\x82\x01"), r"the opcode b'\\x82'"),
    (_Raw(b"K\x01K\x01"), "damaged"),
  ],
)
def test_a_pickle_that_makes_no_sense_is_refused(refused, wrapped, content, match):
  content = content if isinstance(content, (_Raw, _Built)) else {"w": content}
  refused(wrapped(_pickle(content)), match)


def _bombs() -> dict[str, _Raw]:
  """Pickles of a few MB at most that take hours, many GB or the C stack of Python's unpickler."""
  hundred = b"(" + b"K\x01" * 200 + b"l"
  return {
    "memo index": b"Nr\xf0\xff\xff\xff",
    "bytes": b"B\xff\xff\xff\x7fabc",
    "bytes of 64 bits": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc",
    "text of 64 bits": b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc",
    "text": b"X\xff\xff\xff\xffabc",
    "bytearray": b"\x96\xff\xff\xff\xff\xff\xff\xff\x7fabc",
    "long": b"\x8b\xff\xff\xff\x7fabc",
    "digits": b"I" + b"9" * 10**6 + b"\n",
    "frame": b"\x95\xff\xff\xff\xff\xff\xff\xff\x7fN",
    "long integer": b"\x8b\x40\x42\x0f\x00" + b"\x01" * 10**6,
    "nested keys": b"}" + b")" + b"\x85" * 10**5 + b"K\x01s",
    "doubled keys": b"})" + b"q\x00h\x00\x86" * 60 + b"K\x01s",
    "colliding keys": b"}" + b"".join(_code((2**61 - 1) * n) + b"N" + b"s" for n in range(9)),
    "copied dict": hundred,
  }


@bare_too
@pytest.mark.parametrize("name", _bombs())
def test_a_bomb_does_not_go_off(refused, wrapped, name):
  data = wrapped(_pickle(_Raw(_bombs()[name])))
  tracemalloc.start()
  try:
    refused(data, "damaged|no tensors")
    assert tracemalloc.get_traced_memory()[1] < MEMORY
  finally:
    tracemalloc.stop()


def test_copies_of_a_dict_count_as_steps(refused, monkeypatch):
  monkeypatch.setattr(pickle_machine, "_MAX_STEPS", 10000)
  pairs = _code([["a", 1]] * 500) + b"q\x00"
  copies = (_code(_ORDERED) + b"h\x00\x85R") * 30
  refused(_zip(_pickle(_Raw(b"(" + pairs + copies + b"t"))), "more than 10000 steps of pickles")


def test_steps_are_the_opcodes_of_all_pickles_of_a_file(read, refused, monkeypatch):
  content = _pickle({"w": _tensor(), **{f"n{i}": i for i in range(200)}})
  steps = len(list(pickletools.genops(content)))
  monkeypatch.setattr(pickle_machine, "_MAX_STEPS", steps)
  assert list(read(_zip(content))) == ["w"]
  refused(
    _legacy(content), f"more than {steps} steps of pickles, expected about 40 for each tensor"
  )
  monkeypatch.setattr(pickle_machine, "_MAX_STEPS", steps - 1)
  refused(_zip(content), "more than")


def test_a_truth_value_is_0_or_1(read, refused):
  content = _pickle({"w": _tensor(_storage(kind="BoolStorage", count=3), (3,))})
  assert read(_zip(content, {"0": b"\0\1\0"}))["w"].tolist() == [False, True, False]
  refused(_zip(content, {"0": b"\0\2\0"}), "a truth value is neither 0 nor 1")


def test_a_storage_that_is_not_in_the_file_is_refused(refused):
  content = _pickle({"w": _tensor(_storage("7"))})
  refused(_zip(content), "storage '7' is not in it")
  refused(_legacy(content, {}), "storage '7' is not in it")
  refused(_legacy(content), "storage '0' belongs to no tensor")


def test_a_compressed_entry_is_refused(refused):
  content = _pickle({"w": _tensor(_storage(count=10**6), (10**6,))})
  bomb = _zip(content, {"0": bytes(4 * 10**6)}, compression=zipfile.ZIP_DEFLATED)
  refused(bomb, "has the compressed entry 'a/data.pkl'; expected stored ones")
  method = struct.pack("<H", zipfile.ZIP_DEFLATED)
  same_size = _with_central_directory(_zip(content), lambda c: c[:10] + method + c[12:])
  refused(same_size, "has the compressed entry")
  refused(_npz(np.savez_compressed, a=np.zeros(9)), r"has the compressed entry 'a\.npy'")


def _with_central_directory(data: bytes, change) -> bytes:
  """Changes the central directory of a zip, where zipfile takes all sizes from."""
  begin = data.index(b"PK\x01\x02")
  return data[:begin] + change(data[begin:])


def test_a_zip_whose_entries_lie_about_their_sizes_is_refused(refused):
  good = _zip(_pickle({"w": _tensor()}))
  size = struct.pack("<I", 96)
  huge = struct.pack("<I", 2**31)
  refused(_with_central_directory(good, lambda c: c.replace(size * 2, size + huge)), "compressed")
  refused(_with_central_directory(good, lambda c: c.replace(size * 2, huge * 2)), "larger together")


def test_overlapping_entries_of_a_zip_are_refused(refused):
  names = {f"a/data/{i}": b"" for i in range(200)}
  good = _zip(_pickle({"w": _tensor()}), {"0": bytes(10**4)}, names)
  size, none = struct.pack("<I", 10**4), bytes(8)
  change = lambda c: c.replace(b"\0\0\0\0" + none, b"\0\0\0\0" + size * 2)  # noqa: E731
  refused(_with_central_directory(good, change), "larger together than the file")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_comes_twice_is_refused(refused):
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, "w") as archive:
    archive.writestr("a.npy", b"")
    archive.writestr("a.npy", b"")
  refused(stream.getvalue(), "an entry comes twice")


def test_a_wrong_byteorder_is_refused(refused):
  other = {"a/byteorder": b"middle"}
  refused(_zip(_pickle({"w": _tensor()}), others=other), "byteorder is b'middle', expected little")


@pytest.mark.parametrize("count", [-1, 25, 2**62])
def test_a_count_beyond_the_older_file_is_refused(refused, count):
  data = _legacy(_pickle({"w": _tensor()}))
  data = data[: -96 - 8] + struct.pack("<q", count) + data[-96:]
  refused(data, "storage '0' of -?[0-9]+ bytes reaches beyond the end of the file")


# --- Damage


def _whole_files() -> dict[str, bytes]:
  content = _pickle({"epoch": 3, "net": _Built({"w": _tensor()}, {"a": 1})})
  return {
    "real zip": (HERE / "real_zip.pth").read_bytes(),
    "real legacy": (HERE / "real_legacy.pth.tar").read_bytes(),
    "zip": _zip(content),
    "legacy": _legacy(content),
    "safetensors": _safetensors({"w": _entry("F32", [4, 6], 0, 96)}, _COUNTING),
    "npz": _npz(w=np.arange(6.0).reshape(2, 3), b=np.arange(3)),
  }


def _outcome(path: pathlib.Path, data: bytes) -> str:
  path.unlink(missing_ok=True)  # Some file systems flush a file that is written over.
  path.write_bytes(data)
  try:
    found = checkpoint.read(str(path))
  except checkpoint.CheckpointError as error:
    assert len(str(error).splitlines()) == 1 and len(str(error)) < 1000
    return "refused"
  assert found and all(type(a) is np.ndarray and a.nbytes <= 10 * len(data) for a in found.values())
  return "read"


def _mutated(data: bytes, rng: random.Random) -> bytes:
  data = bytearray(data)
  for _ in range(rng.choice((1, 1, 2, 5))):
    place, length = rng.randrange(len(data)), rng.choice((1, 1, 2, 4, 8))
    kind = rng.randrange(5)
    if kind == 0:
      data[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
      data[place : place + length] = rng.choice((b"\xff", b"\x7f", b"\0", b"\x80")) * length
    elif kind == 2:
      del data[place : place + length]
    elif kind == 3:
      data[place:place] = data[rng.randrange(len(data)) :][:length]
    else:
      data[place] = rng.choice(b"(.RbQcesutaq}])\x85\x86\x87\x93\x94N0Bi")
    data = data or bytearray(b"\0")
  return bytes(data)


@pytest.mark.parametrize("name", ["real zip", "real legacy", "legacy", "safetensors", "npz"])
def test_every_truncated_file_is_refused(tmp_path, name):
  data = _whole_files()[name]
  path = tmp_path / "file"
  assert _outcome(path, data) == "read"
  assert {_outcome(path, data[:end]) for end in range(len(data))} == {"refused"}


@pytest.mark.parametrize("name", _whole_files())
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, name):
  rng, data = random.Random(name), _whole_files()[name]
  outcomes = [_outcome(tmp_path / "file", _mutated(data, rng)) for _ in range(600)]
  assert outcomes.count("refused") > 300 // 3


@both
def test_damaged_pickles_are_read_or_refused_in_one_line(tmp_path, wrapped):
  rng = random.Random(1)
  with zipfile.ZipFile(HERE / "real_zip.pth") as archive:
    storages = {n.split("/")[-1]: archive.read(n) for n in archive.namelist() if "zip/data/" in n}
    real = archive.read("real_zip/data.pkl")
  plain = _pickle({"net": {"w": _tensor(None, (2, 3), (3, 1))}, "a": [1, (2.5, None)]})
  outcomes = []
  for _ in range(600):
    outcomes.append(_outcome(tmp_path / "file", wrapped(_mutated(plain, rng))))
    outcomes.append(_outcome(tmp_path / "file", wrapped(_mutated(real, rng), storages)))
  assert 20 < outcomes.count("read") < len(outcomes) - 200


@both
def test_any_opcodes_in_any_order_are_read_or_refused_in_one_line(tmp_path, wrapped):
  rng = random.Random(2)
  words = [_code(v) for v in (1, 0, -7, 24, 2.5, "w", "0", "storage", None, (), [], {}, True)]
  words += [_code(known) for known in (_ORDERED, _REBUILD, _Global("torch", "Size"))]
  words += [_code(v) for v in (_storage(), _tensor(), {"w": _tensor()}, (2, 3), ["a", 1])]
  words += [bytes([c]) for c in b"(tRbQaeus\x85\x86\x87\x93\x94\x940"]
  words += [b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"K\x03"]
  for _ in range(1500):
    opcodes = b"".join(rng.choices(words, k=rng.randrange(1, 25)))
    _outcome(tmp_path / "file", wrapped(b"\x80\x02" + opcodes + b"."))
