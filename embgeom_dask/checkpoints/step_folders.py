"""A folder with a checkpoint, or a store, for each step of a training: its steps, and the matrix of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from embgeom_dask.checkpoints.bare_files import ENDINGS, list_file
from embgeom_dask.checkpoints.choosing import choose
from embgeom_dask.checkpoints.files import LocalFolder
from embgeom_dask.checkpoints.labelling import label
from embgeom_dask.checkpoints.name_and_tokenizer import STEP, find_name, find_tokenizer
from embgeom_dask.checkpoints.safetensors import Listing
from embgeom_dask.checkpoints.torch_files import list_local
from embgeom_dask.errors import InputError, shorten
from embgeom_dask.storage.fill import RowSource
from embgeom_dask.storage.model_stores import Role

_ENDINGS = (*ENDINGS, ".zarr")
_LATER = re.compile(rf".*?(?:^|[-_@.])({STEP.pattern})")


class Step(NamedTuple):
    """One step of a training: its number, and the checkpoint or store."""

    number: int
    path: Path


class Opened(NamedTuple):
    """The matrix of a checkpoint: its rows, its name in a store, the key of its tensor, and what lies beside that."""

    rows: RowSource
    matrix: str
    key: str
    listing: Listing


def number_of(name: str) -> int | None:
    """The step that a name ends in: 100 of `checkpoint-100`, `step_000100.pt` and `org--run@step100.zarr`.

    Examples
    --------
    >>> number_of("checkpoint-100"), number_of("global_step20.pt"), number_of("model")
    (100, 20, None)
    """
    stem = name
    for ending in _ENDINGS:
        stem = stem.removesuffix(ending)
    found = _LATER.fullmatch(stem)
    return int(found["number"]) if found else None


def ascending(found: Sequence[int | None]) -> np.ndarray:
    """The numbers (n,) int64 of n steps, where each has one and they ascend; else 0, 1, 2, ..."""
    numbers = [each for each in found if each is not None]
    known = len(numbers) == len(found) and all(a < b for a, b in pairwise(numbers))
    return np.array(numbers if known else range(len(found)), np.int64)


def find_steps(folder: Path) -> list[Step]:
    """The steps in a folder by their numbers, ascending.

    They are folders or files that are called `checkpoint-100`, `step_100`, `global_step100` and so on.

    Raises
    ------
    InputError
        where there are none, or two of one number.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read {shorten(folder)}: {error.strerror or error}") from error
    steps = []
    for entry in entries:
        number = number_of(entry.name)
        if number is not None and (entry.is_dir() or entry.suffix in _ENDINGS):
            steps.append(Step(number, entry))
    steps.sort()
    if not steps:
        raise InputError(f"{shorten(folder)} has no steps: give a folder with checkpoint-100, step_200 or the like")
    for one, other in pairwise(steps):
        if one.number == other.number:
            raise InputError(f"{folder} has two of step {one.number}: {one.path.name} and {other.path.name}: keep one")
    return steps


def open_checkpoint(path: Path, role: Role | None, key: str | None = None) -> Opened:
    """Find the matrix of a checkpoint: of `role`, else the output matrix or, without one, the input matrix.

    `key` names its tensor, which saves looking for it.

    Raises
    ------
    InputError
        as `convert`.
    """
    listing = list_file(path) if path.is_file() else list_local(_folder(path))
    keys: dict[str, str | None] = {} if key is None else {role or "output": key}
    decision, matrices, tied = choose(listing, "both" if role is None else role, keys)
    name = f"{role}_embedding" if role and not tied else "output_embedding"
    name = name if name in matrices else "input_embedding"
    chosen = decision.output if name == "output_embedding" else decision.input
    assert chosen is not None
    return Opened(matrices[name], name, chosen.key, listing)


def labels_of(path: Path, found: Opened, tokenizer: Any = None) -> tuple[xr.Dataset | None, tuple[str, ...]]:
    """The labels of the rows of a checkpoint's matrix, None where no row has a token, and what the user should know."""
    named = label(_folder(path), find_tokenizer(path, tokenizer), found.listing, {found.matrix: found.rows})
    return named.own.get(found.matrix, named.shared), named.warnings


def _folder(path: Path) -> LocalFolder:
    return LocalFolder(path, *find_name(path))
