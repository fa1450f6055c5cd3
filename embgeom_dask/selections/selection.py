"""Selections of tokens: ids, ranges and names, id files, and the cluster files and masks that notebooks exchange."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from embgeom_dask.errors import InputError, parse_path
from embgeom_dask.execution.arrays import token_id_of
from embgeom_dask.selections.token_names import find_tokens

Selection = str | os.PathLike[str] | Iterable[int | str] | None
Labels = Callable[[], xr.Dataset]
"""Gives the coordinates `token_id`, `token` and `text` of the tokens that can be selected."""

_FORMS = "use ids, ranges and tokens (0:1000,5000,king), @FILE, FILE.safetensors or FILE.safetensors:KEY"
_GROUPS = "token_to_black_hole"
_IDS, _MASK = "cluster_token_ids", "cluster_mask"
_CLUSTER_KEYS = (_IDS, _MASK, _GROUPS)
_ID = re.compile(r"-?[0-9]{1,19}")
_PARTS = re.compile(r'\s*"[^"]*"\s*(?=,|$)|[^,]+|(?<=,)(?=,|$)|^$')
_LINE = re.compile(r'\s*("[^"]*"|.*?)\s*(?:(?<!\S)#(?:\s.*)?)?', re.DOTALL)
_RANGE = re.compile(r"(-?[0-9]{1,19})?:(-?[0-9]{1,19})?")
_ID_DTYPES = ("I8", "I16", "I32", "I64", "U16", "U32", "U64")
_MASK_DTYPES = ("BOOL", "U8")
_FLOAT_DTYPES = ("BF16", "F16", "F32", "F64")


@dataclass(frozen=True)
class Cluster:
    """Token ids, int64 (n,), sorted and unique, and the centroid, float64 (d,), of a file that has one."""

    token_ids: NDArray[np.int64]
    centroid: NDArray[np.float64] | None = None


def parse_tokens(selection: Selection, vocab_size: int, labels: Labels | None = None) -> NDArray[np.int64]:
    """Return the token ids of `selection`, int64 (n,), sorted and unique; None selects all `vocab_size` of them.

    `selection` is one of

    - ids, half-open ranges like Python's slices, and tokens, separated by commas: ``0:1000,5000``, ``:100``,
      ``30000:``, ``king,queen``. A token is named by its piece or its text, with or without the mark of a leading space
      (``king`` is ``king``, ``▁king`` or ``Ġking``); in quotes (``"7"``, ``","``) by its very piece;
    - ``@FILE``: an id, a range or a token a line, commas being part of a token; blank lines are ignored, and what
      follows a ``#`` that stands alone: ``#ing`` and ``##ing`` are tokens, and ``"#"`` is in quotes;
    - ``FILE.safetensors``: its `cluster_token_ids`, or where it has none its `cluster_mask`, or the tokens that
      `token_to_black_hole` has in groups of identical rows; ``FILE.safetensors:KEY``: the vector KEY. A vector of bool
      or uint8 is a mask over the vocabulary, one of another integer type holds ids. Ids beside a `cluster_mask` of
      another length than the vocabulary are taken only where they are the KEY;
    - integers and tokens, or a boolean array that is a mask over the vocabulary; of a DataArray with token
      ids, or a pandas Series whose index has ids or tokens, over these. Strings of an index are tokens, never ids.

    `labels` are needed, and read, where tokens are named.

    Raises
    ------
    InputError
        where the selection is empty, does not parse, or names an id outside the vocabulary, a token that is not there
        or one that could be several; where a file or key is missing or a mask has another length than the vocabulary.
    """
    return read_cluster(selection, vocab_size, labels).token_ids


def read_cluster(selection: Selection, vocab_size: int, labels: Labels | None = None) -> Cluster:
    """Read `selection` as `parse_tokens` does, with the vector `centroid` of a safetensors file that holds one.

    The centroid (d,) is stored as bfloat16, float16, float32 or float64 and is returned as float64; its length is not
    compared with a model's here.

    Raises
    ------
    InputError
        as `parse_tokens`, and where `centroid` is not a finite floating-point vector.
    """
    if isinstance(selection, os.PathLike):
        selection = os.fspath(selection)
    if isinstance(selection, str):
        path, key = _safetensors_path(selection)
        if path is not None:
            return _read_safetensors(parse_path("tokens", path), key, vocab_size)
    return Cluster(_select(selection, vocab_size, labels))


def _select(selection: str | Iterable[int | str] | None, vocab_size: int, labels: Labels | None) -> NDArray[np.int64]:
    if selection is None:
        return np.arange(vocab_size, dtype=np.int64)
    if isinstance(selection, str):
        if selection.startswith("@"):
            return _from_lines(parse_path("tokens", selection[1:]), vocab_size, labels)
        return _sorted_ids(_listed(selection, vocab_size, labels), f"the token selection {selection!r}", vocab_size)
    if (masked := _masked(selection, vocab_size, labels)) is not None:
        return _sorted_ids(masked, "the mask", vocab_size)
    if hasattr(selection, "__array__"):
        selection = np.asarray(selection).ravel().tolist()
    return _sorted_ids(_each(selection, vocab_size, labels), "the token selection", vocab_size)


def _masked(selection: Any, vocab_size: int, labels: Labels | None) -> NDArray[np.int64] | list[int] | None:
    """The ids that a mask selects, in its order, by its labels where it has some; None of what is no mask."""
    if isinstance(selection, xr.DataArray) and selection.dtype == bool and selection.ndim == 1:
        ids = token_id_of(selection)
        if ids is not None:
            taken: NDArray[np.int64] = ids[selection.to_numpy()]
            return taken
    if isinstance(selection, pd.Series) and pd.api.types.is_bool_dtype(selection):
        if count := int(selection.isna().sum()):
            raise InputError(f"the mask holds NA, in {count} of {selection.size} rows: fill it, mask.fillna(False)")
        index, mask = selection.index, selection.to_numpy(bool)
        if not (isinstance(index, pd.RangeIndex) and index.equals(pd.RangeIndex(mask.size))):
            return _of_index(index[mask].tolist(), vocab_size, labels)
        selection = mask
    if not hasattr(selection, "__array__") or (array := np.asarray(selection)).dtype != bool:
        return None
    _check_order(array, labels)
    return _from_mask(array, "the mask", vocab_size)


def _of_index(values: list[Any], vocab_size: int, labels: Labels | None) -> list[int]:
    """The ids of labels of rows: ids, and tokens, of which `1` and `0:2` may be some; a piece before a like text."""
    if labels is None or not any(isinstance(value, str) for value in values):
        return _each(values, vocab_size, labels)
    names, pieces = [value for value in values if isinstance(value, str)], set(labels()["token"].to_numpy().tolist())
    found = iter(find_tokens([f'"{name}"' if name in pieces else name for name in names], labels()))
    return _each([next(found) if isinstance(value, str) else value for value in values], vocab_size, labels)


def in_order(selection: str | Iterable[int | str], vocab_size: int, labels: Labels) -> NDArray[np.int64]:
    """Return the token ids of `selection`, int64 (n,), in the order given, repeated ones too; forms as `parse_tokens`.

    Raises
    ------
    InputError
        as `parse_tokens`.
    """
    if (ids := _masked(selection, vocab_size, labels)) is not None:
        name = "the mask"
    else:
        name = f"the token selection {selection!r}"
        ids = (_listed if isinstance(selection, str) else _each)(cast(Any, selection), vocab_size, labels)
    _sorted_ids(ids, name, vocab_size)
    return np.asarray(ids, dtype=np.int64)


def _each(values: Iterable[int | str], vocab_size: int, labels: Labels | None) -> list[int]:
    if not isinstance(values, Iterable):
        raise InputError(f"the token selection {values!r:.40} is no list: {_FORMS}")
    values = list(values)
    if any(isinstance(value, bool) for value in values):
        raise InputError("token ids are integers, and booleans are given: give a mask as a boolean array of numpy")
    try:
        parts = [_part(value, vocab_size) if isinstance(value, str) else [operator.index(value)] for value in values]
    except TypeError as error:
        raise InputError(f"token ids are integers: {error}; {_FORMS}") from error
    return _resolved(parts, labels)


def _listed(text: str, vocab_size: int, labels: Labels | None) -> list[int]:
    """The ids of a list with commas."""
    return _resolved([_part(part[0].strip(), vocab_size) for part in _PARTS.finditer(text)], labels)


def _part(part: str, vocab_size: int) -> list[int] | str:
    """The ids of an id or a range; else the part itself, which names a token."""
    if bounds := _RANGE.fullmatch(part):
        start, stop = int(bounds[1] or 0), int(bounds[2] or vocab_size)
        _check_bounds(min(start, stop), max(start, stop - 1), vocab_size)
        return list(range(start, stop))
    if _ID.fullmatch(part):
        _check_bounds(int(part), int(part), vocab_size)
        return [int(part)]
    return part


def _resolved(parts: Sequence[list[int] | str], labels: Labels | None, where: Sequence[str] | None = None) -> list[int]:
    """The ids of parts, with those of the tokens that some name; `where` is before each name in messages."""
    named = [place for place, part in enumerate(parts) if isinstance(part, str)]
    names = [str(parts[place]) for place in named]
    for place, name in zip(named, names, strict=True):
        if labels is None or not name:
            raise InputError(f"{where[place] if where else ''}cannot read {name!r} in the token selection: {_FORMS}")
    found: dict[int, list[int]] = {}
    if names and labels is not None:
        ids = find_tokens(names, labels(), where and [where[place] for place in named])
        found = {place: [token_id] for place, token_id in zip(named, ids, strict=True)}
    return [token_id for place, part in enumerate(parts) for token_id in found.get(place, part)]  # type: ignore[misc]


def _from_lines(path: str, vocab_size: int, labels: Labels | None) -> NDArray[np.int64]:
    """The ids of a file with an id, a range or a token a line."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")  # a token may hold other ends of lines
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the token file {path!r}: {_reason(error)}") from error
    given = [
        (number, found[1]) for number, line in enumerate(lines, 1) if (found := _LINE.fullmatch(line)) and found[1]
    ]
    where = [f"line {number} of the token file {path!r}: " for number, _ in given]
    ids = _resolved([_part(part, vocab_size) for _, part in given], labels, where)
    return _sorted_ids(ids, f"the token file {path!r}", vocab_size)


