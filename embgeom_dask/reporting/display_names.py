"""Readable names of tokens for tables, pages and plots. Machine-readable output keeps the raw pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from embgeom_dask.escaping import readable

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray


def display_names(result: xr.Dataset, name: str = "token", at: Any = ...) -> NDArray[Any]:
    """What tokens of a result are called, by `readable` from their pieces and texts.

    Parameters
    ----------
    result : xarray.Dataset
        The result.
    name : str
        The variable of the pieces: `token`, `farthest_token`; `text`, `farthest_text` has what they mean, if any.
    at : index, optional
        Which of them, as numpy's indexing takes it; by default all.

    Returns
    -------
    numpy.ndarray of str objects
        Of the shape of the variable, or of what is chosen of it.
    """
    pieces = np.asarray(result[name].to_numpy()[at], np.object_)
    text = f"{name.removesuffix('token')}text"
    if text not in result.variables or result[text].dims != result[name].dims:
        texts: NDArray[Any] = np.full(pieces.shape, "", np.object_)
    else:
        texts = np.asarray(result[text].to_numpy()[at], np.object_)
    given = list(zip(map(str, pieces.ravel().tolist()), map(str, texts.ravel().tolist()), strict=True))
    known = {each: readable(*each) for each in set(given)}
    found = np.empty(len(given), np.object_)
    found[:] = [known[each] for each in given]
    return found.reshape(pieces.shape)


def with_display_names(result: xr.Dataset) -> xr.Dataset:
    """The same result with what its tokens are called in place of their pieces."""
    names = [str(name) for name in result.variables if name == "token" or str(name).endswith("_token")]
    return result.assign({name: (result[name].dims, display_names(result, name)) for name in names})
