"""Token labels, compared with transformers' own tokenizers."""

from __future__ import annotations

import gc
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
import xarray as xr
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from embgeom_dask import duplicates, escaping, scan
from embgeom_dask.checkpoints import convert, tokenizer_labels
from embgeom_dask.checkpoints.files import LocalFolder
from embgeom_dask.checkpoints.numbering import row_tokens
from embgeom_dask.checkpoints.safetensors import list_folder
from embgeom_dask.errors import EmbgeomWarning
from embgeom_dask.storage import model_stores
from embgeom_dask.testing import ArrayRows, make_checkpoint
from tests.checkpoints.test_convert import LLAMA, random

# Their checkpoints are no whole models; what is said of labels is asserted.
pytestmark = pytest.mark.filterwarnings("ignore::embgeom_dask.errors.EmbgeomWarning")

TEXT = "The king A said: naïve café, “déjà vu” — 漢字 and кот! It's 1,234.5 (don't) <b>\n\tA B  C\n" * 3
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
    return tokenizer


def sentencepiece() -> Tokenizer:
    """As that of Llama 2 was converted."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = [TEXT[i : i + 12] for i in range(0, len(TEXT), 12)]
    tokenizer.train_from_iterator(words, trainers.BpeTrainer(vocab_size=340, special_tokens=pieces))
    config = json.loads(tokenizer.to_str())
    config["added_tokens"] = config["added_tokens"][:1]  # pieces of the vocabulary, as they are there
    return Tokenizer.from_str(json.dumps(config))


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator([TEXT], trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIAL))
    return tokenizer


@pytest.mark.parametrize("make", [byte_level, sentencepiece, wordpiece])
def test_labels_are_what_transformers_says(tmp_path: Path, make: Callable[[], Tokenizer]) -> None:
    made = make()
    made.add_special_tokens(["<|end|>"])
    made.add_tokens([AddedToken("<tool>", normalized=False)])
    write_tokenizer(tmp_path, made)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    size, rows = len(tokenizer), len(tokenizer) + 7
    found = tokenizer_labels.token_labels(tokenizer_labels.load_tokenizer(tmp_path)[0], rows)
    assert found.has_token.values.tolist() == [True] * size + [False] * 7
    assert found.token.values.tolist() == tokenizer.convert_ids_to_tokens(range(size)) + [""] * 7  # type: ignore[call-overload]

    def decode(*ids: int) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    a = tokenizer.convert_tokens_to_ids("A")
    alone = [decode(a, i)[1:] if make is sentencepiece else decode(i) for i in range(size)]
    assert found.text.values.tolist() == alone + [""] * 7
    special = {sentencepiece: ["<unk>"], wordpiece: SPECIAL}.get(make, [])
    assert found.token.values[found.is_special.values].tolist() == [*special, "<|end|>"]
    assert found.is_added.values.tolist() == [i in tokenizer.added_tokens_decoder for i in range(rows)]
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    if make is byte_level:
        assert bytes.fromhex("".join(found.bytes.values[ids])).decode() == TEXT
    elif make is sentencepiece:
        parts = zip(found.text[ids].values, found.bytes[ids].values, strict=True)
        raw = (bytes.fromhex(data) if data else text.encode() for text, data in parts)
        assert b"".join(raw).decode() == " " + TEXT
    else:
        assert not found.bytes.values.any()
    assert gc.isenabled()


def write_tokenizer(folder: str | Path, tokenizer: Tokenizer) -> None:
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def test_pieces_made_of_bytes_keep_them_and_added_pieces_are_flagged(tmp_path: Path) -> None:
    vocabulary = {"a": 0, "Ġthe": 1, "â": 2, "Ċ": 3, "<0xE2>": 4, "漢": 5}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.add_tokens(["plain"])
    source = make_checkpoint(tmp_path / "m", {"model.embed_tokens.weight": random(10, 8)}, LLAMA)
    write_tokenizer(source, tokenizer)
    store = convert.convert(source, tmp_path)
    model = model_stores.open_model(store)
    assert model.attrs["tokenizer"] == "TokenizersBackend"
    # 漢 is no letter of the byte-level alphabet, and the added pieces are text
    assert model.bytes.values.tolist() == ["61", b" the".hex(), "e2", b"\n".hex(), "e2", "", "", "", "", ""]
    assert bytes.fromhex(str(model.bytes.values[2])).decode(errors="replace") == model.text.values[2]
    assert model.is_added.values.tolist() == [False] * 6 + [True] * 2 + [False] * 2
    assert model.is_special.values.tolist() == [False] * 6 + [True] + [False] * 3
    assert model.has_token.values.tolist() == [True] * 8 + [False] * 2


def test_byte_level_alphabet_is_that_of_the_tokenizers() -> None:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    assert dict(enumerate(escaping.ALPHABET)) == bytes_to_unicode()


def test_a_tokenizer_that_needs_code_is_left_alone_and_the_store_says_so(tmp_path: Path) -> None:
    source = Path(make_checkpoint(tmp_path / "m", {"model.embed_tokens.weight": random(20, 8)}, LLAMA))
    config = {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", None]}}
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    (source / "vocab.txt").write_text("a\nb\n")
    (source / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.warns(EmbgeomWarning, match="it needs code of its own, which is not run"):
        store = convert.convert(source, tmp_path / "stores")
    model = model_stores.open_model(store)
    assert model.attrs["tokenizer"] == "none: it needs code of its own, which is not run"
    assert not model.has_token.values.any()
    assert not (tmp_path / "ran").exists()


def labelled(tmp_path: Path, tokenizer: Tokenizer, rows: int) -> list[tuple[str, str, bool]]:
    source = make_checkpoint(tmp_path / "m", {"model.embed_tokens.weight": random(rows, 8)}, LLAMA)
    write_tokenizer(source, tokenizer)
    found = model_stores.labels(convert.convert(source, tmp_path / "stores"))
    return list(
        zip(found.token.values.tolist(), found.text.values.tolist(), found.has_token.values.tolist(), strict=True)
    )


def test_tokens_of_a_padded_vocabulary_are_selected_by_a_list(tmp_path: Path) -> None:
    """Pandas selects by a list only where labels differ, those of rows without a token too."""
    source = make_checkpoint(tmp_path / "m", {"model.embed_tokens.weight": random(12, 8)}, LLAMA)
    words(source, 8)
    store = convert.convert(source, tmp_path / "stores")
    wanted = ["w5", "w2", "[PAD9]"]
    matrix = model_stores.open_model(store).input_embedding.set_xindex("token")
    assert matrix.sel(token=wanted).token_id.values.tolist() == [5, 2, 9]
    found = scan(store, neighbors=3).set_xindex("token").sel(token=wanted)
    assert found.token_id.values.tolist() == [5, 2, 9]
    stored = xr.open_zarr(store).input_embedding.set_xindex("token")
    assert stored.sel(token=wanted).token_id.values.tolist() == [5, 2, 9]
    part = scan(matrix[4:].drop_indexes("token"), neighbors=3).set_xindex("token")
    assert part.sel(token=["w5", "[PAD9]"]).token_id.values.tolist() == [5, 9]


def test_sentencepiece_pieces_keep_their_leading_space(tmp_path: Path) -> None:
    pieces = ["<unk>", "A", "▁the", "the", "▁", "<0xE2>", "▁▁", "A▁B"]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    found = labelled(tmp_path, tokenizer, 10)
    texts = ["<unk>", "A", " the", "the", " ", "\ufffd", "  ", "A B"]
    assert found == [
        *((piece, text, True) for piece, text in zip(pieces, texts, strict=True)),
        *((f"[PAD{i}]", "", False) for i in (8, 9)),
    ]


@pytest.mark.parametrize(
    "pieces", [["<unk>", "▁the", "the", "▁", "<0xE2>", "▁▁"], ["<unk>", "<0xE2>", "▁", "▁the", "▁"]]
)
@pytest.mark.parametrize("decoder", ["strip", "metaspace"])
def test_the_leading_space_needs_no_piece_in_particular(pieces: list[str], decoder: str) -> None:
    """A Unigram model may have a piece twice: both of its ids are labelled."""
    tokenizer = Tokenizer(models.Unigram([(piece, 0.0) for piece in pieces], 0, byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Metaspace() if decoder == "metaspace" else decoders.Sequence(steps)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    found = tokenizer_labels.token_labels(fast, len(pieces) + 1)
    byte = {"<0xE2>": "<0xE2>" if decoder == "metaspace" else "\ufffd"}
    assert found.text.values.tolist() == [*(byte.get(piece, piece.replace("▁", " ")) for piece in pieces), ""]
    assert found.token.values.tolist() == [*pieces, ""]
    assert found.has_token.values.tolist() == [True] * len(pieces) + [False]


def test_a_decoder_that_strips_every_piece_loses_no_space() -> None:
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(["A", "▁the", "▁", "b"])}, "A"))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert tokenizer_labels.token_labels(fast, 4).text.values.tolist() == ["A", " the", " ", "b"]


@pytest.mark.parametrize("kind", ["ByT5", "Perceiver", "Canine"])
def test_a_tokenizer_that_is_all_code_of_transformers_labels_too(tmp_path: Path, kind: str) -> None:
    made = getattr(transformers, f"{kind}Tokenizer")()
    made.save_pretrained(tmp_path)
    tokenizer, name = tokenizer_labels.load_tokenizer(tmp_path)
    assert name == f"{kind}Tokenizer"
    found = tokenizer_labels.token_labels(tokenizer, 270)
    size = 262 if kind == "Perceiver" else 270
    assert found.token.values.tolist() == made.convert_ids_to_tokens(range(size)) + [""] * (270 - size)
    ids = np.array(made("é a", add_special_tokens=False).input_ids)
    assert "".join(found.text.values[ids[-2:]]) == " a"
    assert found.bytes.values[ids].tolist() == ([""] * 3 if kind == "Canine" else ["c3", "a9", "20", "61"])
    assert kind == "Canine" or found.text.values[ids[0]] == "\ufffd"


def test_a_tokenizer_whose_vocabulary_is_missing_gives_no_labels(tmp_path: Path) -> None:
    """Transformers makes one of the special tokens alone."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    assert tokenizer_labels.load_tokenizer(tmp_path) == (None, "none: the checkpoint has no tokenizer")


