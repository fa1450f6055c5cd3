"""Which tokens a tokenizer can write: each asked alone through transformers, and some that are planted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from distributed import Client
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import embgeom_dask as eg
from embgeom_dask.checkpoints import convert, reachability, tokenizer_labels
from embgeom_dask.errors import InputError
from embgeom_dask.progress import showing
from embgeom_dask.storage import model_stores, model_writing, validation
from embgeom_dask.testing import ArrayRows, make_checkpoint
from tests.checkpoints.test_convert import LLAMA, random
from tests.checkpoints.test_tokenizer_labels import byte_level, sentencepiece, wordpiece, write_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::embgeom_dask.errors.EmbgeomWarning")

OK, SINGLE, MULTI = "OK", "UNREACHABLE_SINGLE_TOKEN", "UNREACHABLE_MULTI_TOKEN"


def categorize(tokenizer: Any, i: int, before: str = "") -> str:
    """As magikarp does it, a token at a time; `before` is one token, into which the text may melt: then ""."""
    first = tokenizer.encode(before, add_special_tokens=False) if before else []
    text = tokenizer.decode([*first, i], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    text = text.removeprefix(before)
    tokens = tokenizer.encode(before + text, add_special_tokens=False)
    if tokens[: len(first)] != first:
        return ""
    if tokens[len(first) :] == [i]:
        return "OK_SPECIAL" if tokenizer.added_tokens_decoder.get(i) else OK
    if len(text) >= 3 and text[0] in "[<" and text[-1] in "]>" and any(c.isalpha() for c in text):
        return "UNREACHABLE_SPECIAL"
    return "UNDECODEABLE" if "\ufffd" in text else SINGLE if len(tokens) - len(first) == 1 else MULTI


def found(folder: Path, rows: int = 0) -> tuple[Any, dict[str, str]]:
    """The tokenizer of a folder, and the category of each piece."""
    tokenizer = tokenizer_labels.load_tokenizer(folder)[0]
    named = tokenizer_labels.token_labels(tokenizer, rows or max(tokenizer.get_vocab().values()) + 1)
    told, why = reachability.reachability(tokenizer, named)
    assert (why, set(told or ()) <= {*reachability.CATEGORIES, ""}) == ("", True)
    return tokenizer, dict(zip(named["token"].values.tolist(), told or (), strict=True))


@pytest.mark.parametrize(("make", "before"), [(byte_level, ""), (sentencepiece, "a"), (wordpiece, "")])
def test_categories_are_what_each_token_alone_gives(tmp_path: Path, make: Callable[[], Tokenizer], before: str) -> None:
    made = make()
    made.add_special_tokens(["<|end|>"])
    made.enable_padding(length=16)
    made.enable_truncation(1)
    write_tokenizer(tmp_path, made)
    ours = found(tmp_path)[1]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    pieces = {piece: i for piece, i in tokenizer.get_vocab().items() if not piece.startswith("##")}
    assert len(pieces) > 50
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    theirs = {piece: categorize(tokenizer, i, before) for piece, i in pieces.items()}
    assert {piece: ours[piece] for piece, category in theirs.items() if category} == {
        piece: category for piece, category in theirs.items() if category
    }
    assert list(theirs.values()).count("") < 10
    assert ours["<|end|>"] == "OK_SPECIAL"


def byte_level_with_planted() -> Tokenizer:
    """`kin` has no merge that makes it, `é` of two bytes is not whole, `<left>` is split, `again` is there twice."""
    vocabulary = {
        piece: i for i, piece in enumerate(("k", "i", "n", "ki", "Ġ", "kin", "Ã", "<", ">", "left", "<left>"))
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("k", "i")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def test_planted_tokens_are_told_apart(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "bpe", byte_level_with_planted())
    told = found(tmp_path / "bpe", 13)[1]
    assert [told[piece] for piece in ("k", "ki", "kin", "Ġ", "Ã")] == [OK, OK, MULTI, OK, "UNDECODEABLE"]
    assert (told["<left>"], told[""]) == ("UNREACHABLE_SPECIAL", "")
    pieces = ["[UNK]", "x", "y", "z", "xy", "##y", "##z", "##yz", "##,", ",", "#", "XY", "##Z", "..."]
    made = wordpiece()
    made.model = models.WordPiece(vocab={piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    made.add_special_tokens(["[UNK]"])
    write_tokenizer(tmp_path / "wordpiece", made)
    told = found(tmp_path / "wordpiece")[1]
    assert [told[piece] for piece in ("x", "xy", "##y", "##z", "##yz", ",", "#")] == [OK] * 7
    assert (told["##,"], told["XY"], told["##Z"], told["..."]) == (SINGLE, SINGLE, SINGLE, MULTI)
    assert told["[UNK]"] == "OK_SPECIAL"


def test_a_store_says_it_and_commands_use_it(tmp_path: Path, client: Client) -> None:
    source = make_checkpoint(tmp_path / "m", {"model.embed_tokens.weight": random(40, 8)}, LLAMA)
    write_tokenizer(source, byte_level_with_planted())
    store = convert.convert(source, tmp_path / "stores", name="org/m")
    told = model_stores.open_model(store)["reachability"].values.tolist()
    assert told == [OK] * 5 + [MULTI, "UNDECODEABLE", OK, OK, MULTI, "UNREACHABLE_SPECIAL", *[""] * 29]
    described = eg.tokens(store, client=client)
    assert described["reachability"].values.tolist() == told
    assert described.embgeom.to_frame("tokens")["reachability"].tolist() == told
    ranked = eg.undertrained(store, unused="unreachable", indicator="cosine", client=client)
    assert np.flatnonzero(ranked["unused"]).tolist() == [5, 9]
    assert ranked["reachability"].values.tolist() == told
    assert not ranked["candidate"].values[[5, 6, 9, 10]].any()
    values = ranked["unused_cosine_distance"].values[[0, 1, 2, 3, 4, 7, 8]]
    kinds = ranked["category"].values[[0, 1, 2, 3, 4, 7, 8]]
    assert ranked["threshold"].item() == np.percentile(values[kinds == "token"], 2)
    # A store that was made before is as it was, and the same conversion adds it.
    old = model_stores.open_model(store).drop_vars("reachability")
    shutil.rmtree(Path(store) / "reachability")
    validation.forget()
    with pytest.raises(InputError, match="is damaged"):
        eg.tokens(store, client=client)
    named = model_stores.make_labels(
        *(old[name].values.tolist() for name in ("token", "text", "has_token")),
        **{name: old[name].values.tolist() for name in ("bytes", "is_added", "is_special")},
    )
    rows = {"input_embedding": ArrayRows(random(40, 8), "model.embed_tokens.weight")}
    attrs = {"model": "org/m", "revision": ""}
    model_writing.write_model(store, rows, attrs=attrs, labels=named, tied=True, overwrite=True)
    assert "reachability" not in eg.tokens(store, client=client)
    with pytest.raises(InputError, match="org/m does not say which tokens can be reached: convert it again"):
        eg.undertrained(store, unused="unreachable", client=client)
    assert convert.convert(source, tmp_path / "stores", name="org/m") == store
    assert model_stores.open_model(store)["reachability"].values.tolist() == told


def test_a_tokenizer_that_is_not_asked_leaves_it_out_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_checkpoint(tmp_path / "m", {"model.embed_tokens.weight": random(260, 8)}, LLAMA)
    (Path(source) / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    with showing(True):
        store = convert.convert(source, tmp_path / "stores")
    assert "reachability" not in model_stores.open_model(store)
    said = capsys.readouterr().err
    assert said.count("which tokens its tokenizer can write is not known: ByT5Tokenizer is no fast tokenizer") == 1
