"""Load the tokenizer of a checkpoint and write down its tokens, one a token id."""

from __future__ import annotations

import codecs
import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr

from embgeom_dask import private_apis
from embgeom_dask.checkpoints.files import check_entries
from embgeom_dask.checkpoints.quiet import quiet
from embgeom_dask.checkpoints.small_files import without_marks
from embgeom_dask.escaping import ALPHABET
from embgeom_dask.storage.model_stores import make_labels

VOCABULARIES = ("tokenizer.json", "vocab.*", "*vocab*.json", "*.model", "*.spm", "*.tiktoken", "tekken.json")
NO_TOKENIZER = "none: the checkpoint has no tokenizer"

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_LATIN = ("ByT5Tokenizer", "PerceiverTokenizer")  # each piece is one byte, written as its Latin-1 character
_ANCHORS = 64  # tokens that `_anchor` tries
_SENTENCEPIECE = "pip install 'embgeom-dask[sentencepiece]' brings sentencepiece and protobuf, which read it"


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the garbage collector: it would walk the hundreds of thousands of objects of a vocabulary many times."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def has_vocabulary(path: Path) -> bool:
    """Whether a folder has a vocabulary file of a tokenizer."""
    return any(True for pattern in VOCABULARIES for _ in path.glob(pattern))


def load_tokenizer(path: Path) -> tuple[Any, str]:
    """Load the tokenizer of a folder, without running code of the folder.

    ByT5, Canine and Perceiver are all code, in transformers itself, and need no vocabulary file. For any other class
    without such a file transformers makes an empty tokenizer, which counts as none.

    Returns
    -------
    tokenizer : transformers.PreTrainedTokenizerBase or None
    description : str
        The name of its class, or `none: ` and the reason.

    Raises
    ------
    InputError
        As `check_entries` does.
    """
    from transformers import AutoTokenizer

    check_entries(path)
    filed = has_vocabulary(path)
    if not filed and not any((path / file).exists() for file in ("tokenizer_config.json", "config.json")):
        return None, NO_TOKENIZER
    try:
        with quiet(), _uncollected(), without_marks(path) as folder:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # for files that it does not know, transformers raises any type
        if "trust_remote_code" in str(error):
            return None, "none: it needs code of its own, which is not run"
        if not filed:
            return None, NO_TOKENIZER
        if _needs_sentencepiece(path):
            return None, f"none: it is a SentencePiece model: {_SENTENCEPIECE}"
        return None, "none: it cannot be loaded: " + " ".join(str(error).split())[:200]
    if not filed and type(tokenizer).vocab_files_names:
        return None, NO_TOKENIZER
    return tokenizer, type(tokenizer).__name__


def _needs_sentencepiece(path: Path) -> bool:
    """Whether a folder has a SentencePiece model, and a package to read it is missing."""
    if not any(map(private_apis.lacks_package, ("sentencepiece", "protobuf"))):
        return False
    files = (file for pattern in ("*.model", "*.spm") for file in path.glob(pattern) if file.is_file())
    return any(_first_byte(file) == b"\n" for file in files)  # tiktoken, also `*.model`, begins with text


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1)


def count_past(tokenizer: Any, rows: int) -> int:
    """Return how many tokens of a tokenizer have ids of `rows` or more."""
    return len({token_id for token_id in tokenizer.get_vocab().values() if token_id >= rows})


@_uncollected()
def token_labels(tokenizer: Any, rows: int) -> xr.Dataset:
    """Return the labels of token ids 0 to `rows` - 1.

    Returns
    -------
    xarray.Dataset over `token_id`
        `token`: the raw piece. `text`: the decoded piece, with the leading space that SentencePiece decoders strip.
        `bytes`: the bytes of a byte-level piece, in hexadecimal, else "". `has_token`, `is_added`, `is_special` (bool):
        whether the id has a token, whether it was added to the vocabulary, whether it is special. Ids without a token
        have empty strings.
    """
    pieces = _pieces(tokenizer, rows)
    known = [i for i, piece in enumerate(pieces) if piece is not None]
    added = tokenizer.added_tokens_decoder
    special = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
    raw = _bytes(tokenizer, pieces, set(added))
    text = [""] * rows
    for i, decoded in zip(known, _texts(tokenizer, pieces, known, set(added)), strict=True):
        text[i] = decoded if decoded or not raw[i] else bytes.fromhex(raw[i]).decode(errors="replace")
    return make_labels(
        _clean([piece or "" for piece in pieces]),
        _clean(text),
        [piece is not None for piece in pieces],
        bytes=raw,
        is_added=[i in added for i in range(rows)],
        is_special=[i in special for i in range(rows)],
    )