PIECES = ["<unk>", "<s>", "</s>", "▁the", "▁", "t"]


def write_sentencepiece(path: Path) -> None:
    """Write a model of `PIECES` in the format of sentencepiece (protobuf: field number and kind, length, bytes)."""

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    kinds = [2, 3, 3, 1, 1, 1]  # unknown, control, control, normal
    scored = (field(1, piece.encode()) + b"\x15" + struct.pack("<f", -i) for i, piece in enumerate(PIECES))
    pieces = b"".join(field(1, piece + bytes([0x18, kind])) for piece, kind in zip(scored, kinds, strict=True))
    path.write_bytes(pieces + field(2, b"\x18\x01") + field(3, field(1, b"identity")))


def test_a_sentencepiece_model_labels_alone(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    write_sentencepiece(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    found = tokenizer_labels.token_labels(tokenizer_labels.load_tokenizer(tmp_path)[0], 7)
    assert found.token.values.tolist() == [*PIECES, ""]
    assert found.text.values.tolist() == [*PIECES[:3], " the", " ", "t", ""]


def test_what_is_missing_to_read_a_sentencepiece_model_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.utils.import_utils, "is_sentencepiece_available", lambda: False)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail)
    write_sentencepiece(tmp_path / "tokenizer.model")
    tokenizer, reason = tokenizer_labels.load_tokenizer(tmp_path)
    assert tokenizer is None
    assert "embgeom-dask[sentencepiece]" in reason
    assert "tiktoken" not in reason
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")  # a file of tiktoken, of the same name
    assert "pip install tiktoken" in tokenizer_labels.load_tokenizer(tmp_path)[1]


