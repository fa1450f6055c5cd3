"""Which row of one vocabulary corresponds to which row of another: by token id, or by token."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.errors import InputError
from embgeom_dask.execution.arrays import Given

Ids = NDArray[np.int64]

MATCHES = ("id", "token")
_MARK = "\N{LOWER ONE EIGHTH BLOCK}"
_LEADING = "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}"
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_CONTINUES = "##"
_SYMBOLS = "$+<=>^`|~"
"""What of ASCII BERT takes for punctuation, and Unicode does not."""
_IDEOGRAPHS = ("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH")


class Matched(NamedTuple):
    """The rows of either side that are matched, (n,) int64 each: row `first[k]` is row `second[k]` of the other."""

    first: Ids
    second: Ids


def match_rows(first: Given, second: Given, how: str) -> Matched:
    """Match the rows of two matrices, in the order of the first side's rows.

    Parameters
    ----------
    how : {"id", "token"}
        By `token_id`; or by what `names` calls them: of several rows of one name the first is matched.

    Raises
    ------
    InputError
        where `how` is neither, a side has an id twice, or no row is matched.
    """
    if how not in MATCHES:
        raise InputError(f"`match` {how}: choose {' or '.join(MATCHES)}")
    if how == "id":
        for given in (first, second):
            _check_once(given)
        _, places, others = np.intersect1d(first.ids, second.ids, assume_unique=True, return_indices=True)
    else:
        mine, theirs = _first_of_each(first), _first_of_each(second)
        shared = [(place, theirs[name]) for name, place in mine.items() if name in theirs]
        places, others = np.array(shared, np.int64).reshape(-1, 2).T
    if not places.size:
        hint = ": match them by token id" if how == "token" else ""
        raise InputError(f"{first.matrix.label} and {second.matrix.label} have no {how} in common{hint}")
    order = np.argsort(places)
    return Matched(first.rows[places[order]], second.rows[others[order]])


def names(given: Given) -> list[str]:
    """What the token of each row is called in every vocabulary: its bytes, in hexadecimal; empty where it has none.

    The marks of a leading space are spaces: the one that SentencePiece writes everywhere, and that of byte-level BPE,
    whose bytes a store knows. WordPiece marks the other pieces, those that continue a word: its `##ing` is `ing`, and
    its `king`, which begins a word, is ` king`. Of punctuation and ideographs, which it always splits off, it does not
    say so: `,` is `,`, and `##,`, which it never writes, is called as no text is.
    """
    stored = given.stored_labels()
    columns = (np.asarray(stored[name])[given.rows].tolist() for name in ("bytes", "text", "has_token", "is_special"))
    plain = _of_wordpiece if _is_wordpiece(stored["token"].tolist(), stored["bytes"].tolist()) else _plain
    return [
        (raw or (text.encode().hex() if special else plain(text))) if has else ""
        for raw, text, has, special in zip(*columns, strict=True)
    ]


def pieces(given: Given, what: str = "token") -> NDArray[Any]:
    """The raw pieces of the rows, (n,) strings, or their texts."""
    stored = given.stored_labels()
    found: NDArray[Any] = np.asarray(stored[what], np.object_)[given.rows]
    return found


def unmatched(first: Given, second: Given, matched: Matched) -> dict[str, Any]:
    """How many rows of either side are not matched, and which."""
    variables: dict[str, Any] = {"matched_count": matched.first.size}
    for prefix, given, rows in (("", first, matched.first), ("against_", second, matched.second)):
        left = given.rows[~np.isin(given.rows, rows)]
        variables[f"{prefix}vocab_size"] = given.rows.size
        variables[f"{prefix}hidden_size"] = given.matrix.hidden_size
        variables[f"{prefix}unmatched_count"] = left.size
        if left.size:
            variables[f"{prefix}unmatched_token_id"] = (f"{prefix}unmatched", given.ids_of(left))
            for what in ("token", "text"):
                variables[f"{prefix}unmatched_{what}"] = (f"{prefix}unmatched", pieces(given, what)[left])
    return variables


def labels_of(first: Given, second: Given, matched: Matched, match: str) -> dict[str, Any]:
    """The labels of the rows that are matched."""
    mine, theirs = first.labels().isel(token_id=matched.first), second.labels().isel(token_id=matched.second)
    found: dict[str, Any] = {name: ("token_id", mine[name].to_numpy()) for name in ("token_id", "token", "text")}
    found |= {f"against_{name}": ("token_id", theirs[name].to_numpy()) for name in ("token_id", "token", "text")}
    tokens, their_tokens = mine["token"].to_numpy(), theirs["token"].to_numpy()
    if match == "id" and (tokens != "").any() and (their_tokens != "").any():  # a side without any tells no change
        changed = tokens != their_tokens
        found |= {"token_changed": ("token_id", changed), "token_changed_count": np.count_nonzero(changed)}
    return found


def _plain(text: str) -> str:
    """The name of a text with marks of a leading space."""
    text = text.replace(_MARK, " ")
    return (f" {text[1:]}" if text.startswith(_LEADING) else text).encode().hex()


def _is_wordpiece(tokens: Sequence[str], raw: Sequence[str]) -> bool:
    """Whether more pieces have the mark of a continued word than that of a leading space."""
    continued = sum(_continues(piece) and not _split_off(piece[len(_CONTINUES)]) for piece in tokens)
    return continued > sum(piece.startswith((_MARK, _LEADING)) for piece in tokens) and not any(raw)


def _of_wordpiece(text: str) -> str:
    """The name of a piece of WordPiece."""
    if _continues(text):
        rest = text.removeprefix(_CONTINUES)
        return f"{_CONTINUES if _split_off(rest[0]) else ''}{rest.encode().hex()}"
    return f"{'' if not text or _split_off(text[0]) else ' '}{text}".encode().hex()


def _continues(piece: str) -> bool:
    return piece.startswith(_CONTINUES) and len(piece) > len(_CONTINUES)


def _split_off(letter: str) -> bool:
    """Whether BERT makes a character a word of its own, with or without spaces about it."""
    if letter in _SYMBOLS or unicodedata.category(letter).startswith("P"):
        return True
    return unicodedata.name(letter, "").startswith(_IDEOGRAPHS)


def _first_of_each(given: Given) -> dict[str, int]:
    """The first row of each name; a token that is a single byte only stands in where no other has its name."""
    called, single = names(given), [_BYTE.fullmatch(piece) is not None for piece in pieces(given).tolist()]
    found: dict[str, int] = {}
    for last in (False, True):
        for place in _where(single, last):
            if called[place]:
                found.setdefault(called[place], place)
    return found


def _where(flags: Iterable[bool], value: bool) -> list[int]:
    return [place for place, flag in enumerate(flags) if flag is value]


def _check_once(given: Given) -> None:
    values, counts = np.unique(given.ids, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{given.matrix.label}: token id {values[counts > 1][0]} is that of several rows: give each row once"
        )
