"""Dataclasses of arrays: the names and the types of their fields are their schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class NamedArrays:
    """A dataclass whose fields are arrays, annotated with their type: `NDArray[np.int64]`.

    Examples
    --------
    >>> @dataclass(frozen=True, eq=False)
    ... class Counts(NamedArrays):
    ...     count: NDArray[np.int64]
    >>> Counts.dtypes()
    {'count': dtype('int64')}
    >>> Counts(np.arange(3)).nbytes
    24
    """

    @classmethod
    @cache
    def dtypes(cls) -> dict[str, np.dtype[Any]]:
        """Return the schema: the dtype of each array, by its name, in order of the fields."""
        return {name: _dtype(annotation) for name, annotation in get_type_hints(cls).items()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name."""
        return {name: getattr(self, name) for name in self.dtypes()}

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays().values())


@dataclass(frozen=True, eq=False)
class Table(NamedArrays):
    """Arrays of one length: place p of each of them is about the same thing.

    Examples
    --------
    >>> @dataclass(frozen=True, eq=False)
    ... class Named(Table):
    ...     name: NDArray[np.int64]
    ...     length: NDArray[np.float64]
    >>> table = Named.concat([Named.empty(), Named(np.array([3, 1]), np.array([0.5, 2.0]))])
    >>> table.size, table.take(np.argsort(table.name))
    (2, Named(name=array([1, 3]), length=array([2. , 0.5])))
    """

    @classmethod
    def empty(cls) -> Self:
        """Return a table of length 0 whose arrays have one dimension."""
        return cls(*(np.empty(0, dtype) for dtype in cls.dtypes().values()))

    @classmethod
    def concat(cls, tables: Sequence[Self]) -> Self:
        """Append tables, one at least, to each other."""
        return cls(*(np.concatenate([getattr(table, name) for table in tables]) for name in cls.dtypes()))

    @property
    def size(self) -> int:
        """The length."""
        return len(next(iter(self.arrays().values())))

    def take(self, index: NDArray[Any] | slice) -> Self:
        """Select places by index, mask or slice; of a slice the arrays are views."""
        return type(self)(*(array[index] for array in self.arrays().values()))


def _dtype(annotation: Any) -> np.dtype[Any]:
    """The dtype that `NDArray[...]` names: the last argument of the last argument, however numpy spells it."""
    while arguments := get_args(annotation):
        annotation = arguments[-1]
    dtype: np.dtype[Any] = np.dtype(annotation)
    return dtype