def fail(*_: object, **__: object) -> None:
    raise ValueError("`tiktoken` is required to read a `tiktoken` file. Install it with `pip install tiktoken`.")


def test_byte_level_pieces_and_rows_without_a_token(tmp_path: Path) -> None:
    vocabulary = {"a": 0, "Ġthe": 1, "â": 2, "Ċ": 3, "A": 9}  # holes, and a piece past the rows
    tokenizer = Tokenizer(models.BPE(vocab={**vocabulary, "past": 30}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    found = labelled(tmp_path, tokenizer, 12)
    texts = {0: "a", 1: " the", 2: "\ufffd", 3: "\n", 6: "<|end|>", 9: "A"}
    names = {i: piece for piece, i in [*vocabulary.items(), ("<|end|>", 6)]}
    assert found == [(names[i], texts[i], True) if i in texts else (f"[PAD{i}]", "", False) for i in range(12)]


def test_without_a_tokenizer_there_are_no_labels(tmp_path: Path) -> None:
    source = make_checkpoint(
        tmp_path / "m", {"embeddings.word_embeddings.weight": random(20, 8)}, {**LLAMA, "model_type": "bert"}
    )
    with pytest.warns(EmbgeomWarning, match="no row has a token: the checkpoint has no tokenizer"):
        assert not model_stores.labels(convert.convert(source, tmp_path)).has_token.values.any()
    (Path(source) / "tokenizer.json").write_text("{}")
    with pytest.warns(EmbgeomWarning, match=r"no row has a token: it cannot be loaded"):
        store = convert.convert(source, tmp_path, overwrite=True)
    assert not model_stores.labels(store).has_token.values.any()


def words(folder: str | Path, size: int) -> None:
    """Write a tokenizer of the tokens w0, w1, ... into a folder."""
    write_tokenizer(folder, Tokenizer(models.WordLevel({f"w{i}": i for i in range(size)}, unk_token="w0")))


DRAFT = {**LLAMA, "architectures": ["LlamaForCausalLMEagle3"], "vocab_size": 40, "draft_vocab_size": 8}
TARGETS = np.array([0, 3, 4, 10, 11, 25, 38, 39])


def draft_head(folder: Path, **vectors: np.ndarray) -> str:
    """Write a draft model whose head has 8 of 40 tokens, and the vectors that say which."""
    tensors = {"embed_tokens.weight": random(40, 8), "lm_head.weight": random(8, 8, seed=1), **vectors}
    source = make_checkpoint(folder, tensors, DRAFT)
    words(source, 40)
    return source


@pytest.mark.parametrize("pickled", [False, True])
def test_rows_of_a_draft_head_have_the_tokens_that_d2t_says(tmp_path: Path, pickled: bool) -> None:
    mask = np.isin(np.arange(40), TARGETS)
    source = Path(draft_head(tmp_path / "m", d2t=TARGETS - np.arange(8), t2d=mask))
    if pickled:
        file = source / "model.safetensors"
        torch.save(safetensors.torch.load_file(file), source / "pytorch_model.bin")
        file.unlink()
    wanted = [f"w{i}" for i in TARGETS]
    store = convert.convert(source, tmp_path / "stores")
    model = model_stores.open_model(store)
    assert model.output_embedding.token_output.values.tolist() == wanted
    assert model.output_embedding.token_id_output.values.tolist() == list(range(8))
    assert model.input_embedding.token.values.tolist() == [f"w{i}" for i in range(40)]
    nearest = scan(store, nearest=1)
    assert nearest.nearest_token.values.tolist() == [[wanted[i] for i in nearest.nearest_token_id.values[0]]]
    across = scan(model.input_embedding, against=f"{store}:output", nearest=1)
    first, second = across.nearest_token_id.values[0]
    assert across.nearest_token.values.tolist() == [[f"w{first}", wanted[second]]]
    assert duplicates(make_twins(tmp_path / "twins", source)).member_token.values.tolist() == ["w3", "w39"]
    alone = convert.convert(source, tmp_path / "alone", role="output")
    assert model_stores.labels(alone).token.values.tolist() == wanted


def make_twins(folder: Path, source: Path) -> str:
    """Convert a draft model of which rows 1 and 7 of the head are the same."""
    head = random(8, 8, seed=1)
    head[7] = head[1]
    tensors = {"lm_head.weight": head, "d2t": TARGETS - np.arange(8)}
    made = make_checkpoint(folder, tensors, DRAFT)
    words(made, 40)
    return convert.convert(made, folder / "stores", role="output", output_key="lm_head.weight")


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ({}, "has 8 of 40 tokens, nothing says which"),
        ({"d2t": np.arange(8) * 6}, "d2t does not say"),  # past the last token of the mask
        ({"d2t": -np.arange(8)}, "d2t does not say"),  # every row is token 0
        ({"d2t": np.zeros(8, np.int64)}, "d2t does not say"),  # not those of the mask
    ],
)
def test_a_draft_head_of_unknown_tokens_has_no_labels(
    tmp_path: Path, vectors: dict[str, np.ndarray], said: str
) -> None:
    mask = {"t2d": np.isin(np.arange(40), TARGETS)} if vectors else {}
    with pytest.warns(EmbgeomWarning, match=f"{said}.*: none has a label"):
        store = convert.convert(draft_head(tmp_path / "m", **vectors, **mask), tmp_path / "stores")
    model = model_stores.open_model(store)
    assert not model.has_token_output.values.any()
    assert model.token_output.values.tolist() == [""] * 8
    assert model.has_token.values.all()


