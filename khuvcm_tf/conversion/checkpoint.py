"""PyTorch checkpoints as NumPy arrays, without PyTorch and without running what they ask for.

| begins with          | format                                                              |
| -------------------- | ------------------------------------------------------------------- |
| `PK`                 | zip of torch.save: NAME/data.pkl, NAME/data/KEY, NAME/byteorder     |
|                      | zip of numpy.savez: one .npy for each tensor                        |
| 0x80                 | torch.save before 1.6: five pickles, then the storages in turn      |
| `{` at byte 8        | safetensors: u64 length of a header, the header in JSON, the data   |

A pickle is a program, and Python's own unpickler can be brought down by one that calls nothing at
all: a key of a million nested tuples overflows the C stack, a memo index of 2**31 takes 32 GB. So
`_Machine` executes the few opcodes that torch.save writes, on plain values only. The names that it
knows stand for functions of this file; no module is looked up. A size is compared with what the
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
import pickletools
import re
import stat
import struct
import zipfile
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from khuvcm_tf import errors

_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the older format
_PROTOCOL = 1001  # second one
_WRAPPERS = ("state_dict", "model", "net")
_MAX_STEPS = 2**21  # opcodes of all pickles of a file; a tensor of a state dict takes about 40
_MAX_HEADER = 100_000_000  # bytes of a safetensors header: the format's own limit
_MAX_RANK = 32  # NumPy's
_SAVE_ANEW = "save the model's state_dict() alone, by torch.save or as safetensors"

# Dtypes go by NumPy's codes; "bf16", which NumPy has not, becomes float32.
_STORAGES = {
  "FloatStorage": "f4",
  "DoubleStorage": "f8",
  "HalfStorage": "f2",
  "BFloat16Storage": "bf16",
  "LongStorage": "i8",
  "IntStorage": "i4",
  "ShortStorage": "i2",
  "CharStorage": "i1",
  "ByteStorage": "u1",
  "BoolStorage": "b1",
}
_SAFETENSORS = dict(
  zip(
    "F64 F32 F16 BF16 I64 I32 I16 I8 U64 U32 U16 U8 BOOL".split(),
    "f8  f4  f2  bf16 i8  i4  i2  i1 u8  u4  u2  u1 b1".split(),
  )
)
_DTYPES = (
  "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool "
  "float double half long int short"
).split()

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


class CheckpointError(errors.Error):
  """A file that cannot be read as a checkpoint, or that asks for more than its tensors."""


def read(path: str) -> dict[str, np.ndarray]:
  """Reads all tensors of a checkpoint; nothing that it contains is run.

  Formats are told by content, whatever the file's name. Where a checkpoint of training wraps the
  weights in a dict of its own, the dict under `state_dict`, `model` or `net` is taken, in this
  order; its other entries are left aside, and so is what in a state dict is no tensor.

  Args:
    path: of a file of torch.save (zip or older), safetensors or numpy.savez.

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
  """Tells the format by content; refuses what is none of the four by its name."""
  # First: lengths of headers may begin with any byte, zips and pickles have no `{` at byte 8.
  if data[7:9] == b"\0{":
    return _read_safetensors
  if data[:2] == b"PK":
    return _read_zip
  if data[:1] == b"\x80":
    return _read_legacy
  found, remedy = _other_format(data)
  raise CheckpointError(
    f"{found}; expected a checkpoint of torch.save, safetensors or numpy.savez; {remedy}"
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
    return "is a tar archive, as PyTorch wrote before 0.1.10", f"in a newer one, {_SAVE_ANEW}"
  if data[:2] == b"\x1f\x8b":
    return "is compressed by gzip", "unpack it first"
  if re.fullmatch(rb"[\t\n\r\x20-\x7e\x80-\xff]+", begin):
    return f"is text that begins with {_shown(begin[:20].decode('latin-1'))}", "check its path"
  return f"begins with the bytes {data[:8].hex()}, as no known format does", _SAVE_ANEW


# --- Tensors of torch.save


class _Storage(NamedTuple):
  """Where the elements of tensors lie; a part of one in files of the first versions."""

  key: str
  dtype: str
  count: int  # elements in the file
  start: int  # the first element of the part
  length: int  # elements of the part


class _Tensor(NamedTuple):
  storage: _Storage
  offset: int  # elements, as strides
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class _Known(NamedTuple):
  """What a name that a pickle asks for stands for: a dtype of storages, a function, or neither."""

  name: str
  dtype: str | None = None
  call: Callable[[tuple], object] | None = None


def _rebuild_tensor(arguments: tuple) -> _Tensor:
  """The first four arguments say all; the rest is of gradients and hooks."""
  storage, offset, shape, strides, *_ = arguments
  if type(storage) is not _Storage:
    raise ValueError("a tensor has no storage")
  if not (type(shape) is type(strides) is tuple and len(shape) == len(strides) <= _MAX_RANK):
    raise ValueError("the shape or the strides of a tensor are none")
  if not all(type(n) is int and 0 <= n < 2**63 for n in (offset, *shape, *strides)):
    raise ValueError("the offset, the shape or the strides of a tensor are none")
  if math.prod(shape) > storage.length:
    raise CheckpointError(
      f"a tensor of {_product(shape)} elements lies in a storage of {storage.length}; expected no "
      "more than it has; save its .clone() where it was made by expand()"
    )
  last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides))
  if math.prod(shape) and last >= storage.length:
    raise ValueError(f"a tensor of shape {_product(shape)} reaches beyond the end of its storage")
  return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(arguments: tuple) -> _Tensor:
  if type(arguments[0]) is not _Tensor:
    raise ValueError("a parameter has no tensor")
  return arguments[0]


