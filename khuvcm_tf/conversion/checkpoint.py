"""PyTorch checkpoints as NumPy arrays, without PyTorch and without running what they ask for.

| begins with          | format                                                              |
| -------------------- | ------------------------------------------------------------------- |
| `PK`                 | zip of torch.save: NAME/data.pkl, NAME/data/KEY, NAME/byteorder     |
|                      | zip of numpy.savez: one .npy for each tensor                        |
| 0x80                 | torch.save before 1.6: five pickles, then the storages in turn      |
|                      | a pickle of NumPy's arrays, as in detectron2's model zoo            |
| `{` at byte 8        | safetensors: u64 length of a header, the header in JSON, the data   |

Pickles are executed by `pickle_machine`, on plain values only. A size is compared with what the
file has left before memory is taken, and nothing is decompressed, so what a file can take is
bounded by a small multiple of its length.

Reference: `torch/serialization.py` (`_save`, `_legacy_save`), `torch/_utils.py`
(`_rebuild_tensor_v2`); "Format" in the README of huggingface/safetensors.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import stat
import struct
import zipfile
from collections.abc import Callable

import numpy as np

from khuvcm_tf.conversion.numpy_pickle import Array
from khuvcm_tf.conversion.pickle_machine import (
  MAX_RANK,
  SAVE_ANEW,
  CheckpointError,
  product,
  shown,
)
from khuvcm_tf.conversion.torch_pickle import Machine, Tensor

_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older format
_PROTOCOL = 1001  # second one
_WRAPPERS = ("state_dict", "model", "net")
_MAX_HEADER = 100_000_000  # bytes of a safetensors header: the format's own limit

_SAFETENSORS = dict(
  zip(
    "F64 F32 F16 BF16 I64 I32 I16 I8 U64 U32 U16 U8 BOOL".split(),
    "f8  f4  f2  bf16 i8  i4  i2  i1 u8  u4  u2  u1 b1".split(),
  )
)

# What the header of a .npy says, in the one way that NumPy writes it.
_NPY = re.compile(
  rb"\{'descr': '([<>|=]?)([fiub]\d)', 'fortran_order': (True|False), "
  rb"'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18})?)\), \}\s*"
)

# What Python and NumPy raise at a damaged file.
_DAMAGE = (
  ArithmeticError,
  AssertionError,
  EOFError,
  LookupError,
  MemoryError,
  OSError,
  RuntimeError,
  TypeError,
  ValueError,
  struct.error,
  zipfile.BadZipFile,
)


def read(path: str) -> dict[str, np.ndarray]:
  """Reads all tensors of a checkpoint; nothing that it contains is run.

  Formats are recognized by content, whatever the file's name. Where a checkpoint of training wraps
  the weights in a dict of its own, the dict under `state_dict`, `model` or `net` is taken, in this
  order; its other entries are left aside, and so is what in a state dict is no tensor and no array.

  Args:
    path: of a file of torch.save (zip or older), safetensors or numpy.savez, or of a pickle of
      NumPy's arrays.

  Returns:
    Name -> array, in the file's order: float16, float32, float64, an integer type or bool, of the
    machine's byte order; bfloat16 as float32. They are read-only, and where tensors share a storage
    in the file the arrays share memory; any of them may be non-contiguous.

  Raises:
    CheckpointError: the file cannot be read, is damaged or of another format, holds no tensors, or
      asks for anything but tensors and plain values.
  """
  try:
    data = _file_bytes(path)
    return _reader(data)(data)
  except CheckpointError as error:
    raise CheckpointError(_one_line(f"{path}: {error}")) from error
  except _DAMAGE as error:
    reason = _one_line(str(error))[:200] or type(error).__name__
    raise CheckpointError(
      _one_line(f"{path}: damaged: {reason}; expected a whole checkpoint; download it again")
    ) from error


def _file_bytes(path: str) -> bytes:
  try:
    if not stat.S_ISREG(os.stat(path).st_mode):
      raise CheckpointError("is no file; expected a checkpoint; name the file itself")
    with open(path, "rb") as file:
      return file.read()
  except OSError as error:
    raise CheckpointError(
      f"was not read: {error.strerror}; expected a checkpoint; check its path and rights"
    ) from error


def _reader(data: bytes) -> Callable[[bytes], dict[str, np.ndarray]]:
  """Tells the format by content; refuses what is none of these by its name."""
  # First: lengths of headers may begin with any byte, zips and pickles have no `{` at byte 8.
  if data[7:9] == b"\0{":
    return _read_safetensors
  if data[:2] == b"PK":
    return _read_zip
  if data[:1] == b"\x80":
    return _read_pickle
  found, remedy = _other_format(data)
  raise CheckpointError(
    f"{found}; expected a checkpoint of torch.save, safetensors or numpy.savez, or a pickle of "
    f"NumPy's arrays; {remedy}"
  )


def _other_format(data: bytes) -> tuple[str, str]:
  """Returns what a file is instead, and what to do."""
  begin = data[:512].strip()
  if not data:
    return "is empty", "download it again"
  if begin.startswith(b"version https://git-lfs"):
    return "is a Git LFS pointer", "fetch the file itself by `git lfs pull`"
  if begin.startswith(b"<"):
    return "is an HTML or XML page", "download the file itself, not the page about it"
  if data[257:262] == b"ustar":
    return (
      "is a tar archive, as PyTorch wrote before 0.1.10",
      f"in a newer one, {SAVE_ANEW}",
    )
  if data[:2] == b"\x1f\x8b":
    return "is compressed by gzip", "unpack it first"
  if re.fullmatch(rb"[\t\n\r\x20-\x7e\x80-\xff]+", begin):
    return (
      f"is text that begins with {shown(begin[:20].decode('latin-1'))}",
      "check its path",
    )
  return f"begins with the bytes {data[:8].hex()}, as no known format does", SAVE_ANEW


def _arrays(
  content: object, elements: Callable[[str], bytes], order: str, size: int
) -> dict[str, np.ndarray]:
  """Returns the tensors of an unpickled checkpoint.

  Args:
    content: what was pickled.
    elements: key of a storage -> its bytes in the file, or a KeyError.
    order: of them, "<" or ">".
    size: of the pickle, in bytes: what its arrays have together is in it.
  """
  state = _state_dict(content)
  arrays = [value for value in state.values() if type(value) is Array]
  if any(array.data is None for array in arrays):
    raise ValueError("an array has no contents")
  # Many arrays may refer to the same bytes, and each takes memory.
  if sum(len(array.data) for array in arrays) > size:
    raise ValueError("its arrays are larger together than their pickle")
  flats = _storages([value for value in state.values() if type(value) is Tensor], elements, order)
  return {
    name: _array(value) if type(value) is Array else _view(value, flats[value.storage[:3]])
    for name, value in state.items()
  }


def _state_dict(content: object) -> dict[str, Tensor | Array]:
  """Returns the tensors and arrays of an unpickled checkpoint by name."""
  state = content
  if type(content) is dict:
    state = next((content[k] for k in _WRAPPERS if type(content.get(k)) is dict), content)
  tensors = {}
  if type(state) is dict:
    tensors = {name: value for name, value in state.items() if type(value) in (Tensor, Array)}
  if not tensors:
    raise CheckpointError(_without_tensors(state))
  if any(type(name) is not str for name in tensors):
    raise ValueError("a tensor has an integer for its name")
  return tensors


def _without_tensors(state: object) -> str:
  """Returns what is wrong with a checkpoint that holds no tensors by name."""
  what, expected, remedy = f"a {type(state).__name__}", "a state dict", SAVE_ANEW
  if type(state) in (Tensor, Array):
    what = "one tensor without name"
  elif type(state) is dict and "blobs" in state:
    what = "the blobs of Caffe2, which go by other names than a model's layers,"
    expected = "the state dict of a whole model"
    remedy = "take the file that PyTorch or detectron2 saved, such as model_final_*.pkl of its zoo"
  elif type(state) is dict:
    what = f"a dict of {', '.join(shown(key) for key in list(state)[:5]) or 'nothing'}"
  return (
    f"holds {what} and no tensors by name; expected {expected}, or one under "
    f"{', '.join(_WRAPPERS[:-1])} or {_WRAPPERS[-1]}; {remedy}"
  )


def _storages(
  tensors: list[Tensor], elements: Callable[[str], bytes], order: str
) -> dict[tuple, np.ndarray]:
  """Returns the storages that tensors lie in, each as [n]; arguments as of `_arrays`."""
  flats = {}
  for tensor in tensors:
    storage = tensor.storage
    if storage[:3] not in flats:
      try:
        data = elements(storage.key)
      except KeyError as error:
        raise ValueError(f"storage {shown(storage.key)} is not in it") from error
      if len(data) != storage.count * _item_bytes(storage.dtype):
        raise ValueError(
          f"storage {shown(storage.key)} has {len(data)} bytes, expected {storage.count} elements "
          f"of {_item_bytes(storage.dtype)}"
        )
      flats[storage[:3]] = _numbers(data, storage.dtype, order)
  return flats


def _view(tensor: Tensor, flat: np.ndarray) -> np.ndarray:
  """Returns the view of a storage that a tensor is; NumPy checks its bounds once more."""
  if 0 in tensor.shape:
    return np.zeros(tensor.shape, flat.dtype)
  first = (tensor.storage.start + tensor.offset) * flat.itemsize
  strides = [stride * flat.itemsize for stride in tensor.strides]
  # A stride over a single element is never taken, and may be any number.
  strides = [stride if n > 1 else 0 for n, stride in zip(tensor.shape, strides)]
  return np.ndarray(tensor.shape, flat.dtype, flat, first, strides)


def _array(array: Array) -> np.ndarray:
  data = array.data.encode("latin-1") if type(array.data) is str else array.data
  numbers = _numbers(data, array.dtype, array.order)
  return numbers.reshape(array.stored_shape).transpose(array.axes)


def _item_bytes(dtype: str) -> int:
  return 2 if dtype == "bf16" else np.dtype(dtype).itemsize


def _numbers(data: bytes, dtype: str, order: str) -> np.ndarray:
  """Returns bytes as a read-only array [n] in the machine's byte order, bf16 as float32."""
  if dtype == "bf16":  # the upper half of a float32
    upper = np.frombuffer(data, f"{order}u2").astype(np.uint32)
    upper <<= 16
    numbers = upper.view(np.float32)
  elif dtype == "b1":
    numbers = np.frombuffer(data, np.uint8)
    if numbers.size and numbers.max() > 1:
      raise ValueError("a truth value is neither 0 nor 1")
    numbers = numbers.astype(bool)
  else:
    numbers = np.frombuffer(data, order + dtype).astype(dtype)
  numbers.flags.writeable = False
  return numbers


