"""Pickles, without running what they ask for.

A pickle is a program, and Python's own unpickler can be brought down by one that calls nothing at
all: a key of a million nested tuples overflows the C stack, a memo index of 2**31 takes 32 GB. So
`Machine` executes the few opcodes that checkpoints are written with, on plain values only. The
names that it knows stand for functions of this package; no module is looked up.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterable
from typing import NamedTuple

from khuvcm_tf import errors

_MAX_STEPS = 2**21  # opcodes of all pickles of a file; a tensor of a state dict takes about 40
MAX_RANK = 32  # NumPy's
SAVE_ANEW = "save the model's state_dict() alone, by torch.save or as safetensors"


class CheckpointError(errors.Error):
  """A file that cannot be read as a checkpoint, or that asks for more than its tensors."""


class Known(NamedTuple):
  """What a name that a pickle asks for stands for: a function, or nothing that can be called."""

  name: str
  call: Callable[[tuple], object] | None = None


class Built:
  """A value that a pickle makes first and completes by BUILD."""

  def build(self, state: object) -> None:
    """Completes the value; raises ValueError or CheckpointError where `state` is none for it."""
    raise NotImplementedError


def _bytes_as_text(arguments: tuple) -> str:
  """Bytes in protocol 2, where Python 3 has none: they stay the text that Latin-1 encodes to them.

  What Python 2 wrote as its string is such a text, too.
  """
  text, encoding = arguments
  if type(text) is not str or encoding != "latin1":
    raise ValueError("bytes are made of what is no text in Latin-1")
  return text


def _no_bytes(arguments: tuple) -> bytes:
  if arguments:
    raise ValueError("no bytes are made of something")
  return b""


_ORDERED_DICT = Known("collections.OrderedDict")  # `Machine` calls it: it costs a step per entry.


def by_name(*known: Known) -> dict[str, Known]:
  return {each.name: each for each in known}


PLAIN = by_name(
  _ORDERED_DICT,
  Known("_codecs.encode", _bytes_as_text),
  Known("__builtin__.bytes", _no_bytes),
)


class Machine:
  """Executes pickles, as far as checkpoints are made of them, on plain values only.

  A subclass says which further names stand for which functions and values.
  """

  known = PLAIN

  def __init__(self):
    self._left = _MAX_STEPS

  def refer(self, identity: object) -> object:
    """Returns what a persistent identity stands for, or raises ValueError or CheckpointError."""
    raise ValueError("a pickle refers to what is not in it")

  def about(self, name: str) -> str:
    """Returns what is said of a name that is not known, beside that it is not."""
    return ""

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
        raise ValueError(f"a pickle has the opcode {code!r}, which checkpoints do not have")
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
    self._push(self._find(*pair.split(" ", 1)))

  def _stack_global(self, _) -> None:
    name, module = self._stack.pop(), self._stack.pop()
    self._push(self._find(module, name))

  def _find(self, module: str, name: str) -> Known:
    """Returns what a name stands for here, or refuses it; nothing is imported."""
    if type(module) is not str or type(name) is not str:
      raise ValueError("a pickle asks for a name that is no text")
    full = f"{module}.{name}"
    if full not in self.known:
      raise CheckpointError(
        f"asks for {shown(full)[1:-1]}{self.about(full)}, expected tensors and plain values alone; "
        f"nothing of it was run; {SAVE_ANEW}"
      )
    return self.known[full]

  def _reduce(self, _) -> None:
    arguments, known = self._stack.pop(), self._stack.pop()
    if type(arguments) is not tuple or type(known) is not Known:
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
    state, target = self._stack.pop(), self._stack[-1]
    if isinstance(target, Built):
      target.build(state)
    elif type(target) is not dict:
      raise ValueError("a pickle sets attributes of what is no dict")

  def _persistent(self, _) -> None:
    self._push(self.refer(self._stack.pop()))

  _steps = {
    opcode.code.encode("latin-1"): (opcode, step)
    for names, step in (
      ("PROTO FRAME", _pass),
      ("BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING", _push),
      ("BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8", _push),
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