def _size(arguments: tuple) -> tuple:
  (shape,) = arguments
  return tuple(shape) if type(shape) in (tuple, list) and len(shape) <= _MAX_RANK else ()


_KNOWN = {
  known.name: known
  for known in (
    _Known("torch._utils._rebuild_tensor", call=_rebuild_tensor),
    _Known("torch._utils._rebuild_tensor_v2", call=_rebuild_tensor),
    _Known("torch._utils._rebuild_parameter", call=_rebuild_parameter),
    _Known("torch.Size", call=_size),
    _Known("collections.OrderedDict"),  # `_Machine` calls it: it costs as many steps as entries.
    *(_Known(f"torch.{name}", dtype) for name, dtype in _STORAGES.items()),
    *(_Known(f"torch.{name}") for name in _DTYPES),
  )
}
_ORDERED_DICT = _KNOWN["collections.OrderedDict"]


def _find(module: str, name: str) -> _Known:
  """Returns what a name stands for here, or refuses it; nothing is imported."""
  if type(module) is not str or type(name) is not str:
    raise ValueError("a pickle asks for a name that is no text")
  full = f"{module}.{name}"
  if full in _KNOWN:
    return _KNOWN[full]
  kind = ""
  if full.startswith("torch."):
    odd = re.search(r"sparse|quant|qtensor|Q\w*Int\w+Storage|Complex", name)
    odd = odd and {"sparse": "sparse", "Complex": "complex"}.get(odd[0], "quantized")
    kind = f" ({odd} tensors are not read)" if odd else ""
  raise CheckpointError(
    f"asks for {_shown(full)[1:-1]}{kind}, expected tensors and plain values alone; nothing of it "
    f"was run; {_SAVE_ANEW}"
  )