# --- The formats


def _read_zip(data: bytes) -> dict[str, np.ndarray]:
  """The zip of torch.save or of numpy.savez."""
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    entries = {info.filename: info for info in archive.infolist()}
    if any(re.search(r"/(constants\.pkl$|code/)", name) for name in entries):
      raise CheckpointError(
        f"is a TorchScript archive, a program; expected its weights alone; {SAVE_ANEW}"
      )
    _check_entries(archive.infolist(), len(data))
    if entries and all(name.endswith(".npy") for name in entries):
      return {name[: -len(".npy")]: _npy(archive.read(info)) for name, info in entries.items()}
    roots = [n[: -len("data.pkl")] for n in entries if re.fullmatch(r"[^/]+/data\.pkl", n)]
    if len(roots) != 1:
      raise CheckpointError(
        f"is a zip of {', '.join(shown(n) for n in list(entries)[:3]) or 'nothing'}; expected one "
        f"of torch.save or numpy.savez; {SAVE_ANEW}"
      )
    (root,) = roots
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in entries else b"little"
    if order not in (b"little", b"big"):
      raise ValueError(f"byteorder is {shown(order)}, expected little or big")
    pickled = archive.read(f"{root}data.pkl")
    content = Machine().run(io.BytesIO(pickled))
    return _arrays(
      content,
      lambda key: archive.read(f"{root}data/{key}"),
      "<" if order == b"little" else ">",
      len(pickled),
    )