def test_rows_of_a_static_vocabulary_have_the_tokens_that_mapping_says(tmp_path: Path) -> None:
    """Token i has row mapping[i]; a row that several share is labelled with the first of them, and that is said."""
    mapping = np.array([4, 0, 3, 0, 1, 3])
    source = make_checkpoint(
        tmp_path / "m", {"embeddings": random(5, 8), "mapping": mapping}, {"model_type": "model2vec"}
    )
    words(source, 6)
    with pytest.warns(EmbgeomWarning, match="2 of 5 rows stand for several tokens each"):
        store = convert.convert(source, tmp_path / "stores")
    found = model_stores.labels(store)
    assert found.token.values.tolist() == ["w1", "w4", "[PAD2]", "w2", "w0"]
    assert found.has_token.values.tolist() == [True, True, False, True, True]
    quantised = {"model_type": "model2vec", "vocabulary_quantization": 5}
    source = make_checkpoint(tmp_path / "n", {"embeddings": random(5, 8)}, quantised)
    words(source, 6)
    with pytest.warns(EmbgeomWarning, match="no mapping says which tokens share the 5 rows"):
        assert not model_stores.labels(convert.convert(source, tmp_path / "stores")).has_token.values.any()


def test_rows_of_trained_tokens_and_of_ranks(tmp_path: Path) -> None:
    trained = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    tensors = {trained: random(3, 8), "lora_embedding_A": random(3, 8)}
    source = Path(make_checkpoint(tmp_path / "m", tensors))
    words(source, 9)
    (source / "adapter_config.json").write_text(json.dumps({"trainable_token_indices": {"embed_tokens": [7, 2, 5]}}))
    store = convert.convert(source, tmp_path / "stores", input_key=trained, role="input")
    assert model_stores.labels(store).token.values.tolist() == ["w7", "w2", "w5"]
    with pytest.warns(EmbgeomWarning, match="are no tokens"):
        store = convert.convert(source, tmp_path / "ranks", input_key="lora_embedding_A", role="input")
    assert not model_stores.labels(store).has_token.values.any()


