"""Which tokens a tokenizer can produce: the six categories of magikarp (Land and Bartolo 2024, arXiv 2405.05417)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

CATEGORIES = (
    *("OK", "OK_SPECIAL", "UNDECODEABLE"),
    *("UNREACHABLE_SINGLE_TOKEN", "UNREACHABLE_MULTI_TOKEN", "UNREACHABLE_SPECIAL"),
)

_AT_ONCE = 1 << 14
"""Tokens whose encodings are held together."""

_SPACES = " ▁_Ġ"
"""What the first piece of a text begins with where a tokenizer puts a space before it."""

_QUOTES = ("«", "»")
"""What magikarp puts before a token, so that the space of its own stays."""

_TRIES = 256
"""Pieces that are tried to put before others."""

_BEFORE = 4
"""Those that are kept: if one melts into the token, the next is taken."""


class Before(NamedTuple):
    """A prefix that tokens are decoded and encoded after: some ids, and their text."""

    ids: list[int]
    text: str


NOTHING = Before([], "")


def reachability(tokenizer: Any, labels: xr.Dataset) -> tuple[list[str] | None, str]:
    """Find for each token whether its text is encoded to it: encode(decode(i)) == [i], with magikarp's special cases.

    Where a tokenizer puts a space before a text, or takes it away, a token is decoded and encoded after `«`, else `»`,
    else another piece of one character. So is a piece that continues a word (WordPiece's `##`), after a letter.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        What `load_tokenizer` gives. It no longer pads or truncates then.
    labels : xarray.Dataset
        What `token_labels` gives: `token`, `has_token` and `is_special` of each id.

    Returns
    -------
    categories : list of str, or None
        One of CATEGORIES for each id: `OK`; `OK_SPECIAL` if it is a special token; else what it is that does not come
        back: `UNREACHABLE_SPECIAL` of the form `<...>` or `[...]`, `UNDECODEABLE` no UTF-8 alone, and by what its text
        is encoded to, `UNREACHABLE_SINGLE_TOKEN` or `UNREACHABLE_MULTI_TOKEN`. "" for an id without a token. None where
        that cannot be decided.
    reason : str
        Why it cannot.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None, f"{type(tokenizer).__name__} is no fast tokenizer"
    try:
        backend.no_padding()
        backend.no_truncation()
        if getattr(backend.model, "dropout", None):
            backend.model.dropout = None
        pieces = np.where(labels["has_token"], labels["token"], "").tolist()
        return _categories(backend, pieces, set(np.flatnonzero(labels["is_special"]).tolist())), ""
    except Exception as error:  # tokenizers raises any type
        return None, " ".join(str(error).split())[:200]


def _categories(backend: Any, pieces: Sequence[str], special: set[int]) -> list[str]:
    found = [""] * len(pieces)
    known = {i: piece for i, piece in enumerate(pieces) if piece}
    mark = _continuing_mark(backend)
    continues = {i: bool(mark) and piece != mark and piece.startswith(mark) for i, piece in known.items()}
    for among, puts in ((False, _before_all), (True, _before_continuing)):
        left = [i for i in known if continues[i] is among]
        for each in (*puts(backend, pieces), NOTHING) if left else ():
            melted = []
            for i, text, tokens in _round_trips(backend, left, each):
                if text is None or tokens is None:
                    melted.append(i)
                else:
                    found[i] = _category(i, text, tokens, special)
            left = melted
    return found


def _category(i: int, text: str, tokens: list[int], special: set[int]) -> str:
    """What a token is, of which `text` is decoded, and that is encoded to `tokens`."""
    if tokens == [i]:
        return "OK_SPECIAL" if i in special else "OK"
    if len(text) >= 3 and text[0] in "[<" and text[-1] in "]>" and any(map(str.isalpha, text)):
        return "UNREACHABLE_SPECIAL"
    if "\N{REPLACEMENT CHARACTER}" in text:
        return "UNDECODEABLE"
    return "UNREACHABLE_SINGLE_TOKEN" if len(tokens) == 1 else "UNREACHABLE_MULTI_TOKEN"


def _round_trips(
    backend: Any, ids: Sequence[int], before: Before
) -> Iterator[tuple[int, str | None, list[int] | None]]:
    """Each id with its text and what this is encoded to; None if the prefix cannot be separated from it again."""
    for start in range(0, len(ids), _AT_ONCE):
        part = ids[start : start + _AT_ONCE]
        texts = [_after(text, before) for text in _decoded(backend, [[*before.ids, i] for i in part])]
        encoded = _encoded(backend, [before.text + (text or "") for text in texts])
        for i, text, tokens in zip(part, texts, encoded, strict=True):
            kept = tokens[: len(before.ids)] == before.ids
            yield i, text, tokens[len(before.ids) :] if kept else None


def _after(text: str, before: Before) -> str | None:
    """The text of a token that was decoded after others; some decoders put a space before all."""
    if not before.text:
        return text
    text = text.removeprefix(" ")
    return text.removeprefix(before.text) if text.startswith(before.text) else None


def _decoded(backend: Any, sequences: list[list[int]]) -> list[str]:
    return list(backend.decode_batch(sequences, skip_special_tokens=False))


def _encoded(backend: Any, texts: list[str]) -> list[list[int]]:
    return [each.ids for each in backend.encode_batch_fast(texts, add_special_tokens=False)]


def _before_all(backend: Any, pieces: Sequence[str]) -> list[Before]:
    """The prefix for tokens: none, unless the tokenizer adds or removes a space at the beginning of a text."""
    first = _encoded(backend, ["test"])[0][:1]
    added = bool(first) and (backend.id_to_token(first[0]) or "-")[0] in _SPACES
    marked = next((i for i, piece in enumerate(pieces) if piece and piece[0] == "▁" and piece.strip("▁")), None)
    if not added and (marked is None or _decoded(backend, [[marked]])[0].startswith(" ")):
        return []
    if found := _usable(backend, _QUOTES):
        return found
    single = dict.fromkeys(bare for piece in pieces if piece and len(bare := piece.lstrip("▁Ġ")) == 1)
    if found := _usable(backend, sorted(single, key=str.isalnum)[:_TRIES]):
        return found
    raise ValueError("it puts spaces before texts, and no token of one character can stand before another")


def _before_continuing(backend: Any, pieces: Sequence[str]) -> list[Before]:
    """Prefixes for pieces that continue a word: letters, those with which fewest pieces begin first."""
    begun: dict[str, int] = {}
    for piece in filter(None, pieces):
        begun[piece[0]] = begun.get(piece[0], 0) + 1
    letters = [piece for piece in pieces if piece and len(piece) == 1 and piece.isalpha()]
    return _usable(backend, sorted(letters, key=lambda letter: begun[letter])[:_TRIES])


def _usable(backend: Any, texts: Iterable[str]) -> list[Before]:
    """Of some texts the first that are one token each, which gives the text back."""
    listed = list(texts)
    tried = zip(listed, _encoded(backend, listed), strict=True)
    found = [Before(ids, text) for text, ids in tried if len(ids) == 1 and backend.decode(ids).strip() == text]
    return found[:_BEFORE]


def _continuing_mark(backend: Any) -> str:
    """What the pieces that continue a word begin with, in WordPiece; else ""."""
    if type(backend.model).__name__ != "WordPiece":
        return ""
    return str(getattr(backend.model, "continuing_subword_prefix", "") or "")
