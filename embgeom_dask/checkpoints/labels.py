"""Token labels: what the tokenizer of a checkpoint calls each row of its embeddings."""

from __future__ import annotations

import codecs
import gc
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import xarray as xr

from embgeom_dask.checkpoints.files import Folder
from embgeom_dask.checkpoints.quiet import quiet
from embgeom_dask.errors import EmbgeomWarning
from embgeom_dask.stores import make_labels

VOCABULARIES = ("tokenizer.json", "vocab.*", "*vocab*.json", "*.model", "*.spm", "*.tiktoken", "tekken.json")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the garbage collector, which would walk the hundreds of thousands of objects of a vocabulary many times."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def token_labels(folder: Folder, rows: int) -> tuple[xr.Dataset | None, str]:
    """Return labels over token_id for `rows` rows, None where there is no tokenizer, and what it is or why it is none.

    `token` is the raw piece, `text` what it decodes to (with the leading space that SentencePiece decoders strip),
    `bytes` the bytes of the piece in hexadecimal where it is made of bytes, `is_added` and `is_special` say which
    pieces were added to the vocabulary and which of them are special. Rows that the tokenizer has no token for have
    empty strings. A tokenizer that cannot be loaded, or only by code of its own, is warned of.
    """
    if not any(True for pattern in VOCABULARIES for _ in folder.path.glob(pattern)):
        return None, "none: the checkpoint has no tokenizer"
    from transformers import AutoTokenizer

    try:
        with quiet(), _uncollected():
            tokenizer = AutoTokenizer.from_pretrained(folder.path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises what it likes for files that it does not understand
        reason = "it needs code of its own, which is not run"
        if "trust_remote_code" not in str(error):
            reason = "it cannot be loaded: " + " ".join(str(error).split())[:200]
        message = f"no token labels from the tokenizer of {folder.name}: {reason}"
        warnings.warn(message, EmbgeomWarning, stacklevel=3)  # where convert was called
        return None, f"none: {reason}"
    return _labels(tokenizer, rows), type(tokenizer).__name__


@_uncollected()
def _labels(tokenizer: Any, rows: int) -> xr.Dataset:
    pieces = _pieces(tokenizer, rows)
    known = [i for i, piece in enumerate(pieces) if piece is not None]
    text = [""] * rows
    for i, decoded in zip(known, _texts(tokenizer, pieces, known), strict=True):
        text[i] = decoded
    added = tokenizer.added_tokens_decoder
    special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
    return make_labels(
        _clean([piece or "" for piece in pieces]),
        _clean(text),
        [piece is not None for piece in pieces],
        bytes=_bytes(tokenizer, pieces, set(added)),
        is_added=[i in added for i in range(rows)],
        is_special=[i in special for i in range(rows)],
    )


def _pieces(tokenizer: Any, rows: int) -> list[str | None]:
    pieces: list[str | None] = [None] * rows
    for piece, token_id in tokenizer.get_vocab().items():
        if 0 <= token_id < rows:
            pieces[token_id] = piece
    return pieces


def _bytes(tokenizer: Any, pieces: list[str | None], added: set[int]) -> list[str]:
    """The bytes, in hexadecimal, of byte-level pieces (GPT-2's alphabet) and of `<0x..>`; "" for the others."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    byte_level = "ByteLevel" in repr(backend.decoder if backend is not None else "")
    alphabet = codecs.charmap_build("".join(_alphabet()))

    def convert(i: int, piece: str) -> str:
        if found := _BYTE.fullmatch(piece):
            return found[1].lower()
        if not byte_level or i in added:
            return ""
        try:
            return codecs.charmap_encode(piece, "strict", alphabet)[0].hex()
        except UnicodeEncodeError:
            return ""

    return [convert(i, piece) if piece else "" for i, piece in enumerate(pieces)]


def _alphabet() -> list[str]:
    """The 256 characters that byte-level tokenizers write bytes as: the printable ones of Latin-1, then U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _texts(tokenizer: Any, pieces: list[str | None], ids: list[int]) -> list[str]:
    """Decode each id alone; where the decoder strips a leading space, after the token `A`, which is dropped again."""
    backend = getattr(tokenizer, "backend_tokenizer", None)

    def decode(sequences: list[list[int]]) -> list[str]:
        if backend is not None:
            return list(backend.decode_batch(sequences, skip_special_tokens=False))
        return list(tokenizer.batch_decode(sequences, clean_up_tokenization_spaces=False))

    anchor = next((i for i in ids if pieces[i] == "A"), None)
    spaced = next((i for i in ids if (pieces[i] or "").startswith("▁") and (pieces[i] or "").strip("▁")), None)
    if anchor is None or spaced is None or decode([[spaced]])[0].startswith(" "):
        return decode([[i] for i in ids])
    return [text.removeprefix("A") for text in decode([[anchor, i] for i in ids])]


def _clean(strings: list[str]) -> list[str]:
    """Return strings that UTF-8 can hold: a lone surrogate becomes `?`."""
    try:
        "".join(strings).encode()
    except UnicodeEncodeError:
        return [string.encode("utf-8", "replace").decode() for string in strings]
    return strings
