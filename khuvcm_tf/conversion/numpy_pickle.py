"""Arrays of NumPy in pickles, as detectron2's model zoo has them.

An array is its dtype, its shape and its bytes. Protocol 5 hands all of them to a function; older
protocols make an empty array and set them by BUILD, as they set a dtype's byte order. In protocol 2
text stands for bytes.

Reference: `array_reduce`, `array_setstate`, `array_reduce_ex_picklebuffer` in NumPy's
`multiarray/methods.c`; `arraydescr_reduce` in `multiarray/descriptor.c`.
"""

from __future__ import annotations

import math

from khuvcm_tf.conversion.pickle_machine import (
  MAX_RANK,
  Built,
  CheckpointError,
  Known,
  by_name,
  product,
  shown,
)

_DTYPES = "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 b1".split()


class Dtype(Built):
  """A dtype of numbers or truth values.

  Attributes:
    code: NumPy's, such as "f4".
    order: "<" or ">", None before BUILD.
  """

  def __init__(self, code: str):
    self.code = code
    self.order = None

  def build(self, state: object) -> None:
    """Takes (version, byte order, three of records, three of layout[, metadata])."""
    if self.order is not None or type(state) is not tuple or len(state) not in (8, 9):
      raise ValueError("the state of a dtype is none")
    order = "<" if state[1] == "|" and self.code[1:] == "1" else state[1]
    if order not in ("<", ">") or any(each is not None for each in state[2:5]):
      raise ValueError("the state of a dtype is none of numbers")
    self.order = order


class Array(Built):
  """An array; without contents before BUILD.

  Attributes:
    dtype: NumPy's code, such as "f4".
    order: of its bytes, "<" or ">".
    data: its bytes, or the text that Latin-1 encodes to them.
    stored_shape: in which the elements lie in `data`, the last axis the fastest.
    axes: those of `stored_shape`, in the order in which they are the array's.
  """

  def __init__(self):
    self.data = None

  def fill(self, dtype: object, stored_shape: object, axes: object, data: object) -> Array:
    """Checks and sets the attributes."""
    if self.data is not None or type(dtype) is not Dtype or dtype.order is None:
      raise ValueError("an array has contents twice, or no dtype")
    if type(data) not in (bytes, bytearray, str):
      raise ValueError("an array has no bytes")
    if not type(stored_shape) is type(axes) is tuple or len(stored_shape) > MAX_RANK:
      raise ValueError("the shape of an array is none")
    if not all(type(n) is int and 0 <= n < 2**63 for n in (*stored_shape, *axes)):
      raise ValueError("the shape of an array is none")
    if sorted(axes) != list(range(len(stored_shape))):
      raise ValueError("the axes of an array are not those of its shape")
    if math.prod(stored_shape) * int(dtype.code[1:]) != len(data):
      raise ValueError(
        f"an array of shape {product(stored_shape)} and dtype {dtype.code} has {len(data)} bytes"
      )
    self.dtype, self.order, self.data = dtype.code, dtype.order, data
    self.stored_shape, self.axes = stored_shape, axes
    return self

  def build(self, state: object) -> None:
    """Takes (version, shape, dtype, whether the first axis is the fastest, bytes)."""
    if type(state) is not tuple or len(state) != 5 or type(state[3]) not in (bool, int):
      raise ValueError("the state of an array is none")
    _, shape, dtype, transposed, data = state
    self.fill(dtype, *_stored(shape, "F" if transposed else "C"), data)


def _stored(shape: object, order: object) -> tuple[tuple, tuple]:
  """Returns stored shape and axes of an array whose last ("C") or first ("F") axis is fastest."""
  if type(shape) is not tuple or type(order) is not str or order not in ("C", "F"):
    raise ValueError("the shape or the order of an array is none")
  axes = tuple(range(len(shape)))
  return (shape, axes) if order == "C" else (shape[::-1], axes[::-1])


def _dtype(arguments: tuple) -> Dtype:
  code, *_ = arguments  # The rest is of alignment and copies.
  if type(code) is not str or code not in _DTYPES:
    raise CheckpointError(
      f"has an array of dtype {shown(code)}, expected numbers or truth values, no objects, text or "
      "records; save the weights alone, as plain arrays by name"
    )
  return Dtype(code)


def _reconstruct(arguments: tuple) -> Array:
  """An empty array, of the arguments (class, shape, dtype); BUILD says what they say again."""
  if arguments[0] is not _NDARRAY:
    raise ValueError("an array is of another class than numpy.ndarray")
  return Array()


def _from_buffer(arguments: tuple) -> Array:
  data, dtype, shape, order, *axes = arguments
  if order == "K":  # Since NumPy 2.3, of transposed arrays; `shape` is the one that is stored.
    (axes,) = axes
    return Array().fill(dtype, shape, axes, data)
  return Array().fill(dtype, *_stored(shape, order), data)


def _scalar(arguments: tuple) -> Array:
  dtype, data = arguments
  return Array().fill(dtype, (), (), data)


_NDARRAY = Known("numpy.ndarray")
KNOWN = by_name(
  _NDARRAY,
  Known("numpy.dtype", _dtype),
  *(
    Known(f"numpy.{core}.{name}", call)
    for core in ("core", "_core")  # before and since NumPy 2
    for name, call in (
      ("multiarray._reconstruct", _reconstruct),
      ("multiarray.scalar", _scalar),
      ("numeric._frombuffer", _from_buffer),
    )
  ),
)
