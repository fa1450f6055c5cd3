"""Tokens by their names: pieces or text, with or without the mark of a leading space."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from embgeom_dask.errors import InputError
from embgeom_dask.escaping import ALPHABET, SPACE, readable, shown

_MARKS = (SPACE, ALPHABET[ord(" ")])
"""What stands for a leading space in the pieces of SentencePiece and of byte-level BPE."""

_CANDIDATES = 5


def find_token(name: str, labels: xr.Dataset) -> int:
    """Return the id of the token called `name`, as `find_tokens` does.

    Examples
    --------
    >>> names = ["king", "\N{LOWER ONE EIGHTH BLOCK}queen", "queens"]
    >>> labels = xr.Dataset(coords={"token_id": range(3), "token": ("token_id", names), "text": ("token_id", names)})
    >>> find_token("queen", labels)
    1
    """
    return find_tokens([name], labels)[0]


def find_tokens(names: Sequence[str], labels: xr.Dataset, where: Sequence[str] | None = None) -> list[int]:
    """Return the ids of the tokens called `names`.

    Parameters
    ----------
    names : list of str
        The piece or the text of each, with or without the mark of a leading space, or as tables show it; in double
        quotes its very piece.
    labels : xarray.Dataset
        The coordinates `token_id`, `token` and `text`, along one dimension.
    where : list of str, optional
        What messages call the place of each name, before the name.

    Raises
    ------
    InputError
        where no token is called so, with some that are alike, or several are, with these.
    """
    token_id, tokens, texts = (labels[each].to_numpy() for each in ("token_id", "token", "text"))
    pieces, said = {name: _pieces(name) for name in names}, {name: _texts(name) for name in names}
    of_piece, of_text = _places(tokens, pieces), _places(texts, said)
    found = {
        name: {place for piece in pieces[name] for place in of_piece[piece]}
        | {place for text in said[name] for place in of_text[text]}
        for name in names
    }
    if missing := {name for name in names if not found[name]}:
        for place, each in enumerate(zip(tokens.tolist(), texts.tolist(), strict=True)):
            if (called := readable(*each)) in missing:
                found[called].add(place)
    where = where or [""] * len(names)
    unlike = [each for each in zip(where, names, strict=True) if len({int(token_id[at]) for at in found[each[1]]}) != 1]
    if unlike:  # one id is in one row, or in several of an array that share it
        wrong = [
            place + _wrong(name, np.array(sorted(found[name]), np.int64), token_id, tokens, texts)
            for place, name in unlike[:_CANDIDATES]
        ]
        more = len(unlike) - _CANDIDATES
        raise InputError("; ".join([*wrong, *([f"and {more} more"] if more > 0 else [])]))
    return [int(token_id[min(found[name])]) for name in names]


def _pieces(name: str) -> set[str]:
    if len(name) > 1 and name[0] == name[-1] == '"':
        return {name[1:-1]}
    return {name, *(mark + name for mark in _MARKS)}


def _texts(name: str) -> set[str]:
    return set() if len(name) > 1 and name[0] == name[-1] == '"' else {name, f" {name}"}


def _places(strings: np.ndarray, wanted: Mapping[str, set[str]]) -> dict[str, list[int]]:
    """The places of each of the strings wanted."""
    found: dict[str, list[int]] = {each: [] for some in wanted.values() for each in some}
    for place, string in enumerate(strings.tolist()):
        if string in found:
            found[string].append(place)
    return found


def _wrong(name: str, found: np.ndarray, token_id: np.ndarray, tokens: np.ndarray, texts: np.ndarray) -> str:
    """What is wrong with a name: it is that of several tokens, or of none."""
    if found.size:
        listed = _listed(found, token_id, tokens)
        return f"token {shown(name)!r} could be {listed}: give the id, or the piece in double quotes"
    if not np.any(tokens != ""):
        return f"no token is called {shown(name)!r}: no row has a token, give ids"
    alike = _alike(name.strip('"'), texts)
    called = np.array([readable(*each) for each in zip(tokens[alike], texts[alike], strict=True)], np.object_)
    listed = _listed(np.arange(alike.size), token_id[alike], called)
    hint = f": alike are {listed}" if alike.size else " or alike (`embgeom tokens` lists all of them)"
    return f"no token is called {shown(name)!r}{hint}"


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
