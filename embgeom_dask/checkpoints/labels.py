"""Token labels: what the tokenizer of a checkpoint calls each row of its embeddings."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import xarray as xr

from embgeom_dask.checkpoints.quiet import quiet
from embgeom_dask.errors import EmbgeomWarning
from embgeom_dask.stores import make_labels

VOCABULARIES = ("tokenizer.json", "vocab.*", "*vocab*.json", "*.model", "*.spm", "*.tiktoken", "tekken.json")


def token_labels(directory: Path, rows: int) -> xr.Dataset | None:
    """Return token, text and has_token over token_id for `rows` rows, or None where the folder has no tokenizer.

    `token` is the raw piece, `text` what it decodes to (with the leading space that SentencePiece decoders strip);
    rows that the tokenizer has no token for have empty strings. A tokenizer that cannot be loaded is warned of.
    """
    if not any(True for pattern in VOCABULARIES for _ in directory.glob(pattern)):
        return None
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises what it likes for files that it does not understand
        reason = " ".join(str(error).split())[:200]
        message = f"no token labels, the tokenizer of {directory} cannot be loaded: {reason}"
        warnings.warn(message, EmbgeomWarning, stacklevel=3)  # where convert was called
        return None
    pieces = _pieces(tokenizer, rows)
    known = [i for i, piece in enumerate(pieces) if piece is not None]
    text = [""] * rows
    for i, decoded in zip(known, _texts(tokenizer, pieces, known), strict=True):
        text[i] = _clean(decoded)
    return make_labels([_clean(piece or "") for piece in pieces], text, [piece is not None for piece in pieces])


def _pieces(tokenizer: Any, rows: int) -> list[str | None]:
    pieces: list[str | None] = [None] * rows
    for piece, token_id in tokenizer.get_vocab().items():
        if 0 <= token_id < rows:
            pieces[token_id] = piece
    return pieces


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


def _clean(string: str) -> str:
    """Return a string that UTF-8 can hold: a lone surrogate becomes `?`."""
    return string.encode("utf-8", "replace").decode()
