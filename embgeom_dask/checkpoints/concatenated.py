"""A matrix of several tensors, one below the other: some checkpoints store the rows of added tokens apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from embgeom_dask.checkpoints.decisions import JOIN, Choice
from embgeom_dask.checkpoints.safetensors import Listing, Tensor
from embgeom_dask.errors import InputError
from embgeom_dask.storage.fill import RowSource


@dataclass(frozen=True)
class Concatenated:
    """Tensors of one width and dtype, read as one matrix: a `storage.fill.RowSource`."""

    parts: tuple[Tensor, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows of all parts together, and columns."""
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of every part."""
        return self.parts[0].dtype

    @property
    def tensor(self) -> str:
        """The names of the parts, in order."""
        return JOIN.join(part.tensor for part in self.parts)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows start..stop-1: (stop - start, columns), of dtype `dtype`."""
        blocks, first = [], 0
        for part in self.parts:
            low, high = max(start, first), min(stop, first + part.shape[0])
            if low < high:
                blocks.append(part.read(low - first, high - first))
            first += part.shape[0]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def matrix(listing: Listing, choice: Choice) -> RowSource:
    """Return the chosen matrix. Raises InputError as `Listing.matrix`, and if parts differ in width or dtype."""
    parts = tuple(listing.matrix(name) for name in choice.tensors)
    if len({(part.shape[1], part.dtype) for part in parts}) > 1:
        raise InputError(f"{choice.key} of {listing.name} differ in width or dtype: they are not one matrix")
    return parts[0] if len(parts) == 1 else Concatenated(parts)