def _pieces(tokenizer: Any, rows: int) -> list[str | None]:
    """Return the piece of each id. `get_vocab` has one id a piece, and a piece may have two: so ids are looked up."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return [backend.id_to_token(i) for i in range(rows)]
    pieces: list[str | None] = [None] * rows
    vocabulary = tokenizer.get_vocab()
    for piece, token_id in vocabulary.items():
        if 0 <= token_id < rows:
            pieces[token_id] = piece
    for i in range(min(rows, tokenizer.vocab_size)):
        if pieces[i] is None:
            duplicate_of = tokenizer.convert_ids_to_tokens(i)  # the unknown token where there is none
            pieces[i] = duplicate_of if duplicate_of in vocabulary and duplicate_of != tokenizer.unk_token else None
    return pieces


def _bytes(tokenizer: Any, pieces: list[str | None], added: set[int]) -> list[str]:
    """Return the bytes of byte-level pieces (GPT-2's, ByT5's) and of `<0x..>`, in hexadecimal; "" for the others."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    byte_level = "ByteLevel" in repr(backend.decoder if backend is not None else "")
    latin = type(tokenizer).__name__ in _LATIN
    alphabet = codecs.charmap_build("".join(map(chr, range(256)) if latin else ALPHABET))

    def convert(i: int, piece: str) -> str:
        if found := _BYTE.fullmatch(piece):
            return found[1].lower()
        if not (byte_level or latin) or i in added:
            return ""
        try:
            return codecs.charmap_encode(piece, "strict", alphabet)[0].hex()
        except UnicodeEncodeError:
            return ""

    return [convert(i, piece) if piece else "" for i, piece in enumerate(pieces)]


def _texts(tokenizer: Any, pieces: list[str | None], ids: list[int], added: set[int]) -> list[str]:
    """Decode each id alone; if the decoder strips the leading space, decode it after another token instead."""
    backend = getattr(tokenizer, "backend_tokenizer", None)

    def decode(sequences: list[list[int]]) -> list[str]:
        if backend is not None:
            return list(backend.decode_batch(sequences, skip_special_tokens=False))
        return list(tokenizer.batch_decode(sequences, clean_up_tokenization_spaces=False))

    texts = dict(zip(ids, decode([[i] for i in ids]), strict=True))
    if backend is None:  # tokenizers in Python put spaces around added tokens
        texts |= {i: str(pieces[i]) for i in ids if i in added}
    plain = [i for i in ids if backend is not None or i not in added]
    stripped = [i for i in plain if str(pieces[i]).startswith("▁") and not texts[i].startswith((" ", "▁"))]
    anchor = _anchor(decode, pieces, {i: texts[i] for i in plain if i not in added}, stripped) if stripped else None
    if anchor is not None:
        before = texts[anchor]
        after = zip(plain, decode([[anchor, i] for i in plain]), strict=True)
        texts |= {i: text.removeprefix(before) for i, text in after if text.startswith(before)}
    texts |= {i: str(pieces[i]).replace("▁", " ") for i in stripped if not texts[i].startswith(" ")}
    return list(texts.values())


def _anchor(
    decode: Callable[[list[list[int]]], list[str]], pieces: list[str | None], texts: dict[int, str], stripped: list[int]
) -> int | None:
    """Find a token after which the decoder keeps the leading space of the next one; None if there is none."""
    words = [i for i, text in texts.items() if text.strip() == text != "" and not _BYTE.fullmatch(str(pieces[i]))]
    words = sorted(words, key=lambda i: str(pieces[i]).startswith("▁"))[:_ANCHORS]
    probe = next((i for i in stripped if str(pieces[i]).strip("▁")), stripped[0])
    tried = zip(words, decode([[i, probe] for i in words]), strict=True)
    return next((i for i, text in tried if text.startswith(f"{texts[i]} ")), None)


def _clean(strings: list[str]) -> list[str]:
    """Replace lone surrogates, which UTF-8 cannot hold, by `?`."""
    try:
        "".join(strings).encode()
    except UnicodeEncodeError:
        return [string.encode("utf-8", "replace").decode() for string in strings]
    return strings