def _check_order(mask: NDArray[Any], labels: Labels | None) -> None:
    """Refuse a mask without labels that may be one over the vocabulary, or one over rows in another order."""
    if labels is None:
        return
    ids = labels()["token_id"].to_numpy()
    if mask.size == ids.size and (ids != np.arange(ids.size)).any():
        raise InputError("the rows given have ids of their own: give the mask as a DataArray with these")


def _from_mask(mask: NDArray[Any], name: str, vocab_size: int) -> NDArray[np.int64]:
    if mask.shape != (vocab_size,):
        raise InputError(f"{name} has shape {mask.shape}, the vocabulary has {vocab_size} tokens: use its own mask")
    if mask.max(initial=0) > 1:
        raise InputError(f"{name} holds {mask.max()}: a mask holds only 0 and 1; store ids as int32 or int64")
    return _sorted_ids(np.flatnonzero(mask), name, vocab_size)


def _sorted_ids(ids: NDArray[Any] | list[int], name: str, vocab_size: int) -> NDArray[np.int64]:
    if len(ids) == 0:
        raise InputError(f"{name} selects no token")
    _check_bounds(int(min(ids)), int(max(ids)), vocab_size)
    return np.unique(np.asarray(ids, dtype=np.int64))


def _check_bounds(lowest: int, highest: int, vocab_size: int) -> None:
    if lowest < 0:
        raise InputError(f"token id {lowest} is negative: the ids of this vocabulary are 0 to {vocab_size - 1}")
    if highest >= vocab_size:
        raise InputError(f"token id {highest} is past the vocabulary of {vocab_size} tokens (0 to {vocab_size - 1})")


