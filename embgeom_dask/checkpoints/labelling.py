"""Label the rows of a checkpoint's matrices with tokens."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from embgeom_dask.checkpoints.files import Folder, LocalFile
from embgeom_dask.checkpoints.numbering import Tokens, row_tokens
from embgeom_dask.checkpoints.reachability import reachability
from embgeom_dask.checkpoints.safetensors import Listing
from embgeom_dask.checkpoints.small_files import read_json
from embgeom_dask.checkpoints.tokenizer_labels import NO_TOKENIZER, count_past, load_tokenizer, token_labels
from embgeom_dask.errors import InputError
from embgeom_dask.progress import note
from embgeom_dask.storage.fill import RowSource
from embgeom_dask.storage.labels import digest_labels, empty_label, kinds_of
from embgeom_dask.storage.validation import REACHABILITY
from embgeom_dask.units import noun

_MOST_CONFIG = 64 << 20


@dataclass(frozen=True)
class Labels:
    """The labels of a store's rows.

    Attributes
    ----------
    shared : xarray.Dataset, optional
        The labels of the longest matrix's rows, over `token_id`; None if no row has a token.
    tokenizer : str
        The class of the tokenizer, or the reason why there is none.
    own : dict of str to xarray.Dataset
        The labels of the matrices whose rows are other tokens, by the name of the matrix.
    warnings : tuple of str
        What the user should know.
    """

    shared: xr.Dataset | None
    tokenizer: str
    own: dict[str, xr.Dataset] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def digest(self, name: str, rows: int, *, reachability: bool = True) -> str:
        """Return the digest of the labels of a matrix with `rows` rows, as its store records it; "" without labels."""
        labels = self.own.get(name, self.shared)
        if labels is not None and not reachability:
            labels = labels.drop_vars(REACHABILITY, errors="ignore")
        return "" if labels is None else digest_labels(labels, rows)


def label(folder: Folder, vocabulary: Path, listing: Listing, matrices: Mapping[str, RowSource]) -> Labels:
    """Label the rows of a checkpoint's matrices.

    Parameters
    ----------
    folder : Folder
        The checkpoint, whose config is read.
    vocabulary : Path
        The folder of the tokenizer.
    listing : Listing
        The tensors of the checkpoint; some say which token each row is.
    matrices : mapping of str to RowSource
        The matrices by their names in the store.
    """
    tokenizer, described = load_tokenizer(vocabulary)
    if tokenizer is None:
        advice = ": `tokenizer` names the folder of one" if described == NO_TOKENIZER else ""
        return Labels(None, described, warnings=(f"no row has a token: {described.removeprefix('none: ')}{advice}",))
    config = _config(folder.path if folder.path.is_dir() else folder.path.parent)
    numbered = {name: row_tokens(listing, name, matrix, config) for name, matrix in matrices.items()}
    warnings = list(dict.fromkeys(said for _, said in numbered.values() if said))
    longest = max(matrices, key=lambda name: matrices[name].shape[0])
    rows = matrices[longest].shape[0]
    ids = max([rows, *(int(tokens.max()) + 1 for tokens, _ in numbered.values() if tokens is not None)])
    if numbered[longest][0] is None and (past := count_past(tokenizer, rows)):
        warnings.append(f"{past} {noun(past, 'token')} of the tokenizer without a row: past the last of {rows} rows")
    found = _with_reachability(token_labels(tokenizer, ids), tokenizer, folder)
    own = {
        name: _with_padding(_of_rows(found, tokens, matrices[name].shape[0]))
        for name, (tokens, _) in numbered.items()
        if name != longest and (tokens is not None or numbered[longest][0] is not None)
    }
    shared = _with_padding(_of_rows(found, numbered[longest][0], rows))
    return Labels(shared, described, own, tuple(warnings))


def _with_reachability(labels: xr.Dataset, tokenizer: Any, folder: Folder) -> xr.Dataset:
    """Add what the tokenizer says of which tokens it can write, where that can be told."""
    told, why = reachability(tokenizer, labels)
    if told is None:
        note(f"{folder.name}: which tokens its tokenizer can write is not known: {why}")
        return labels
    return labels.assign_coords({REACHABILITY: ("token_id", np.array(told, np.object_))})


def _of_rows(labels: xr.Dataset, tokens: Tokens | None, rows: int) -> xr.Dataset:
    """Return the labels of `rows` rows that are these tokens; a row of token -1 has empty labels."""
    if tokens is None:
        return labels.isel(token_id=slice(rows))
    taken = labels.isel(token_id=tokens)
    found = {
        name: ("token_id", np.where(tokens < 0, empty_label(name), taken[name].values).astype(kind))
        for name, kind in kinds_of(labels).items()
    }
    return xr.Dataset(coords={"token_id": np.arange(rows), **found})


def _with_padding(labels: xr.Dataset) -> xr.Dataset:
    """Name each row without a token `[PAD<row>]`, as GGUF files do: pandas selects only among labels that differ.

    Where no row has a token, nothing is known of them, and none is named.
    """
    has = labels["has_token"].to_numpy()
    if not has.any():
        return labels
    padding = np.array([f"[PAD{row}]" for row in range(has.size)], np.object_)
    return labels.assign_coords(token=("token_id", np.where(has, labels["token"], padding)))


def _config(path: Path) -> dict[str, Any]:
    """Return the config of a model and of an adapter in one; empty if neither can be read."""
    config: dict[str, Any] = {}
    for file in ("config.json", "adapter_config.json"):
        with suppress(InputError):
            config |= read_json(LocalFile.open(path / file), "a config", _MOST_CONFIG)
    return config