def _check_entries(infos: list[zipfile.ZipInfo], size: int) -> None:
  """Refuses entries that are compressed, come twice, or hold more together than the file."""
  for info in infos:
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
      raise CheckpointError(
        f"has the compressed entry {shown(info.filename)}; expected stored ones, as torch.save "
        "and numpy.savez write them; save it anew"
      )
  if len({info.filename for info in infos}) != len(infos):
    raise ValueError("an entry comes twice")
  if sum(info.file_size for info in infos) > size:
    raise ValueError("its entries are larger together than the file")


def _npy(data: bytes) -> np.ndarray:
  """One array of numpy.savez."""
  if data[:6] != b"\x93NUMPY" or data[6] not in (1, 2):
    raise ValueError("an entry is no .npy of version 1 or 2")
  width = 2 if data[6] == 1 else 4
  begin = 8 + width
  end = begin + int.from_bytes(data[8:begin], "little")
  header = _NPY.fullmatch(data[begin:end])
  if header is None:
    raise CheckpointError(
      f"has an array with the header {shown(data[begin:end])}; expected numbers, no objects or "
      "records; save each tensor as a plain array"
    )
  order, dtype, transposed, sizes = (group.decode() for group in header.groups())
  shape = tuple(int(n) for n in sizes.split(",") if n.strip())
  if len(shape) > MAX_RANK or math.prod(shape) * _item_bytes(dtype) != len(data) - end:
    raise ValueError(f"an array of shape {product(shape)} has {len(data) - end} bytes")
  numbers = _numbers(memoryview(data)[end:], dtype, ">" if order == ">" else "<")
  return numbers.reshape(shape, order="F" if transposed == "True" else "C")


