"""Files other than safetensors model folders: torch's, numpy's and bare ones, there and back, and hostile ones."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.cli import app
from embgeom_dask.errors import EmbgeomError, EmbgeomWarning, InputError
from embgeom_dask.storage import model_stores
from embgeom_dask.testing import make_checkpoint, make_store
from tests.checkpoints.test_convert import LLAMA, contents, random, stored, tiny

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


# What torch pickled


def torch_folder(tensors: dict[str, Any], folder: Path, *, shards: int = 1, legacy: bool = False) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    names = ["pytorch_model.bin"]
    if shards > 1:
        names = [f"pytorch_model-{i + 1:05d}-of-{shards:05d}.bin" for i in range(shards)]
        weight_map = {name: names[i % shards] for i, name in enumerate(tensors)}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for i, file in enumerate(names):
        part = {name: tensor for j, (name, tensor) in enumerate(tensors.items()) if j % shards == i}
        torch.save(part, folder / file, _use_new_zipfile_serialization=not legacy)
    return folder


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("shards", "legacy"), [(1, False), (2, False), (1, True)])
def test_torch_files(tmp_path: Path, dtype: torch.dtype, shards: int, legacy: bool) -> None:
    state = tiny("LlamaForCausalLM").to(dtype).state_dict()
    state["lm_head.weight"] = state["lm_head.weight"].T.contiguous().T  # strides of its own
    store = eg.convert(torch_folder(state, tmp_path / "m", shards=shards, legacy=legacy), tmp_path / "stores")
    assert stored(store, "input") == raw(state["model.embed_tokens.weight"])
    assert stored(store, "output") == raw(state["lm_head.weight"])


def test_tensors_that_share_their_storage_are_tied(tmp_path: Path) -> None:
    weight = torch.randn(20, 8)
    source = torch_folder({"model.embed_tokens.weight": weight, "lm_head.weight": weight}, tmp_path / "m")
    assert model_stores.find_matrix(eg.convert(source, tmp_path / "stores")).tied


def test_safetensors_win_over_torch_files(tmp_path: Path) -> None:
    array = random(20, 8)
    source = torch_folder({"model.embed_tokens.weight": torch.zeros(20, 8)}, tmp_path / "m")
    save_file({"model.embed_tokens.weight": array, "lm_head.weight": array}, source / "model.safetensors")
    assert stored(eg.convert(source, tmp_path / "stores"), "input") == array.tobytes()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def test_evil_and_broken_torch_files_are_refused_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inputs = tmp_path / "inputs"
    good = torch_folder({"model.embed_tokens.weight": torch.zeros(200, 8)}, inputs / "m") / "pytorch_model.bin"
    data = good.read_bytes()

    def compressed() -> None:
        with zipfile.ZipFile(good, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(1 << 20))

    for write, words in {
        lambda: torch.save({"model.embed_tokens.weight": Evil()}, good): "not a file of tensors alone, nothing of it",
        lambda: good.write_bytes(pickle.dumps(Evil())): "not a file of tensors alone",
        lambda: good.write_bytes(data[:-200]): "not a file of tensors alone",
        lambda: good.write_bytes(b"<html>sign in</html>"): "not a file of tensors alone",
        lambda: good.write_bytes(b""): "not a file of tensors alone",
        lambda: torch.save([torch.zeros(3)], good): "holds a list, not tensors by name",
        compressed: "compressed archive",
    }.items():
        write()
        with pytest.raises(InputError, match=words) as refused:
            eg.convert(inputs / "m", tmp_path / "stores")
        assert "\n" not in str(refused.value)
    assert contents(tmp_path) == ["inputs"]


@pytest.mark.parametrize("file", ["../m.bin", "a/b.bin", "..", "a.safetensors", "/etc/passwd"])
def test_an_index_of_torch_files_that_points_elsewhere_is_refused(tmp_path: Path, file: str) -> None:
    source = torch_folder({"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}, tmp_path / "m", shards=2)
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(InputError, match=r"not a \.bin file of the folder"):
        eg.convert(source, tmp_path / "stores")


def test_what_people_give_torch_save(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(50, 8))
    optimizer = {"state": {0: {"exp_avg": torch.zeros(50, 8)}}, "param_groups": [{"w": torch.zeros(50, 8)}]}
    for name, (value, tensor) in {
        "tensor.pt": (weight.detach(), "tensor"),
        "parameter.pth": (weight, "parameter"),
        "state.bin": ({"wte.weight": weight, "epoch": 1}, "wte.weight"),
        "nanogpt.pt": (
            {"model": {"_orig_mod.wte.weight": weight}, "optimizer": optimizer, "iter_num": 10},
            "model._orig",
        ),
        "lightning.ckpt": (
            {"state_dict": {"model.wte.weight": weight}, "loops": {"a": {}}},
            "state_dict.model.wte.weight",
        ),
    }.items():
        torch.save(value, tmp_path / name)
        store = eg.convert(tmp_path / name, tmp_path / "stores")
        assert stored(store, "output") == raw(weight)
        assert model_stores.open_model(store).output_embedding.attrs["source_tensor"].startswith(tensor)
    torch.save({"model": {"a": weight, "b": weight}}, tmp_path / "two.pt")
    with pytest.raises(InputError, match=r"2 matrices, choose one .*: model\.a \(50 x 8 F32\), model\.b"):
        eg.convert(tmp_path / "two.pt", tmp_path / "stores")
    assert stored(eg.convert(tmp_path / "two.pt", tmp_path / "stores", output_key="model.b"), "output") == raw(weight)


def test_a_module_is_refused_in_one_line_that_says_what_to_save(tmp_path: Path) -> None:
    for value, words in (
        (
            torch.nn.Embedding(5, 2),
            r"needs the class or function torch\.nn\.modules\.sparse\.Embedding: save the tensors",
        ),
        (
            {"hyper_parameters": argparse.Namespace(), "w": torch.zeros(2, 2)},
            r"function argparse\.Namespace: save the t",
        ),
    ):
        torch.save(value, tmp_path / "m.pt")
        with pytest.raises(InputError, match=words) as refused:
            eg.convert(tmp_path / "m.pt", tmp_path / "stores")
        assert str(refused.value).isprintable()
        assert "weights_only" not in str(refused.value)


def test_dicts_that_hold_each_other_are_looked_at_once(tmp_path: Path) -> None:
    weight = torch.randn(5, 2)
    part: dict[str, Any] = {"w": weight}
    part["self"] = part
    for _ in range(60):  # 2**60 paths
        part = {"a": part, "b": part}
    torch.save({"w": weight, "deep": part, 3: weight, "list": [weight]}, tmp_path / "m.pt")
    store = eg.convert(tmp_path / "m.pt", tmp_path / "stores")
    assert model_stores.open_model(store).output_embedding.attrs["source_tensor"] == "w"


def test_a_tensor_that_was_expanded_is_not_written_out(tmp_path: Path) -> None:
    row = torch.randn(1, 8)
    torch.save({"W": row.expand(10**10, 8)}, tmp_path / "m.pt")
    with pytest.raises(
        InputError, match=r"W in .* shape \[10000000000, 8\], of which 319999999968 bytes are not in the"
    ):
        eg.convert(tmp_path / "m.pt", tmp_path / "stores")
    assert contents(tmp_path) == ["m.pt"]
    torch.save({"W": row.expand(50, 8).clone(), "mask": row.expand(50, 8)}, tmp_path / "m.pt")
    assert stored(eg.convert(tmp_path / "m.pt", tmp_path / "stores", output_key="W"), "output") == raw(row) * 50


# What is recorded


def test_the_decision_is_recorded_in_the_store_and_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gemma = tiny("GemmaForCausalLM", head_dim=8, num_key_value_heads=2)
    gemma.save_pretrained(tmp_path / "gemma")
    assert app.main(["convert", str(tmp_path / "gemma"), "--stores", str(tmp_path / "stores"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (store,) = answer["stores"]
    decision = answer["decisions"][store]
    assert decision == json.loads(model_stores.open_model(store).attrs["decision"])
    key = {"tensor": "model.embed_tokens.weight"}
    assert decision == {
        "class": "GemmaForCausalLM",
        "roles": ["input", "output"],
        "input": {**key, "module": "model.embed_tokens", "how": "direct"},
        "output": {**key, "module": "lm_head", "how": "tied"},
        "warnings": [],
        "embedding_scale": 4.0,
        "head_bias": None,
    }
    bert = tiny("BertForMaskedLM")
    bert.save_pretrained(tmp_path / "bert")
    decision = json.loads(model_stores.open_model(eg.convert(tmp_path / "bert", tmp_path / "stores")).attrs["decision"])
    assert decision["head_bias"] in ("cls.predictions.bias", "cls.predictions.decoder.bias")


def test_a_stranger_of_the_same_shape_beside_a_tie_is_warned_of(tmp_path: Path) -> None:
    tensors = {"model.embed_tokens.weight": random(20, 8), "odd.weight": random(20, 8, seed=1)}
    source = make_checkpoint(tmp_path / "m", tensors, {**LLAMA, "tie_word_embeddings": True})
    with pytest.warns(EmbgeomWarning, match=r"odd\.weight has the shape of an embedding, but LlamaForCausalLM"):
        store = eg.convert(source, tmp_path / "stores")
    assert "odd.weight" in json.loads(model_stores.open_model(store).attrs["decision"])["warnings"][0]


def test_tensors_that_are_concatenated(tmp_path: Path) -> None:
    parts = {"a": random(20, 8), "b": random(3, 8, seed=1)}
    source = make_checkpoint(tmp_path / "m", parts, LLAMA)
    store = eg.convert(source, tmp_path / "stores", input_key="a + b", role="input")
    assert stored(store, "input") == parts["a"].tobytes() + parts["b"].tobytes()
    assert model_stores.open_model(store).input_embedding.attrs["source_tensor"] == "a + b"


# Bare files, there and back


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", BFLOAT16])
@pytest.mark.parametrize("matrix", ["input", "output"])
def test_export_writes_the_matrix_back_and_convert_reads_it_again(tmp_path: Path, dtype: Any, matrix: str) -> None:
    rng, dtype = np.random.default_rng(0), np.dtype(dtype)
    array = np.frombuffer(rng.bytes(3_000 * 40 * dtype.itemsize), dtype).reshape(3_000, 40)  # NaN payloads and all
    store = make_store(tmp_path / "m.zarr", **{matrix: array})
    path = tmp_path / "W.safetensors"
    assert app.main(["export", store, "--role", matrix, "-o", str(path)]) == 0
    with safe_open(path, "pt") as file:
        assert list(file.keys()) == ["W"]
        assert raw(file.get_tensor("W")) == array.tobytes()
        assert file.metadata()["model"] == "test/model"
        assert file.metadata()["sha256"] == model_stores.find_matrix(store).sha256
    again = eg.convert(path, tmp_path / "stores", role=matrix)
    assert stored(again, matrix) == array.tobytes()
    assert model_stores.find_matrix(again).sha256 == model_stores.find_matrix(store).sha256
    assert contents(tmp_path) == ["W.safetensors", "m.zarr", "stores"]


def test_export_refuses_what_it_cannot_do_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "m.zarr", output=random(3_000, 40))
    (tmp_path / "old.safetensors").write_bytes(b"mine")
    for path, words in {
        "W.npy": "must end in .safetensors",
        "none/W.safetensors": "no folder",
        "old.safetensors": "exists: `overwrite` replaces it",
    }.items():
        with pytest.raises(InputError, match=words):
            eg.export(store, tmp_path / path)
    with pytest.raises(InputError, match="no store at"):
        eg.export(tmp_path / "none.zarr", tmp_path / "W.safetensors")
    with pytest.raises(InputError, match="has no input_embedding"):
        eg.export(store, tmp_path / "W.safetensors", role="input")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            eg.export(store, tmp_path / "old.safetensors", overwrite=True)
    shutil.rmtree(next((Path(store) / "output_embedding/c").iterdir()))
    with pytest.raises(EmbgeomError, match="missing"):
        eg.export(store, tmp_path / "old.safetensors", overwrite=True)
    assert contents(tmp_path) == ["m.zarr", "old.safetensors"]
    assert (tmp_path / "old.safetensors").read_bytes() == b"mine"


def test_a_bfloat16_matrix_comes_as_itself_or_as_a_view_of_its_bits(tmp_path: Path) -> None:
    array = random(20, 8, BFLOAT16)
    save_torch_file({"W": torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)}, tmp_path / "a.safetensors")
    save_file({"W": array.view(np.uint16), "mask": np.zeros(20, np.uint8)}, tmp_path / "b.safetensors")
    np.save(tmp_path / "c.npy", array.view(np.uint16))
    np.save(tmp_path / "d.npy", array)
    torch.save({"W": torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)}, tmp_path / "e.pt")
    for file in ("a.safetensors", "b.safetensors", "c.npy", "d.npy", "e.pt"):
        store = eg.convert(tmp_path / file, tmp_path / "stores")
        assert Path(store).name == f"{file[0]}.zarr"
        assert (stored(store, "output"), model_stores.find_matrix(store).dtype) == (array.tobytes(), "bfloat16")


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2"])
def test_npy_files(tmp_path: Path, dtype: str) -> None:
    array = random(20, 8, dtype)
    np.save(tmp_path / "m.npy", array)
    store = eg.convert(tmp_path / "m.npy", tmp_path / "stores")
    assert stored(store, "output") == array.tobytes()
    assert model_stores.open_model(store).output_embedding.attrs["source_tensor"] == "m"


def test_npy_files_that_are_no_matrix_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.npy"
    for array, words in {
        ("ids", "i4", "C"): "holds <i4: save it as",
        ("big", ">f4", "C"): "holds >f4: save it as",
        ("transposed", "f4", "F"): "in Fortran's order: save it as",
        ("row", "f4", "C"): "no tensor of two dimensions",
    }.items():
        name, dtype, order = array
        np.save(path, np.asarray(np.ones(8 if name == "row" else (20, 8)), dtype=dtype, order=order))  # type: ignore[call-overload]
        with pytest.raises(InputError, match=words):
            eg.convert(path, tmp_path / "stores")
    np.save(path, np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"holds \|O"):
        eg.convert(path, tmp_path / "stores")
    np.save(path, np.ones((20, 8)))
    data = path.read_bytes()
    for broken in (data[:-1], data + b"0", data[:20], b"", b"<html>", data.replace(b"(20, 8)", b"(-2, 8)")):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"\.npy"):
            eg.convert(path, tmp_path / "stores")
    assert contents(tmp_path) == ["m.npy"]


# Configs that no model has


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"num_hidden_layers": 10**12}, "absurd num_hidden_layers"),
        ({"num_labels": 2**31}, "absurd num_labels"),
        ({"max_position_embeddings": 2**30}, "absurd max_position_embeddings"),
        ({"num_attention_heads": -(10**30)}, "absurd num_attention_heads"),
        ({"hidden_size": 10**15}, "absurd hidden_size"),
        ({"text_config": {"num_layers": 10**9}}, "absurd num_layers"),
        ({"num_hidden_layers": 500}, "transformers cannot build this llama .more than 1000 modules"),
        ({"vocab_size": 2**31, "hidden_size": 2**31, "intermediate_size": 2**31}, "cannot tell the embeddings"),
    ],
)
@tuning.override(MOST_MODULES=1_000)
def test_absurd_configs_are_refused(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    tensors = {"a.weight": random(20, 8), "b.weight": random(20, 8)}
    source = make_checkpoint(tmp_path / "m", tensors, {**LLAMA, **config})
    with pytest.raises(InputError, match=words) as refused:
        eg.convert(source, tmp_path / "stores")
    assert "\n" not in str(refused.value)
    assert contents(tmp_path) == ["m"]


@pytest.mark.parametrize("text", ["", "[]", "<html>", "version https://git-lfs.github.com/spec/v1", "[" * 100_000])
def test_broken_configs_are_refused(tmp_path: Path, text: str) -> None:
    source = Path(make_checkpoint(tmp_path / "m", {"a.weight": random(20, 8)}, LLAMA))
    (source / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json is not a model's config") as refused:
        eg.convert(source, tmp_path / "stores")
    assert "\n" not in str(refused.value)
    assert contents(tmp_path) == ["m"]
