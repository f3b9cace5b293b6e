"""Tensors in the pickles of torch.save.

A tensor is a part of a storage, whose elements lie outside the pickle. A pickle names a storage by
a persistent identity.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from khuvcm_tf.conversion import numpy_pickle, pickle_machine
from khuvcm_tf.conversion.pickle_machine import (
  MAX_RANK,
  SAVE_ANEW,
  CheckpointError,
  Known,
  product,
)

# Dtypes go by NumPy's codes; "bf16", which NumPy has not, becomes float32.
_STORAGES = {
  "torch.FloatStorage": "f4",
  "torch.DoubleStorage": "f8",
  "torch.HalfStorage": "f2",
  "torch.BFloat16Storage": "bf16",
  "torch.LongStorage": "i8",
  "torch.IntStorage": "i4",
  "torch.ShortStorage": "i2",
  "torch.CharStorage": "i1",
  "torch.ByteStorage": "u1",
  "torch.BoolStorage": "b1",
}
_DTYPES = [
  f"torch.{name}"
  for name in (
    "float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 bool "
    "float double half long int short"
  ).split()
]


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


_KNOWN = pickle_machine.by_name(
  Known("torch._utils._rebuild_tensor", _rebuild_tensor),
  Known("torch._utils._rebuild_tensor_v2", _rebuild_tensor),
  Known("torch._utils._rebuild_parameter", _rebuild_parameter),
  Known("torch.Size", _size),
  *map(Known, _STORAGES),
  *map(Known, _DTYPES),
)


class Machine(pickle_machine.Machine):
  """Executes pickles that hold tensors of PyTorch and arrays of NumPy.

  Attributes:
    storages: key -> storage, all that the pickles named.
  """

  known = {**pickle_machine.PLAIN, **numpy_pickle.KNOWN, **_KNOWN}

  def __init__(self):
    super().__init__()
    self.storages = {}

  def refer(self, identity: object) -> Storage:
    """A storage: ("storage", its type, key, device, elements[, (key, first, length) of a part])."""
    if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
      what = identity[0] if type(identity) is tuple and identity else None
      module = type(what) is str and what == "module"
      raise CheckpointError(
        f"refers to {'a module with its code' if module else 'what is no storage'}, expected "
        f"tensors alone; nothing of it was run; {SAVE_ANEW}"
      )
    _, known, key, _, count, part = (*identity, None)[:6]
    dtype = _STORAGES.get(known.name) if type(known) is Known else None
    if dtype is None or type(key) is not str:
      raise ValueError("a storage has no type or no key")
    _, start, length = (None, 0, count) if part is None else part
    if not all(type(n) is int and 0 <= n < 2**63 for n in (count, start, length)):
      raise ValueError("a storage has no size")
    if start + length > count:
      raise ValueError("a part reaches beyond the end of its storage")
    storage = Storage(key, dtype, count, start, length)
    self.storages.setdefault(key, storage)
    return storage

  def about(self, name: str) -> str:
    odd = name.startswith("torch.") and re.search(
      r"sparse|quant|qtensor|Q\w*Int\w+Storage|Complex", name
    )
    if not odd:
      return ""
    kind = {"sparse": "sparse", "Complex": "complex"}.get(odd[0], "quantized")
    return f" ({kind} tensors are not read)"
