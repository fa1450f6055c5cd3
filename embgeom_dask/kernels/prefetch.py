"""Software prefetch: candidate pairs are random access, which hardware cannot predict."""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_LINE = 64
"""Bytes of a cache line."""


@intrinsic
def _fetch(typing_context: Any, address: Any) -> Any:  # noqa: ARG001
    """Prefetch the cache line at an address, for reading, into the second level of the cache."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        read, near, data = (ir.Constant(number, value) for value in (0, 2, 1))
        builder.call(prefetch, [builder.inttoptr(arguments[0], byte), read, near, data])
        return context.get_dummy_value()

    return types.void(types.intp), build


@numba.njit(nogil=True, inline="always")
def fetch_next(x: Any, y: Any, i: Any, j: Any, p: int) -> None:  # pragma: no cover (compiled)
    """Prefetch the rows x[i] and y[j] of the pair after pair `p`."""
    if p + 1 == i.size:
        return
    _fetch_row(y, j[p + 1])
    if i[p + 1] != i[p]:
        _fetch_row(x, i[p + 1])


@numba.njit(nogil=True, inline="always")
def _fetch_row(rows: Any, row: int) -> None:  # pragma: no cover (compiled)
    start = rows.ctypes.data + row * rows.strides[0]
    for at in range(0, rows.shape[1] * rows.itemsize, _LINE):
        _fetch(start + at)  # type: ignore[call-arg]
