"""Where the tokenizer of a checkpoint lies, what the model is called, and labels that come after the matrices."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from embgeom_dask import scan
from embgeom_dask.checkpoints import convert
from embgeom_dask.cli import app
from embgeom_dask.errors import EmbgeomWarning, InputError
from embgeom_dask.storage import model_stores
from embgeom_dask.testing import make_checkpoint
from tests.checkpoints.test_convert import LLAMA, random
from tests.checkpoints.test_tokenizer_labels import words

TENSORS = {"model.embed_tokens.weight": random(20, 8), "lm_head.weight": random(20, 8, seed=1)}
WORDS = [f"w{i}" for i in range(20)]


def tokens(store: str) -> list[str]:
    return list(model_stores.labels(store).token.values)


def weights(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"output.weight": random(20, 8)}, file)
    return file


def test_a_file_beside_a_tokenizer_is_labelled_and_named_after_its_folder(tmp_path: Path) -> None:
    files = [weights(tmp_path / "acme" / name / "consolidated.safetensors") for name in ("one", "two")]
    for file in files:
        words(file.parent, 20)
    converted = [convert.convert(file, tmp_path / "stores") for file in files]
    assert [Path(store).name for store in converted] == ["acme--one.zarr", "acme--two.zarr"]
    assert tokens(converted[1]) == WORDS
    assert model_stores.open_model(converted[1]).attrs["model"] == "acme/two"


def test_a_file_alone_has_its_own_name_and_its_tokenizer_may_be_named(tmp_path: Path) -> None:
    file = weights(tmp_path / "acme" / "W.safetensors")
    with pytest.warns(EmbgeomWarning, match="no row has a token: .*: `tokenizer` names the folder of one"):
        store = convert.convert(file, tmp_path / "stores")
    assert Path(store).name == "W.zarr"
    (tmp_path / "vocabulary").mkdir()
    with pytest.raises(InputError, match=r"no tokenizer in .*vocabulary: give a folder that has tokenizer.json"):
        convert.convert(file, tmp_path / "stores", tokenizer=tmp_path / "vocabulary")
    words(tmp_path / "vocabulary", 20)
    given = ["--stores", str(tmp_path / "stores"), "--tokenizer", str(tmp_path / "vocabulary"), "--name", "acme/W"]
    assert app.main(["convert", str(file), *given]) == 0
    assert tokens(str(tmp_path / "stores" / "acme--W.zarr")) == WORDS
    assert app.main(["convert", str(file), str(file.with_name("V.safetensors")), *given]) == 2


@pytest.mark.parametrize("name", ["", "a/b/c", "../x", "a/..", "/a", "a b", "a/\x1b[2J"])
def test_a_name_that_names_no_model_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="give `name` as ORGANISATION/NAME"):
        convert.convert(weights(tmp_path / "W.safetensors"), tmp_path / "stores", name=name)
    assert not (tmp_path / "stores").exists()


@pytest.mark.parametrize(
    ("folder", "beside", "named"),
    [
        ("acme/sd/text_encoder", "acme/sd/tokenizer", "acme/sd/text_encoder"),
        ("acme/sd/text_encoder_2", "acme/sd/tokenizer_2", "acme/sd/text_encoder_2"),
        ("acme/sbert/0_Transformer", "acme/sbert", "acme/sbert"),
        ("acme/run/checkpoint-500", "acme/run", "run/checkpoint-500"),
    ],
)
def test_the_tokenizer_of_a_part_of_a_model_is_found(tmp_path: Path, folder: str, beside: str, named: str) -> None:
    source = make_checkpoint(tmp_path / folder, TENSORS, LLAMA)
    words(tmp_path / beside, 20)
    store = convert.convert(source, tmp_path / "stores")
    assert tokens(store) == WORDS
    assert model_stores.open_model(store).attrs["model"] == named
    assert Path(store).name == f"{named.replace('/', '--')}.zarr"


def test_a_folder_above_or_beside_lends_no_tokenizer_unless_it_is_the_models(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "acme" / "other", TENSORS, LLAMA)
    for folder in (tmp_path / "acme", tmp_path / "acme" / "tokenizer"):
        words(folder, 20)
    with pytest.warns(EmbgeomWarning, match="no row has a token"):
        assert not any(tokens(convert.convert(source, tmp_path / "stores")))


def test_converting_again_adds_the_labels_of_a_tokenizer_that_came_later(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "acme" / "m", TENSORS, LLAMA)
    with pytest.warns(EmbgeomWarning, match="no row has a token"):
        store = convert.convert(source, tmp_path / "stores")
    before = model_stores.attributes(store)
    bare = scan(store, nearest=1, out=tmp_path / "result.zarr")
    assert bare.nearest_token.values.tolist() == [["", ""]]
    with pytest.warns(EmbgeomWarning, match="no row has a token"):
        convert.convert(source, tmp_path / "stores")  # said again

    words(source, 20)
    assert convert.convert(source, tmp_path / "stores") == store
    assert tokens(store) == WORDS
    model, after = model_stores.open_model(store), model_stores.attributes(store)
    for name, tensor in zip(("input_embedding", "output_embedding"), TENSORS.values(), strict=True):
        np.testing.assert_array_equal(model[name].values, tensor)
    changed = {"tokenizer": "TokenizersBackend"}
    assert {**before, **changed, "matrices": after["matrices"]} == after
    with pytest.raises(InputError, match="labels_sha256"):  # the result there has no tokens
        scan(store, nearest=1, out=tmp_path / "result.zarr")
    again = scan(store, nearest=1, out=tmp_path / "other.zarr")
    assert again.nearest_token.values.tolist() == [[f"w{i}" for i in again.nearest_token_id.values[0]]]

    with warnings.catch_warnings():
        warnings.simplefilter("error", EmbgeomWarning)
        convert.convert(source, tmp_path / "stores")
        (Path(source) / "tokenizer.json").rename(tmp_path / "away.json")
        convert.convert(source, tmp_path / "stores")  # the store keeps its tokens
    assert tokens(store) == WORDS
    words(source, 19)
    with pytest.warns(
        EmbgeomWarning, match="its store has other labels than its tokenizer gives now: `overwrite` takes these"
    ):
        convert.convert(source, tmp_path / "stores")
    assert tokens(store) == WORDS
    convert.convert(source, tmp_path / "stores", overwrite=True)
    assert tokens(store) == [*WORDS[:19], "[PAD19]"]


def test_labels_are_added_to_a_commit_and_to_a_tied_store_and_not_to_a_part(tmp_path: Path) -> None:
    commit = tmp_path / "models--acme--m" / "snapshots" / ("a" * 40)
    twice = dict.fromkeys(TENSORS, TENSORS["lm_head.weight"])
    source = make_checkpoint(commit, twice, LLAMA)
    with pytest.warns(EmbgeomWarning, match="no row has a token"):
        store = convert.convert(source, tmp_path / "stores")
    assert model_stores.attributes(store)["tied"]
    words(tmp_path / "vocabulary", 20)
    with pytest.warns(EmbgeomWarning, match="its store has no tokens: `overwrite` adds them"):
        convert.convert(source, tmp_path / "stores", role="output", tokenizer=tmp_path / "vocabulary")
    convert.convert(source, tmp_path / "stores", tokenizer=tmp_path / "vocabulary")
    assert tokens(store) == WORDS
    assert model_stores.attributes(store)["tied"]
    assert model_stores.attributes(store)["revision"] == "a" * 40