class _Machine:
  """Executes pickles, as far as torch.save writes them, on plain values only.

  Attributes:
    storages: key -> storage, all that the pickles named.
  """

  def __init__(self):
    self.storages = {}
    self._left = _MAX_STEPS

  def run(self, stream: io.BytesIO) -> object:
    """Executes the pickle at which `stream` stands; leaves it behind its end."""
    self._stack, self._below, self._memo = [], [], {}
    while True:
      self._spend(1)
      code = stream.read(1)
      if not code:
        raise EOFError("a pickle was cut short")
      if code == b".":
        (value,) = self._stack
        return value
      if code not in self._steps:
        raise ValueError(f"a pickle has the opcode {code!r}, which torch.save does not write")
      opcode, step = self._steps[code]
      step(self, opcode.arg.reader(stream) if opcode.arg else None)

  def _spend(self, steps: int) -> None:
    self._left -= steps
    if self._left < 0:
      raise CheckpointError(
        f"holds more than {_MAX_STEPS} steps of pickles, expected about 40 for each tensor; "
        f"{_SAVE_ANEW}"
      )

  def _pass(self, _) -> None:
    """Protocol and frames: they change nothing of what follows."""

  def _push(self, value) -> None:
    self._stack.append(value)

  def _integer(self, value) -> None:
    # Hashing and printing of longer ones takes time that grows with them.
    if value.bit_length() > 128:
      raise ValueError("a pickle has an integer of more than 128 bits")
    self._stack.append(value)

  def _mark(self, _) -> None:
    self._below.append(self._stack)
    self._stack = []

  def _since_mark(self) -> list:
    values, self._stack = self._stack, self._below.pop()
    return values

  def _tuple(self, _) -> None:
    self._push(tuple(self._since_mark()))

  def _tuple_of(self, count: int) -> None:
    if len(self._stack) < count:
      raise ValueError("a pickle takes more than it has put")
    values = tuple(self._stack[-count:])
    del self._stack[-count:]
    self._push(values)

  def _append(self, _) -> None:
    self._extend([self._stack.pop()])

  def _appends(self, _) -> None:
    self._extend(self._since_mark())

  def _extend(self, values: list) -> None:
    if type(self._stack[-1]) is not list:
      raise ValueError("a pickle appends to what is no list")
    self._stack[-1].extend(values)

  def _set_item(self, _) -> None:
    value, key = self._stack.pop(), self._stack.pop()
    self._update(self._stack[-1], [(key, value)])

  def _set_items(self, _) -> None:
    values = self._since_mark()
    if len(values) % 2:
      raise ValueError("a pickle has a key without a value")
    self._update(self._stack[-1], zip(values[::2], values[1::2]))

  def _update(self, target, pairs: Iterable) -> None:
    if type(target) is not dict:
      raise ValueError("a pickle sets an entry of what is no dict")
    for key, value in pairs:
      # Only what hashes in constant time, and without collisions that an author can choose.
      if type(key) is not str and not (type(key) is int and abs(key) < 2**63):
        raise ValueError(f"a dict has a key of type {type(key).__name__}, expected text or integer")
      target[key] = value

  def _get(self, index) -> None:
    self._push(self._memo[index])

  def _put(self, index) -> None:
    self._memo[index] = self._stack[-1]

  def _memoize(self, _) -> None:
    self._memo[len(self._memo)] = self._stack[-1]

  def _global(self, pair) -> None:
    self._push(_find(*pair.split(" ", 1)))

  def _stack_global(self, _) -> None:
    name, module = self._stack.pop(), self._stack.pop()
    self._push(_find(module, name))

  def _reduce(self, _) -> None:
    arguments, known = self._stack.pop(), self._stack.pop()
    if type(arguments) is not tuple or type(known) is not _Known:
      raise ValueError("a pickle calls what is no function")
    if known is _ORDERED_DICT:
      self._push(self._ordered_dict(arguments))
    elif known.call is not None:
      self._push(known.call(arguments))
    else:
      raise ValueError(f"a pickle calls {known.name}, which is no function")

  def _ordered_dict(self, arguments: tuple) -> dict:
    """From nothing, or from a list of pairs as Python 2 wrote it."""
    (pairs,) = arguments or ([],)
    if type(pairs) is not list or any(type(p) not in (list, tuple) or len(p) != 2 for p in pairs):
      raise ValueError("an OrderedDict is made of what is no list of pairs")
    self._spend(len(pairs))
    result = {}
    self._update(result, pairs)
    return result

  def _build(self, _) -> None:
    """Attributes of a dict, such as the `_metadata` of a state dict, are dropped."""
    self._stack.pop()
    if type(self._stack[-1]) is not dict:
      raise ValueError("a pickle sets attributes of what is no dict")

  def _persistent(self, _) -> None:
    """A storage: ("storage", its type, key, device, elements[, (key, first, length) of a part])."""
    identity = self._stack.pop()
    if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
      what = identity[0] if type(identity) is tuple and identity else None
      module = type(what) is str and what == "module"
      raise CheckpointError(
        f"refers to {'a module with its code' if module else 'what is no storage'}, expected "
        f"tensors alone; nothing of it was run; {_SAVE_ANEW}"
      )
    _, known, key, _, count, part = (*identity, None)[:6]
    if type(known) is not _Known or known.dtype is None or type(key) is not str:
      raise ValueError("a storage has no type or no key")
    _, start, length = (None, 0, count) if part is None else part
    if not all(type(n) is int and 0 <= n < 2**63 for n in (count, start, length)):
      raise ValueError("a storage has no size")
    if start + length > count:
      raise ValueError("a part reaches beyond the end of its storage")
    storage = _Storage(key, known.dtype, count, start, length)
    self.storages.setdefault(key, storage)
    self._push(storage)

  _steps = {
    opcode.code.encode("latin-1"): (opcode, step)
    for names, step in (
      ("PROTO FRAME", _pass),
      ("BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING", _push),
      ("BINBYTES SHORT_BINBYTES BINBYTES8", _push),
      ("BININT BININT1 BININT2 LONG1 LONG4", _integer),
      ("NONE", lambda self, _: self._push(None)),
      ("NEWTRUE", lambda self, _: self._push(True)),
      ("NEWFALSE", lambda self, _: self._push(False)),
      ("EMPTY_TUPLE", lambda self, _: self._push(())),
      ("EMPTY_LIST", lambda self, _: self._push([])),
      ("EMPTY_DICT", lambda self, _: self._push({})),
      ("MARK", _mark),
      ("TUPLE", _tuple),
      ("TUPLE1", lambda self, _: self._tuple_of(1)),
      ("TUPLE2", lambda self, _: self._tuple_of(2)),
      ("TUPLE3", lambda self, _: self._tuple_of(3)),
      ("APPEND", _append),
      ("APPENDS", _appends),
      ("SETITEM", _set_item),
      ("SETITEMS", _set_items),
      ("BINGET LONG_BINGET", _get),
      ("BINPUT LONG_BINPUT", _put),
      ("MEMOIZE", _memoize),
      ("GLOBAL", _global),
      ("STACK_GLOBAL", _stack_global),
      ("REDUCE", _reduce),
      ("BUILD", _build),
      ("BINPERSID", _persistent),
    )
    for opcode in pickletools.opcodes
    if opcode.name in names.split()
  }


