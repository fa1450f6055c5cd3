"""Read bfloat16 in numba, which has no such type: arrays hold the bits as uint16, `value` widens them to float32."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.extending import intrinsic, overload
from numpy.typing import NDArray


def as_numba(array: NDArray[Any] | torch.Tensor) -> NDArray[Any]:
    """Return an array that numba can read: bfloat16 as its bits (uint16), float16 as float32, others as they are."""
    if isinstance(array, torch.Tensor):
        array = array.view(torch.uint16).numpy() if array.dtype == torch.bfloat16 else array.numpy()
    if array.dtype.name == "bfloat16":
        return array.view(np.uint16)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def as_float(array: NDArray[Any]) -> NDArray[Any]:
    """Return the float64 numbers that an array of `as_numba` stands for."""
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


def as_size(bits: NDArray[Any]) -> NDArray[Any]:
    """Return the float64 numbers whose `size_bits` these are."""
    with np.errstate(invalid="ignore"):  # of a NaN that signals
        return as_float(bits if bits.dtype == np.uint16 else bits.view(f"f{bits.dtype.itemsize}"))


def size_range(array: NDArray[Any]) -> tuple[Any, Any]:
    """Return the least and the largest number of the type that the `size_bits` of an array of `as_numba` have."""
    kind = np.dtype(f"u{array.dtype.itemsize}")
    return kind.type(0), kind.type(np.iinfo(kind).max)


def significand_bits(array: NDArray[Any]) -> int:
    """Return how many bits the significands have of the numbers that an array of `as_numba` stands for."""
    return 8 if array.dtype == np.uint16 else np.finfo(array.dtype).nmant + 1


def value(element: Any) -> Any:
    """Return the number that an element of `as_numba` stands for (int32: rounded to float32); only within numba."""
    raise TypeError(f"{element!r} is read outside numba")


@intrinsic
def _widen(typing_context: Any, bits: Any) -> Any:  # noqa: ARG001
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        wide = builder.zext(arguments[0], ir.IntType(32))
        return builder.bitcast(builder.shl(wide, ir.Constant(ir.IntType(32), 16)), ir.FloatType())

    return numba.float32(numba.uint16), build


def size_bits(element: Any) -> Any:
    """Return the bits of the size of an element of `as_numba`, an unsigned integer of its length; only within numba.

    They are in order as the sizes are: 0 first, infinity after all numbers, NaN last.
    """
    raise TypeError(f"{element!r} is read outside numba")


@intrinsic
def _size_bits(typing_context: Any, element: Any) -> Any:  # noqa: ARG001
    width = element.bitwidth

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        kind = ir.IntType(width)
        return builder.and_(builder.bitcast(arguments[0], kind), ir.Constant(kind, (1 << (width - 1)) - 1))

    return numba.from_dtype(np.dtype(f"u{width // 8}"))(element), build


@overload(size_bits)
def _size_bits_of(element: Any) -> Any:  # noqa: ARG001
    def read(element: Any) -> Any:
        return _size_bits(element)  # type: ignore[call-arg]

    return read


def bits_of(number: Any) -> Any:
    """Return the bits of a float64, as an int64; only within numba."""
    raise TypeError(f"the bits of {number!r} are read outside numba")


@intrinsic
def _bits(typing_context: Any, number: Any) -> Any:  # noqa: ARG001

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        return builder.bitcast(arguments[0], ir.IntType(64))

    return numba.int64(numba.float64), build


@overload(bits_of)
def _bits_of(number: Any) -> Any:  # noqa: ARG001
    def read(number: Any) -> Any:  # numba wants the signature of what it is typed by, with its annotations
        return _bits(number)  # type: ignore[call-arg]

    return read


@overload(value)
def _value(element: Any) -> Any:
    def widened(element: Any) -> Any:
        return _widen(element)  # type: ignore[call-arg]

    def rounded(element: Any) -> Any:
        return np.float32(element)

    def same(element: Any) -> Any:
        return element

    return {numba.uint16: widened, numba.int32: rounded}.get(element, same)
