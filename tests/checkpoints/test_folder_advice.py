"""Folders and files that are no checkpoint: the refusal names what is there, and the way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.numpy import save_file

import embgeom_dask as eg
from embgeom_dask.errors import EmbgeomWarning, InputError
from embgeom_dask.testing import make_checkpoint
from tests.checkpoints.test_convert import LLAMA, contents, random, stored

TABLE = {"model.embed_tokens.weight": random(20, 8), "lm_head.weight": random(20, 8, seed=1)}


def put(folder: Path, *files: str) -> None:
    """Write files of tensors; others hold a word, or an object where they are JSON."""
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            save_file(TABLE, path)
        elif path.suffix in (".bin", ".pt", ".pth"):
            torch.save({name: torch.from_numpy(array) for name, array in TABLE.items()}, path)
        else:
            path.write_text(json.dumps(LLAMA) if file == "config.json" else "{}")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            ["0_Transformer/model.safetensors", "1_Pooling/config.json"],
            "it has weights in 0_Transformer: give {}/0_Transf",
        ),
        (
            ["text_encoder/model.safetensors", "unet/a.safetensors"],
            "it has weights in text_encoder, unet: give {}/text_e",
        ),
        (["snapshots/0123/model.safetensors"], "it has weights in snapshots/0123: give {}/snapshots/0123"),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            "without their index: download model.safetensors.index.json too",
        ),
        (["pytorch_model-00001-of-00002.bin"], "without their index: download pytorch_model.bin.index.json too"),
        (
            ["consolidated.safetensors"],
            "give {}/consolidated.safetensors, with `input_key` tok_embeddings.weight `outp",
        ),
        (["consolidated.00.pth"], "its consolidated.00.pth is of the layout of the model's maker"),
        (["model.fp16.safetensors"], "it has model.fp16.safetensors: give {}/model.fp16.safetensors, or rename it"),
        (["q4.gguf"], "its q4.gguf is of GGUF, whose weights are quantised: give the original model"),
        (["tf_model.h5", "optimizer.pt"], "its tf_model.h5 is of TensorFlow: give the original model"),
        (["adapter_model.safetensors"], "its adapter_model.safetensors is an adapter: merge it"),
        (["tokenizer.json", "merges.txt"], "it has config.json, merges.txt, tokenizer.json"),
    ],
)
def test_a_folder_without_weights_is_refused_with_what_it_has(tmp_path: Path, files: list[str], words: str) -> None:
    source = tmp_path / "m"
    put(source, "config.json", *files)
    with pytest.raises(InputError, match="is not a checkpoint: it has no model") as refused:
        eg.convert(source, tmp_path / "stores")
    assert words.format(source) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert contents(tmp_path) == ["m"]


def test_what_a_refusal_says_to_give_can_be_given(tmp_path: Path) -> None:
    put(tmp_path / "m", "0_Transformer/model.safetensors", "0_Transformer/config.json")
    (tmp_path / "m/0_Transformer/config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(InputError) as refused:
        eg.convert(tmp_path / "m", tmp_path / "stores")
    store = eg.convert(str(refused.value).rpartition("give ")[2], tmp_path / "stores")
    assert stored(store, "output") == TABLE["lm_head.weight"].tobytes()


def test_an_adapter_is_refused_with_the_model_that_it_is_of(tmp_path: Path) -> None:
    put(tmp_path / "m", "adapter_model.safetensors", "adapter_config.json")
    for text, words in {
        '{"base_model_name_or_path": "org/base"}': "is an adapter of org/base: merge it",
        '{"base_model_name_or_path": [1]}': "is an adapter: merge it",
        "[": "is an adapter: merge it",
    }.items():
        (tmp_path / "m/adapter_config.json").write_text(text)
        with pytest.raises(InputError, match=words):
            eg.convert(tmp_path / "m", tmp_path / "stores")


@pytest.mark.parametrize("file", ["model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin"])
def test_a_link_to_nothing_is_said_to_be_one(tmp_path: Path, file: str) -> None:
    put(tmp_path / "m", "config.json")
    (tmp_path / "m" / file).symlink_to("../../blobs/0123")
    with pytest.raises(InputError, match=f"its {file} is a link to a file that is not there: download the model again"):
        eg.convert(tmp_path / "m", tmp_path / "stores")


def test_an_index_of_other_shards_is_refused_with_those_there(tmp_path: Path) -> None:
    source = Path(make_checkpoint(tmp_path / "m", TABLE, LLAMA, shards=2))
    for path in source.glob("*.safetensors"):
        path.rename(path.with_name(path.name.replace("model", "other")))
    with pytest.raises(
        InputError, match=r"names model-00001-of-00002.*, which is missing: .*there \(other-00001-of-000"
    ):
        eg.convert(source, tmp_path / "stores")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("model.safetensors", "2 matrices, choose one with `output_key` or `input_key`, or give the model folder {}:"),
        ("config.json", "config.json is not a checkpoint: give the folder that it lies in"),
        ("model.onnx", "model.onnx is of ONNX: give the original model"),
    ],
)
def test_a_file_given_in_place_of_its_folder(tmp_path: Path, file: str, words: str) -> None:
    put(tmp_path / "m", "config.json", "model.safetensors", "model.onnx")
    with pytest.raises(InputError) as refused:
        eg.convert(tmp_path / "m" / file, tmp_path / "stores")
    assert words.format(tmp_path / "m") in str(refused.value)


def test_a_class_that_is_not_known_is_said(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "m", TABLE, LLAMA | {"architectures": ["LlamaForCausalLMEagle3"]})
    with pytest.warns(
        EmbgeomWarning, match="no class LlamaForCausalLMEagle3 for this model type: .* by LlamaForCausalLM"
    ):
        eg.convert(source, tmp_path / "stores")
    config = {"model_type": "qwen", "architectures": ["QWenLMHeadModel"]}
    source = make_checkpoint(tmp_path / "n", {"a": TABLE["lm_head.weight"], "b": TABLE["lm_head.weight"]}, config)
    with pytest.raises(
        InputError, match="transformers has no model type 'qwen', nor the class QWenLMHeadModel: choose"
    ):
        eg.convert(source, tmp_path / "stores")


def test_a_link_that_leads_to_itself_is_no_folder(tmp_path: Path) -> None:
    loop = tmp_path / "m" / "model.safetensors.index.json"
    loop.parent.mkdir()
    loop.symlink_to(loop)
    with pytest.raises(InputError, match=r"m is not a checkpoint: it has no model.safetensors"):
        eg.convert(loop.parent, tmp_path / "stores")