def _arrays(content: object, elements: Callable[[str], bytes], order: str) -> dict[str, np.ndarray]:
  """Returns the tensors of an unpickled checkpoint.

  Args:
    content: what was pickled.
    elements: key of a storage -> its bytes in the file, or a KeyError.
    order: of them, "<" or ">".
  """
  state = content
  if type(content) is dict:
    state = next((content[k] for k in _WRAPPERS if type(content.get(k)) is dict), content)
  tensors = {}
  if type(state) is dict:
    tensors = {name: value for name, value in state.items() if type(value) is _Tensor}
  if not tensors:
    what = f"a {type(state).__name__}" if type(state) is not _Tensor else "one tensor without name"
    if type(state) is dict:
      what = f"a dict of {', '.join(_shown(key) for key in list(state)[:5]) or 'nothing'}"
    raise CheckpointError(
      f"holds {what} and no tensors by name; expected a state dict, or one under "
      f"{', '.join(_WRAPPERS[:-1])} or {_WRAPPERS[-1]}; {_SAVE_ANEW}"
    )
  if any(type(name) is not str for name in tensors):
    raise ValueError("a tensor has an integer for its name")
  flats = {}
  for tensor in tensors.values():
    storage = tensor.storage
    if storage[:3] not in flats:
      try:
        data = elements(storage.key)
      except KeyError as error:
        raise ValueError(f"storage {_shown(storage.key)} is not in it") from error
      if len(data) != storage.count * _item_bytes(storage.dtype):
        raise ValueError(
          f"storage {_shown(storage.key)} has {len(data)} bytes, expected {storage.count} elements "
          f"of {_item_bytes(storage.dtype)}"
        )
      flats[storage[:3]] = _numbers(data, storage.dtype, order)
  return {name: _view(tensor, flats[tensor.storage[:3]]) for name, tensor in tensors.items()}


def _view(tensor: _Tensor, flat: np.ndarray) -> np.ndarray:
  """Returns the view of a storage that a tensor is; NumPy checks its bounds once more."""
  if 0 in tensor.shape:
    return np.zeros(tensor.shape, flat.dtype)
  first = (tensor.storage.start + tensor.offset) * flat.itemsize
  strides = [stride * flat.itemsize for stride in tensor.strides]
  # A stride over a single element is never taken, and may be any number.
  strides = [stride if n > 1 else 0 for n, stride in zip(tensor.shape, strides)]
  return np.ndarray(tensor.shape, flat.dtype, flat, first, strides)


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


# --- The four formats