def _read_pickle(data: bytes) -> dict[str, np.ndarray]:
  """A pickle that holds its arrays itself, or the first one of the older format of torch.save."""
  stream, machine = io.BytesIO(data), Machine()
  content = machine.run(stream)
  if type(content) is int and content == _MAGIC:
    return _read_legacy(data, stream, machine)
  if stream.read(1):
    raise ValueError("something follows the end of its pickle")
  return _arrays(content, {}.__getitem__, "<", len(data))


def _read_legacy(data: bytes, stream: io.BytesIO, machine: Machine) -> dict[str, np.ndarray]:
  """After the magic: protocol, system, content and keys, each a pickle; for each key its elements.

  Before the elements stands their count.
  """
  protocol, system = machine.run(stream), machine.run(stream)
  if type(protocol) is not int or protocol != _PROTOCOL:
    raise ValueError(f"the protocol is not {_PROTOCOL}")
  if type(system) is not dict or system.get("little_endian") is not True:
    raise CheckpointError(
      "was written on a big-endian machine, expected a little-endian one; save it anew by "
      "torch.save of version 1.6 or newer"
    )
  content, keys = machine.run(stream), machine.run(stream)
  if type(keys) is not list or any(type(key) is not str for key in keys):
    raise ValueError("the keys of its storages are no list of text")
  position, elements = stream.tell(), {}
  for key in keys:
    if key not in machine.storages:
      raise ValueError(f"storage {shown(key)} belongs to no tensor")
    (count,) = struct.unpack_from("<q", data, position)
    size = count * _item_bytes(machine.storages[key].dtype)
    if not 0 <= size <= len(data) - position - 8:
      raise ValueError(f"storage {shown(key)} of {size} bytes reaches beyond the end of the file")
    elements[key] = memoryview(data)[position + 8 : position + 8 + size]
    position += 8 + size
  return _arrays(content, elements.__getitem__, "<", len(data))


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
  (length,) = struct.unpack_from("<Q", data)
  if length > min(_MAX_HEADER, len(data) - 8):
    raise ValueError(
      f"its header has {length} bytes, expected at most {min(_MAX_HEADER, len(data) - 8)}"
    )
  header = json.loads(data[8 : 8 + length].decode("utf-8"), object_pairs_hook=_unique)
  header.pop("__metadata__", None)
  if not header:
    raise CheckpointError("holds no tensors; expected some by name; check how it was written")
  data, arrays, spans = memoryview(data)[8 + length :], {}, []
  for name, entry in header.items():
    code, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(code) is not str or code not in _SAFETENSORS:
      raise CheckpointError(
        f"tensor {shown(name)} has dtype {shown(code)}; expected one of "
        f"{', '.join(_SAFETENSORS)}; convert it to one of them"
      )
    if type(shape) is not list or len(shape) > MAX_RANK:
      raise ValueError(f"tensor {shown(name)} has no shape")
    if not all(type(n) is int and 0 <= n < 2**63 for n in (begin, end, *shape)):
      raise ValueError(f"tensor {shown(name)} has a shape or offsets that are no sizes")
    dtype = _SAFETENSORS[code]
    if not begin <= end <= len(data) or end - begin != math.prod(shape) * _item_bytes(dtype):
      raise ValueError(
        f"tensor {shown(name)} of shape {product(shape)} has the bytes {begin} to {end} of "
        f"{len(data)}"
      )
    spans.append((begin, end))
    arrays[name] = (begin, end, dtype, shape)
  spans.sort()
  ends = [0, *(end for _, end in spans)]
  if [begin for begin, _ in spans] != ends[:-1] or ends[-1] != len(data):
    raise ValueError("its tensors overlap or leave gaps")
  return {
    name: _numbers(data[begin:end], dtype, "<").reshape(shape)
    for name, (begin, end, dtype, shape) in arrays.items()
  }


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
  if len(dict(pairs)) != len(pairs):
    raise ValueError("a name comes twice in its header")
  return dict(pairs)


def _one_line(text: str) -> str:
  return " ".join(text.splitlines())