def test_tokens_that_a_matrix_has_no_row_for_are_counted(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "m", {"model.embed_tokens.weight": random(20, 8)}, LLAMA)
    words(source, 33)
    with pytest.warns(EmbgeomWarning, match="13 tokens of the tokenizer without a row"):
        store = convert.convert(source, tmp_path / "stores", role="input")
    assert model_stores.labels(store).token.values.tolist() == [f"w{i}" for i in range(20)]


def test_a_translator_with_two_vocabularies_is_labelled_on_the_side_that_its_tokenizer_lists(tmp_path: Path) -> None:
    matrix = np.zeros((9, 2), np.float32)
    source = LocalFolder(Path(make_checkpoint(tmp_path / "m", {"a": matrix})), "m", "")
    listing, two = list_folder(source), {"model_type": "encoder-decoder"}
    for config, apart in [
        ({"share_encoder_decoder_embeddings": False}, "output_embedding"),
        ({"src_vocab_size": 9, "tgt_vocab_size": 12}, "input_embedding"),
        ({"src_vocab_size": 9, "tgt_vocab_size": 9}, ""),
        ({**two, "encoder": {"vocab_size": 9}, "decoder": {"vocab_size": 9}}, ""),
        ({**two, "encoder": {"vocab_size": 9}, "decoder": {"vocab_size": 8}}, "input_embedding output_embedding"),
    ]:
        for name in ("input_embedding", "output_embedding"):
            tokens, said = row_tokens(listing, name, ArrayRows(matrix, "a"), config)
            assert (tokens is None, said is None) == (name not in apart, name not in apart)
            assert tokens is None or (tokens == -1).all()