def _read_zip(data: bytes) -> dict[str, np.ndarray]:
  """The zip of torch.save or of numpy.savez."""
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    entries = {info.filename: info for info in archive.infolist()}
    if any(re.search(r"/(constants\.pkl$|code/)", name) for name in entries):
      raise CheckpointError(
        f"is a TorchScript archive, a program; expected its weights alone; {_SAVE_ANEW}"
      )
    _check_entries(archive.infolist(), len(data))
    if entries and all(name.endswith(".npy") for name in entries):
      return {name[: -len(".npy")]: _npy(archive.read(info)) for name, info in entries.items()}
    roots = [n[: -len("data.pkl")] for n in entries if re.fullmatch(r"[^/]+/data\.pkl", n)]
    if len(roots) != 1:
      raise CheckpointError(
        f"is a zip of {', '.join(_shown(n) for n in list(entries)[:3]) or 'nothing'}; expected one "
        f"of torch.save or numpy.savez; {_SAVE_ANEW}"
      )
    (root,) = roots
    order = archive.read(f"{root}byteorder") if f"{root}byteorder" in entries else b"little"
    if order not in (b"little", b"big"):
      raise ValueError(f"byteorder is {_shown(order)}, expected little or big")
    machine = _Machine()
    content = machine.run(io.BytesIO(archive.read(f"{root}data.pkl")))
    return _arrays(
      content,
      lambda key: archive.read(f"{root}data/{key}"),
      "<" if order == b"little" else ">",
    )


def _check_entries(infos: list[zipfile.ZipInfo], size: int) -> None:
  """Refuses entries that are compressed, come twice, or hold more together than the file."""
  for info in infos:
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
      raise CheckpointError(
        f"has the compressed entry {_shown(info.filename)}; expected stored ones, as torch.save "
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
      f"has an array with the header {_shown(data[begin:end])}; expected numbers, no objects or "
      "records; save each tensor as a plain array"
    )
  order, dtype, transposed, sizes = (group.decode() for group in header.groups())
  shape = tuple(int(n) for n in sizes.split(",") if n.strip())
  if len(shape) > _MAX_RANK or math.prod(shape) * _item_bytes(dtype) != len(data) - end:
    raise ValueError(f"an array of shape {_product(shape)} has {len(data) - end} bytes")
  numbers = _numbers(memoryview(data)[end:], dtype, ">" if order == ">" else "<")
  return numbers.reshape(shape, order="F" if transposed == "True" else "C")


def _read_legacy(data: bytes) -> dict[str, np.ndarray]:
  """Magic, protocol, system, content and keys, each a pickle; for each key count and elements."""
  stream, machine = io.BytesIO(data), _Machine()
  magic = machine.run(stream)
  if type(magic) is not int or magic != _MAGIC:
    raise CheckpointError(
      f"is a pickle, but not of torch.save; expected a checkpoint of torch.save; {_SAVE_ANEW}"
    )
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
      raise ValueError(f"storage {_shown(key)} belongs to no tensor")
    (count,) = struct.unpack_from("<q", data, position)
    size = count * _item_bytes(machine.storages[key].dtype)
    if not 0 <= size <= len(data) - position - 8:
      raise ValueError(f"storage {_shown(key)} of {size} bytes reaches beyond the end of the file")
    elements[key] = memoryview(data)[position + 8 : position + 8 + size]
    position += 8 + size
  return _arrays(content, elements.__getitem__, "<")


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
        f"tensor {_shown(name)} has dtype {_shown(code)}; expected one of "
        f"{', '.join(_SAFETENSORS)}; convert it to one of them"
      )
    if type(shape) is not list or len(shape) > _MAX_RANK:
      raise ValueError(f"tensor {_shown(name)} has no shape")
    if not all(type(n) is int and 0 <= n < 2**63 for n in (begin, end, *shape)):
      raise ValueError(f"tensor {_shown(name)} has a shape or offsets that are no sizes")
    dtype = _SAFETENSORS[code]
    if not begin <= end <= len(data) or end - begin != math.prod(shape) * _item_bytes(dtype):
      raise ValueError(
        f"tensor {_shown(name)} of shape {_product(shape)} has the bytes {begin} to {end} of "
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


# --- Words of errors


def _product(shape: Iterable[int]) -> str:
  return " x ".join(str(n) for n in shape) or "1"


def _shown(value: object) -> str:
  """Returns a name of a file's as printable text of bounded length."""
  if type(value) not in (str, bytes, int):
    return f"a {type(value).__name__}"
  text = repr(value if type(value) is int else value[:200])
  return text if len(text) <= 120 else f"{text[:116]}...{text[-1]}"


def _one_line(text: str) -> str:
  return " ".join(text.splitlines())
