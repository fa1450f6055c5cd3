"""Find which token each row of a matrix is, for checkpoints whose row i is not token i."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embgeom_dask.checkpoints.safetensors import Listing
from embgeom_dask.errors import InputError
from embgeom_dask.storage.fill import RowSource

Tokens = NDArray[np.int64]

_OFFSETS, _MASK, _ROWS = ("d2t", "draft_id_to_target_id"), ("t2d",), ("mapping",)
_TRAINED = re.compile(r"trainable_tokens_delta")
_NO_TOKENS = re.compile(r"lora_|HashBucket")  # the rows are ranks, or buckets of many characters
_MOST_IDS = 1 << 24


def row_tokens(
    listing: Listing, name: str, matrix: RowSource, config: Mapping[str, Any]
) -> tuple[Tokens | None, str | None]:
    """Find which token each row of a matrix is.

    Row i is token i, except in these checkpoints. A draft head with `d2t`: row i is token i + d2t[i], and `t2d`, if
    present, marks these tokens. A static vocabulary with `mapping`: token i has row mapping[i]. An adapter that trained
    some tokens: its config lists them. A translator with a vocabulary for each side, or a matrix of a part of the
    vocabulary: no row has a token.

    Parameters
    ----------
    listing : Listing
        The tensors of the checkpoint.
    name : str
        The name of the matrix in the store.
    matrix : RowSource
        The matrix, of V rows.
    config : mapping
        The config of the checkpoint.

    Returns
    -------
    tokens : numpy.ndarray of int64, (V,), optional
        The token id of each row, -1 for none; None if row i is token i.
    warning : str, optional
        What the user should know.
    """
    rows = matrix.shape[0]
    if _NO_TOKENS.search(matrix.tensor):
        return _none(rows), f"the rows of {matrix.tensor} are no tokens: none has a label"
    if _TRAINED.search(matrix.tensor):
        return _trained(matrix, config)
    if _of_other_side(name, config):
        return _none(rows), f"the tokens of the {name} are not those that the tokenizer lists: none has a label"
    draft = _draft(listing, name, rows, config)
    if draft is not None:
        return draft
    if (rows_of_tokens := _vector(listing, _ROWS)) is not None:
        return _shared(rows_of_tokens, rows)
    if rows == config.get("vocabulary_quantization"):
        return _none(rows), f"no mapping says which tokens share the {rows} rows: none has a label"
    return None, None


def _none(rows: int) -> Tokens:
    return np.full(rows, -1, np.int64)


def _draft(
    listing: Listing, name: str, rows: int, config: Mapping[str, Any]
) -> tuple[Tokens | None, str | None] | None:
    """Find the tokens of a head for a part of the vocabulary; None if the matrix is not such a head."""
    if name != "output_embedding":
        return None
    offsets, mask = _vector(listing, _OFFSETS), _vector(listing, _MASK)
    if offsets is not None and offsets.size == rows:
        tokens = np.arange(rows) + offsets
        known = _MOST_IDS if mask is None else mask.size
        distinct = np.unique(tokens)
        if (
            distinct.size < rows
            or distinct[0] < 0
            or distinct[-1] >= known
            or (mask is not None and not mask[tokens].all())
        ):
            return _none(rows), "d2t does not say which token each row of the draft head is: none has a label"
        return tokens, None
    text = config.get("text_config")
    size = (text if isinstance(text, dict) else config).get("vocab_size")
    part = listing.source.is_dir() or rows == config.get("draft_vocab_size")  # a file may hold any rows
    if part and isinstance(size, int) and rows < size:
        return _none(rows), f"the output embedding has {rows} of {size} tokens, nothing says which: none has a label"
    return None


def _of_other_side(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a matrix has the vocabulary of a translator's other side, which its tokenizer does not list."""
    if config.get("model_type") == "encoder-decoder":  # two models; the tokenizer may be that of either
        sizes = [side.get("vocab_size") for side in map(config.get, ("encoder", "decoder")) if isinstance(side, dict)]
        return len(set(sizes)) > 1
    if name == "output_embedding":
        return config.get("share_encoder_decoder_embeddings") is False  # Marian's tokenizer lists the source's
    return config.get("src_vocab_size") != config.get("tgt_vocab_size")  # FSMT's tokenizer lists the target's


def _shared(row_of: Tokens, rows: int) -> tuple[Tokens | None, str | None]:
    """Find the tokens of rows that tokens share: the token of a row is the first of those that share it."""
    if not row_of.size or row_of.min() < 0 or row_of.max() >= rows or row_of.size > _MOST_IDS:
        return _none(rows), f"mapping names rows that are not among the {rows} there are: none has a label"
    tokens = _none(rows)
    tokens[row_of[::-1]] = np.arange(row_of.size)[::-1]
    shared = np.count_nonzero(np.bincount(row_of) > 1)
    return (
        tokens,
        f"{shared} of {rows} rows stand for several tokens each, and have the first one's label" if shared else None,
    )


def _trained(matrix: RowSource, config: Mapping[str, Any]) -> tuple[Tokens | None, str | None]:
    """Find the tokens of an adapter's rows: `trainable_token_indices`, one list for all layers or one a layer."""
    given = config.get("trainable_token_indices")
    if isinstance(given, dict):
        given = next((ids for layer, ids in given.items() if f".{layer}." in f".{matrix.tensor}."), None)
    rows = matrix.shape[0]
    if (
        not isinstance(given, list)
        or len(given) != rows
        or not all(type(i) is int and 0 <= i < _MOST_IDS for i in given)
    ):
        return _none(
            rows
        ), f"no adapter_config.json says which tokens the rows of {matrix.tensor} are: none has a label"
    return np.array(given, np.int64), None


def _vector(listing: Listing, names: tuple[str, ...]) -> Tokens | None:
    """Return the integer vector whose tensor has one of these names as the last part of its path; None if none has."""
    for name in listing:
        if name.rpartition(".")[2] in names:
            try:
                return listing.integers(name)
            except InputError:  # not a vector of integers, or in a missing file
                continue
    return None
