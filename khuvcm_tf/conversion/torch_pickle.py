"""The pickles in files of torch.save, without running what they ask for.

A pickle is a program, and Python's own unpickler can be brought down by one that calls nothing at
all: a key of a million nested tuples overflows the C stack, a memo index of 2**31 takes 32 GB. So
`Machine` executes the few opcodes that torch.save writes, on plain values only. The names that it
knows stand for functions of this file; no module is looked up.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from khuvcm_tf import errors

_MAX_STEPS = 2**21  # opcodes of all pickles of a file; a tensor of a state dict takes about 40
MAX_RANK = 32  # NumPy's
SAVE_ANEW = "save the model's state_dict() alone, by torch.save or as safetensors"

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
_DTYPES = (
  "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool "
  "float double half long int short"
).split()


class CheckpointError(errors.Error):
  """A file that cannot be read as a checkpoint, or that asks for more than its tensors."""


class Storage(NamedTuple):
  """Where the elements of tensors lie; a part of one in files of the first versions."""

  key: str
  dtype: str
  count: int  # elements in the file
  start: int  # the first element of the part
  length: int  # elements of the part


class Tensor(NamedTuple):
  storage: Storage
  offset: int  # elements, as strides
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class _Known(NamedTuple):
  """What a name that a pickle asks for stands for: a dtype of storages, a function, or neither."""

  name: str
  dtype: str | None = None
  call: Callable[[tuple], object] | None = None


def _rebuild_tensor(arguments: tuple) -> Tensor:
  """The first four arguments say all; the rest is of gradients and hooks."""
  storage, offset, shape, strides, *_ = arguments
  if type(storage) is not Storage:
    raise ValueError("a tensor has no storage")
  if not (type(shape) is type(strides) is tuple and len(shape) == len(strides) <= MAX_RANK):
    raise ValueError("the shape or the strides of a tensor are none")
  if not all(type(n) is int and 0 <= n < 2**63 for n in (offset, *shape, *strides)):
    raise ValueError("the offset, the shape or the strides of a tensor are none")
  if math.prod(shape) > storage.length:
    raise CheckpointError(
      f"a tensor of {product(shape)} elements lies in a storage of {storage.length}; expected no "
      "more than it has; save its .clone() where it was made by expand()"
    )
  last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides))
  if math.prod(shape) and last >= storage.length:
    raise ValueError(f"a tensor of shape {product(shape)} reaches beyond the end of its storage")
  return Tensor(storage, offset, shape, strides)


def _rebuild_parameter(arguments: tuple) -> Tensor:
  if type(arguments[0]) is not Tensor:
    raise ValueError("a parameter has no tensor")
  return arguments[0]


def _size(arguments: tuple) -> tuple:
  (shape,) = arguments
  return tuple(shape) if type(shape) in (tuple, list) and len(shape) <= MAX_RANK else ()


_KNOWN = {
  known.name: known
  for known in (
    _Known("torch._utils._rebuild_tensor", call=_rebuild_tensor),
    _Known("torch._utils._rebuild_tensor_v2", call=_rebuild_tensor),
    _Known("torch._utils._rebuild_parameter", call=_rebuild_parameter),
    _Known("torch.Size", call=_size),
    _Known("collections.OrderedDict"),  # `Machine` calls it: it costs as many steps as entries.
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
    f"asks for {shown(full)[1:-1]}{kind}, expected tensors and plain values alone; nothing of it "
    f"was run; {SAVE_ANEW}"
  )


class Machine:
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
        f"{SAVE_ANEW}"
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
        f"tensors alone; nothing of it was run; {SAVE_ANEW}"
      )
    _, known, key, _, count, part = (*identity, None)[:6]
    if type(known) is not _Known or known.dtype is None or type(key) is not str:
      raise ValueError("a storage has no type or no key")
    _, start, length = (None, 0, count) if part is None else part
    if not all(type(n) is int and 0 <= n < 2**63 for n in (count, start, length)):
      raise ValueError("a storage has no size")
    if start + length > count:
      raise ValueError("a part reaches beyond the end of its storage")
    storage = Storage(key, known.dtype, count, start, length)
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


def product(shape: Iterable[int]) -> str:
  return " x ".join(str(n) for n in shape) or "1"


def shown(value: object) -> str:
  """Returns a name of a file's as printable text of bounded length."""
  if type(value) not in (str, bytes, int):
    return f"a {type(value).__name__}"
  text = repr(value if type(value) is int else value[:200])
  return text if len(text) <= 120 else f"{text[:116]}...{text[-1]}"
