"""The zarr v3 data type `bfloat16` of zarr-extensions, as numpy's `ml_dtypes.bfloat16`.

Importing this module registers the type with zarr-python. The entry point `zarr.data_type` is meant for that:
zarr-python 3.4 loads it, 3.1 never does; the group `zarr.buffer` both load, when they open a group. So
`xarray.open_zarr` and `zarr.open_group` read such an array in a process that never imports this package;
`zarr.open_array` of the array's own path needs this import first, with zarr 3.1.

This file stands alone: it imports numpy, ml_dtypes and zarr, nothing of this package, and may be taken into another;
`docs/bfloat16.md` says how. `tests/test_bfloat16.py` is all of its tests, and needs no more than tensorstore besides.

Data type: https://github.com/zarr-developers/zarr-extensions/tree/main/data-types/bfloat16
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import ml_dtypes
import numpy as np
from zarr.buffer.cpu import Buffer
from zarr.core.dtype.common import HasEndianness, HasItemSize  # codecs ask for these, which no public module has
from zarr.dtype import ZDType, data_type_registry

try:  # zarr 3.4 has it there, and warns of the former place
    from zarr.errors import DataTypeValidationError  # type: ignore[attr-defined, unused-ignore]
except ImportError:
    from zarr.dtype import DataTypeValidationError

if TYPE_CHECKING:
    from zarr.core.common import JSON, ZarrFormat

__all__ = ["BFloat16", "Buffer"]

_DTYPE = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True, kw_only=True)
class BFloat16(ZDType[Any, Any], HasEndianness, HasItemSize):
    """zarr's description of `bfloat16`: 1 sign, 8 exponent and 7 fraction bits; stored little-endian, zarr v3 only."""

    dtype_cls = type(_DTYPE)
    _zarr_v3_name: ClassVar[Literal["bfloat16"]] = "bfloat16"

    @classmethod
    def from_native_dtype(cls, dtype: Any) -> Self:
        """Wrap `ml_dtypes.bfloat16`; any other dtype raises DataTypeValidationError."""
        if dtype != _DTYPE:
            raise DataTypeValidationError(f"expected bfloat16, got {dtype}")
        return cls()

    def to_native_dtype(self) -> Any:
        """Return numpy's dtype; ValueError for big-endian bytes, which ml_dtypes cannot describe."""
        if self.endianness == "big":
            raise ValueError("bfloat16 stored big-endian is not supported: write it with bytes(endian=little)")
        return _DTYPE

    @classmethod
    def _from_json_v2(cls, data: Any) -> Self:  # noqa: ARG003
        raise DataTypeValidationError("zarr v2 has no bfloat16")

    @classmethod
    def _from_json_v3(cls, data: Any) -> Self:
        if data != cls._zarr_v3_name:
            raise DataTypeValidationError(f"expected {cls._zarr_v3_name!r}, got {data!r}")
        return cls()

    def to_json(self, zarr_format: ZarrFormat) -> Any:
        """Return the name in zarr v3 metadata; ValueError for zarr v2, which has no bfloat16."""
        if zarr_format != 3:
            raise ValueError("zarr v2 has no bfloat16")
        return self._zarr_v3_name

    def _check_scalar(self, data: object) -> bool:
        return isinstance(data, int | float | np.integer | np.floating | ml_dtypes.bfloat16)

    def cast_scalar(self, data: object) -> Any:
        """Return a number as bfloat16; TypeError for anything else."""
        if not self._check_scalar(data):
            raise TypeError(f"{data!r} is not a bfloat16 scalar")
        return _DTYPE.type(data)

    def default_scalar(self) -> Any:
        """Return zero."""
        return _DTYPE.type(0)

    def from_json_scalar(self, data: JSON, *, zarr_format: ZarrFormat) -> Any:  # noqa: ARG002
        """Read a fill value: a number, `NaN`, `Infinity`, `-Infinity`, or the bits in hexadecimal (`0x7fc0`)."""
        if isinstance(data, str) and data.startswith("0x"):
            return np.array(int(data, 16), dtype=np.uint16).view(_DTYPE)[()]
        if isinstance(data, str) and data not in ("NaN", "Infinity", "-Infinity"):
            raise TypeError(f"{data!r} is not a bfloat16 fill value")
        return self.cast_scalar(float(data) if isinstance(data, str) else data)

    def to_json_scalar(self, data: object, *, zarr_format: ZarrFormat) -> JSON:  # noqa: ARG002
        """Write a fill value: a number where it is finite, else its bits in hexadecimal."""
        value = self.cast_scalar(data)
        (bits,) = struct.unpack("=H", value.tobytes())
        return f"0x{bits:04x}" if bits & 0x7F80 == 0x7F80 else float(value)

    @property
    def item_size(self) -> int:
        """Bytes of one value: 2."""
        return 2


data_type_registry.register(BFloat16._zarr_v3_name, BFloat16)
