"""Tokens by their names: pieces or text, with or without the mark of a leading space."""

from __future__ import annotations

import difflib

import numpy as np
import xarray as xr

from embgeom_dask.errors import InputError
from embgeom_dask.escaping import shown

_MARKS = ("\N{LOWER ONE EIGHTH BLOCK}", "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}")
"""What stands for a leading space in the pieces of SentencePiece and of byte-level BPE."""

_CANDIDATES = 5


def find_token(name: str, labels: xr.Dataset) -> int:
    """Return the id of the token called `name`.

    Parameters
    ----------
    name : str
        Its piece or its text, with or without the mark of a leading space; in double quotes its very piece.
    labels : xarray.Dataset
        The coordinates `token_id`, `token` and `text`, along one dimension.

    Raises
    ------
    InputError
        where no token is called so, with some that are alike, or several are, with these.

    Examples
    --------
    >>> names = ["king", "\N{LOWER ONE EIGHTH BLOCK}queen", "queens"]
    >>> labels = xr.Dataset(coords={"token_id": range(3), "token": ("token_id", names), "text": ("token_id", names)})
    >>> find_token("queen", labels)
    1
    """
    token_id, tokens, texts = (labels[each].to_numpy() for each in ("token_id", "token", "text"))
    if len(name) > 1 and name[0] == name[-1] == '"':
        found = np.flatnonzero(tokens == name[1:-1])
    else:
        pieces = [name, *(mark + name for mark in _MARKS)]
        found = np.flatnonzero(np.isin(tokens, pieces) | np.isin(texts, [name, f" {name}"]))
    if np.unique(token_id[found]).size == 1:  # in one row, or in several of an array that share it
        return int(token_id[found[0]])
    if found.size:
        listed = _listed(found, token_id, tokens)
        raise InputError(f"token {shown(name)!r} could be {listed}: give the id, or the piece in double quotes")
    alike = _alike(name.strip('"'), texts)
    hint = f"alike are {_listed(alike, token_id, tokens)}" if alike.size else "embgeom_dask.open_model lists them"
    raise InputError(f"no token is called {shown(name)!r}: {hint}")


def _listed(places: np.ndarray, token_id: np.ndarray, tokens: np.ndarray) -> str:
    some = [f"{token_id[place]} {shown(tokens[place])!r}" for place in places[:_CANDIDATES]]
    return ", ".join([*some, *(["..."] if len(places) > _CANDIDATES else [])])


def _alike(name: str, texts: np.ndarray) -> np.ndarray:
    """The places of tokens that differ in case, else of those that differ in few letters."""
    plain = np.array([text.strip().casefold() for text in texts], np.object_)
    same = np.flatnonzero(plain == name.strip().casefold())
    if same.size:
        return same
    near = {text for text in plain if text[:1] == name[:1].casefold() and abs(len(text) - len(name)) <= 2}
    close = difflib.get_close_matches(name.casefold(), sorted(near), n=_CANDIDATES)
    return np.flatnonzero(np.isin(plain, close)) if close else np.zeros(0, np.int64)
