"""The tokens of the rows of a checkpoint's matrices: where its tokenizer lies, and what it says of each row."""

from __future__ import annotations

import xarray as xr

from embgeom_dask.checkpoints.files import Folder
from embgeom_dask.checkpoints.labels import count_past, load_tokenizer, token_labels


def label(folder: Folder, rows: int) -> tuple[xr.Dataset | None, str, list[str]]:
    """Return the labels of a checkpoint's rows (None where there are none), its tokenizer, and what to warn of."""
    tokenizer, described = load_tokenizer(folder.path)
    if tokenizer is None:
        return None, described, [f"no row has a token: {described.removeprefix('none: ')}"]
    past = count_past(tokenizer, rows)
    warnings = (
        [f"{past} tokens of the tokenizer have no row: their ids are past the last of {rows} rows"] if past else []
    )
    return token_labels(tokenizer, rows), described, warnings
