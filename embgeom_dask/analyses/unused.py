"""Find tokens that cannot have been trained, since no text contains them: by the labels and rows of a store."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from distributed import Client
from numpy.typing import NDArray

from embgeom_dask.analyses.cluster import CLUSTER, members_of
from embgeom_dask.errors import InputError
from embgeom_dask.execution.arrays import Given
from embgeom_dask.selections.selection import Selection, parse_tokens
from embgeom_dask.storage.validation import REACHABILITY

Mask = NDArray[np.bool_]
Strings = Mapping[str, list[Any]]

_NAMED = re.compile(r"unused|reserved_special|madeupword", re.IGNORECASE)
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_NEVER = {0xC0, 0xC1, *range(0xF5, 0x100)}
"""Bytes that UTF-8 never has."""

_UNREACHABLE = ("UNREACHABLE_SINGLE_TOKEN", "UNREACHABLE_MULTI_TOKEN")

CATEGORIES = ("token", "special", "byte", "partial", "none")


def stored_labels(given: Given) -> Strings:
    """The labels of the rows, as lists: `token`, `text`, `bytes`, `has_token`, `is_added`, `is_special`, and where it
    is there `reachability`.
    """
    stored = given.stored_labels()
    return {name: np.asarray(values)[given.rows].tolist() for name, values in stored.items()}


def _padding(of: Strings, groups: NDArray[np.int64], zero: Mask) -> Mask:
    del groups
    has = np.array(of["has_token"], bool)
    found: Mask = ~has & ~zero & has.any()  # the mean of zeros has no direction
    return found


def _bytes(of: Strings, groups: NDArray[np.int64], zero: Mask) -> Mask:
    """Single bytes that UTF-8 never has; where there are none, bytes of ASCII of which another token is the text."""
    del groups, zero
    values = [byte_of(piece, raw) for piece, raw in zip(of["token"], of["bytes"], strict=True)]
    never = np.array([value in _NEVER for value in values], bool)
    if never.any():
        return never
    plain = {text for text, piece in zip(of["text"], of["token"], strict=True) if not _BYTE.fullmatch(piece)}
    fallback = (bool(_BYTE.fullmatch(piece)) for piece in of["token"])
    return np.array(
        [
            is_fallback and value is not None and value < 0x80 and chr(value) in plain
            for is_fallback, value in zip(fallback, values, strict=True)
        ],
        bool,
    )


def _named(of: Strings, groups: NDArray[np.int64], zero: Mask) -> Mask:
    del groups, zero
    marked = [piece[:1] in ("[", "<") and bool(_NAMED.search(piece)) for piece in of["token"]]
    found: Mask = np.array(marked, bool) & np.array(of["has_token"], bool)
    return found


def _unreachable(of: Strings, groups: NDArray[np.int64], zero: Mask) -> Mask:
    """Tokens whose text is encoded to others; not those like `<s>`, which need no text to be used."""
    del groups
    told = of.get(REACHABILITY, [""] * zero.size)
    found: Mask = np.isin(np.array(told, np.str_), _UNREACHABLE) & ~zero
    return found


def _identical(of: Strings, groups: NDArray[np.int64], zero: Mask) -> Mask:
    del of
    found: Mask = (groups >= 0) & ~zero
    return found


RULES: dict[str, Callable[[Strings, NDArray[np.int64], Mask], Mask]] = {
    "padding": _padding,
    "bytes": _bytes,
    "named": _named,
    "unreachable": _unreachable,
    "identical": _identical,
}
"""What may tell that tokens were never trained, in the order in which they are tried; then the dense cluster is."""


def read_unused(unused: Selection, given: Given) -> str | Mask | None:
    """A selection of rows as a mask of them, (n,) bool; one of RULES, "cluster" and None as they are.

    Raises
    ------
    InputError
        where a selection is wrong, or the labels do not say what a rule asks.
    """
    if unused is None or (isinstance(unused, str) and unused in (*RULES, CLUSTER)):
        if unused == "unreachable" and REACHABILITY not in given.stored_labels():
            raise InputError(
                f"`unused` {unused}: {given.matrix.label} does not say which tokens can be reached: convert it again, "
                "with its tokenizer, and overwrite its store"
            )
        return unused
    ids = parse_tokens(unused, given.vocab_size, given.labels)
    return np.isin(given.ids, given.select(ids).ids)


def find_unused(
    client: Client, unused: str | Mask | None, given: Given, of: Strings, groups: NDArray[np.int64], zero: Mask
) -> tuple[Mask, str]:
    """Which rows are unused tokens, (n,) bool, and what told so: a rule, or `given`.

    Parameters
    ----------
    unused : (n,) bool, one of RULES, "cluster", or None
        What `read_unused` gave. None takes the first rule that finds some, or else the dense cluster, if it stands
        apart.
    groups : (n,) int64
        The group of identical rows of each; -1 for a unique one.
    zero : (n,) bool
        Which rows are of zeros.

    Raises
    ------
    InputError
        where none are found.
    """
    if isinstance(unused, np.ndarray):
        return unused, "given"
    if unused == CLUSTER:
        return _cluster(client, given, zero), CLUSTER
    if unused is not None:
        found = RULES[unused](of, groups, zero)
        if not found.any():
            raise InputError(f"`unused` {unused}: {given.matrix.label} has no such rows: give their ids")
        return found, unused
    for name, rule in RULES.items():
        found = rule(of, groups, zero)
        if found.any():
            return found, name
    try:
        return _cluster(client, given, zero), CLUSTER
    except InputError:
        raise InputError(
            f"nothing tells which tokens of {given.matrix.label} are unused: give some with `unused`, by id or by name"
        ) from None


def _cluster(client: Client, given: Given, zero: Mask) -> Mask:
    """The tokens of the dense cluster, which a model that decays all weights leaves where they were."""
    found = np.zeros(zero.size, np.bool_)
    found[members_of(client, given, "give some with `unused`, by id or by name")] = True
    found &= ~zero
    if not found.any():
        raise InputError(f"`unused` {CLUSTER}: the dense cluster of {given.matrix.label} are rows of zeros: give ids")
    return found


def byte_of(piece: str, raw: str) -> int | None:
    """The byte that a token is, `<0x41>` or one of a byte-level vocabulary; None where it is no single byte."""
    if found := _BYTE.fullmatch(piece):
        return int(found[1], 16)
    return int(raw, 16) if len(raw) == 2 else None


def categories(of: Strings) -> list[str]:
    """What each row is: `byte` a single byte; `special` by its piece, as [CLS] or <s>; `partial` a part of a letter in
    UTF-8; `none` a row without a token; else `token`. Where no row has a token, all are taken for ordinary ones.
    """
    if not any(of["has_token"]):
        return ["token"] * len(of["token"])
    columns = (of[name] for name in ("token", "bytes", "has_token"))
    return [_category(*each) for each in zip(*columns, strict=True)]


def _category(piece: str, raw: str, has: bool) -> str:
    if not has:
        return "none"
    if byte_of(piece, raw) is not None:
        return "byte"
    bracketed = len(piece) >= 3 and piece[0] in "[<" and piece[-1] in "]>"
    if bracketed and any(letter.isalpha() and letter.isascii() for letter in piece):
        return "special"
    try:
        bytes.fromhex(raw).decode()
    except UnicodeDecodeError:
        return "partial"
    return "token"