def _safetensors_path(selection: str) -> tuple[str | None, str | None]:
    selection = selection.removeprefix("@")
    if selection.endswith(".safetensors"):
        return selection, None
    stem, found, key = selection.rpartition(".safetensors:")
    return (f"{stem}.safetensors", key) if found else (None, None)


def _read_safetensors(path: str, key: str | None, vocab_size: int) -> Cluster:
    wanted = (key,) if key else _CLUSTER_KEYS
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            found = next((name for name in wanted if name in keys), None)
            if found is None:
                raise InputError(f"{path!r} has no {' or '.join(wanted)}: name one with FILE:KEY of {', '.join(keys)}")
            if key is None and found == _IDS and _MASK in keys:  # ids do not tell of which vocabulary they are
                _check_size(tuple(file.get_slice(_MASK).get_shape()), path, vocab_size)
            vector = _read_vector(file, path, found, _MASK_DTYPES + _ID_DTYPES)
            centroid = _read_vector(file, path, "centroid", _FLOAT_DTYPES) if "centroid" in keys else None
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot read the token file {path!r}: {_reason(error)}") from error
    if centroid is not None and not torch.isfinite(centroid).all():
        raise InputError(f"the centroid of {path!r} holds NaN or infinity")
    name = f"{found} of {path!r}"
    if found == _GROUPS:  # -1 for a unique row
        vector = vector >= 0
    if vector.dtype in (torch.bool, torch.uint8):
        token_ids = _from_mask(vector.numpy(), name, vocab_size)
    else:
        token_ids = _sorted_ids(vector.numpy(), name, vocab_size)
    return Cluster(token_ids, None if centroid is None else centroid.double().numpy())


def _check_size(shape: tuple[int, ...], path: str, vocab_size: int) -> None:
    """Refuse the ids of a file whose mask is of another vocabulary."""
    if shape != (vocab_size,):
        raise InputError(
            f"{_MASK} of {path!r} has shape {shape}, the vocabulary has {vocab_size} tokens: use its own mask, or "
            f"{path}:{_IDS} to take the ids all the same"
        )


def _read_vector(file: Any, path: str, key: str, dtypes: tuple[str, ...]) -> torch.Tensor:
    header = file.get_slice(key)
    dtype, shape = header.get_dtype(), header.get_shape()
    if dtype not in dtypes or len(shape) != 1:
        raise InputError(f"{key} of {path!r} is {dtype} {tuple(shape)}: a vector of {', '.join(dtypes)} is needed")
    tensor: torch.Tensor = file.get_tensor(key)
    return tensor


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0]
