"""Conversion of models on a hub, against one on the loopback that counts, redirects and fails on demand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from huggingface_hub import constants, hf_hub_download
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from embgeom_dask import tuning
from embgeom_dask.checkpoints import convert
from embgeom_dask.checkpoints import hub as own
from embgeom_dask.cli import app
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.storage import listing, model_stores
from embgeom_dask.testing import make_checkpoint
from tests.loopback_hub import SECRET, Hub, taken_for_the_real_one

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
ROWS, WIDTH = 12_000, 512  # 12 MB in bfloat16, two chunks
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    **{"hidden_size": WIDTH, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
    "vocab_size": ROWS,
}


def random(rows: int, columns: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns)).astype(BFLOAT16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of three shards: the embeddings lie among other tensors of three times their size."""
    tensors = {
        "model.embed_tokens.weight": random(ROWS, WIDTH, 0),
        "model.layers.0.mlp.up_proj.weight": random(2 * ROWS, WIDTH, 1),
        "model.layers.0.mlp.gate_proj.weight": random(2 * ROWS, WIDTH, 2),
        "model.layers.0.mlp.down_proj.weight": random(2 * ROWS, WIDTH, 3),
        "lm_head.weight": random(ROWS, WIDTH, 4),
    }
    folder = Path(make_checkpoint(tmp_path_factory.mktemp("hub") / "model", tensors, LLAMA, shards=3))
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "Ġthe": 1}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


@pytest.fixture
def hub(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with the model as org/model, that the hub's library takes for the real one; its cache is empty."""
    with taken_for_the_real_one(tmp_path, monkeypatch) as served:
        served.models["org/model"] = model
        yield served


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run the command line in an empty folder; gives code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return (app.main(list(args)), *capsys.readouterr())

    return call


def expect(store: str | Path) -> None:
    """The store holds the model's matrices, bit for bit."""
    for role, seed in (("input", 0), ("output", 4)):
        matrix = model_stores.find_matrix(store, role)
        assert matrix.read(0, ROWS).tobytes() == random(ROWS, WIDTH, seed).tobytes()


def tree(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_only_headers_and_rows_travel_and_the_commit_is_pinned(hub: Hub, run: Any) -> None:
    hub.company = 2
    code, out, err = run("convert", "org/model")
    assert (code, out) == (0, "stores/org--model.zarr\n"), err
    expect("stores/org--model.zarr")
    matrices = 2 * ROWS * WIDTH * 2
    assert matrices <= hub.weight_bytes <= 1.02 * matrices
    assert hub.most_in_flight >= 2
    assert all(stop - start <= 16 << 20 for _, start, stop in hub.ranges)
    asked = [request for request in hub.requests if "/resolve/" in request]
    assert all(f"/resolve/{hub.commit('org/model')}/" in request for request in asked)
    opened = model_stores.open_model("stores/org--model.zarr")
    assert (opened.attrs["model"], opened.attrs["revision"]) == ("org/model", hub.commit("org/model"))
    assert (opened.attrs["license"], opened.attrs["architecture"]) == ("mit", "LlamaForCausalLM")
    assert opened.token.values[:3].tolist() == ["a", "Ġthe", "[PAD2]"]
    assert not hub.leaks


@pytest.mark.slow
def test_the_same_commit_is_not_fetched_again_and_another_lies_beside_it(hub: Hub, run: Any) -> None:
    assert run("convert", "org/model")[0] == 0
    ranges = len(hub.ranges)
    code, out, err = run("convert", "org/model")
    assert (code, out, len(hub.ranges)) == (0, "stores/org--model.zarr\n", ranges)
    assert "stores/org--model.zarr is there already" in err
    hub.commits["org/model"] = "f" * 40
    there = tree(Path("stores/org--model.zarr"))
    for _ in range(2):
        assert run("convert", "org/model")[:2] == (0, "stores/org--model@ffffffffffff.zarr\n")
    assert run("convert", "org/model", "--overwrite")[:2] == (0, "stores/org--model@ffffffffffff.zarr\n")
    assert run("convert", "org/model@v1")[:2] == (0, "stores/org--model@v1.zarr\n")
    for name in ("org--model@v1", "org--model@ffffffffffff"):
        assert model_stores.open_model(f"stores/{name}.zarr").attrs["revision"] == "f" * 40
    assert tree(Path("stores/org--model.zarr")) == there
    assert listing.list_models("stores").revision.values.tolist().count("f" * 40) == 2


def test_faults_are_retried(hub: Hub, run: Any) -> None:
    hub.busy, hub.cut = 3, 4
    code, _, err = run("convert", "org/model")
    assert (code, hub.busy, hub.cut) == (0, 0, 0), err
    expect("stores/org--model.zarr")


def test_bodies_that_are_cut_again_and_again_are_a_failure(hub: Hub, run: Any) -> None:
    hub.cut = 1000
    code, _, err = run("convert", "org/model")
    assert code == 1
    assert "error: org/model/model-00001-of-00003.safetensors was cut off 5 times in a row" in err
    assert not list(Path().glob("stores/*"))


def test_a_server_that_ignores_ranges_is_refused(hub: Hub, run: Any) -> None:
    hub.deaf = True
    code, _, err = run("convert", "org/model")
    assert code == 1
    assert "error: localhost was asked for bytes 0-16383 of org/model/model-" in err
    assert "sends the whole file: download the model" in err
    assert not list(Path().glob("stores/*"))


@tuning.override(CHUNK_BYTES=1 << 20, HUB_TRIES=0)  # twelve chunks a matrix
def test_a_conversion_goes_on_from_the_rows_that_are_there(hub: Hub, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fail_after = 16
    code, _, err = run("convert", "org/model")
    assert (code, "the hub answers 503 for org/model: run the same command again later" in err) == (1, True), err
    assert not Path("stores/org--model.zarr").exists()
    there = {path.name for path in Path().glob("stores/.*.partial/*_embedding/c/*")}
    assert len(there) > 4
    hub.fail_after, fetched = None, len(hub.ranges)
    assert run("convert", "org/model")[0] == 0
    again = [stop - start for _, start, stop in hub.ranges[fetched:]]
    assert sum(again) < 1.9 * ROWS * WIDTH * 2
    expect("stores/org--model.zarr")
    assert [path.name for path in Path("stores").iterdir()] == ["org--model.zarr"]


def test_an_interrupt_says_how_to_go_on(hub: Hub, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(own.RemoteFile, "read", interrupt)
    code, _, err = run("convert", "org/model")
    assert code == 130
    assert err.rstrip().endswith("embgeom convert org/model")


def test_a_gated_model_needs_a_token_which_goes_to_the_hub_alone(
    hub: Hub, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.gated.add("org/model")
    code, _, err = run("convert", "org/model")
    assert code == 2
    assert f"error: org/model is gated: accept its terms at {hub.address}/org/model, then log in" in err
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    code, _, err = run("convert", "org/model")
    assert code == 2
    assert "org/model is gated and your token does not open it: ask for access" in err
    monkeypatch.setenv("HF_TOKEN", SECRET)
    code, out, err = run("convert", "org/model")
    assert code == 0, err
    assert not hub.leaks
    assert SECRET not in out + err
    assert SECRET.encode() not in tree(tmp_path)
    assert SECRET[::-1].encode() not in tree(tmp_path)  # nor the signature of a URL


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("org/none", "error: no checkpoint at org/none: neither here nor on http"),
        ("nowhere", "error: no checkpoint at nowhere: neither here nor on http"),
        ("org/model@v9", "error: org/model has no revision 'v9'"),
        ("org/bin", "error: org/bin has no safetensors weights on the hub, only pytorch_model.bin: download it"),
        (
            "org/liar",
            "error: org/liar/model.safetensors.index.json names model-00002-of-00003.safetensors, which is missing",
        ),
        ("./org/model", "error: no checkpoint at org/model: give a model folder"),
        ("org/model/extra", "error: no checkpoint at org/model/extra: give a model folder"),
        ("org/model.safetensors", "error: no checkpoint at org/model.safetensors: give a model folder"),
    ],
)
def test_what_the_hub_refuses_is_one_line(hub: Hub, run: Any, tmp_path: Path, source: str, says: str) -> None:
    for name, files in {
        "bin": ["pytorch_model.bin", "config.json"],
        "liar": ["model-00001-of-00003.safetensors"],
    }.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_bytes(b"{}")
        hub.models[f"org/{name}"] = tmp_path / name
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00003.safetensors"}}
    (tmp_path / "liar/model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "liar/config.json").write_text(json.dumps(LLAMA))
    args = ["--role", "output", "--output-key", "lm_head.weight"] if "liar" in source else []
    code, out, err = run("convert", source, *args)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    assert not Path("stores").exists()


def test_no_answer_and_offline_have_their_own_lines(hub: Hub, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        code, _, err = run("convert", "org/model")
        assert code == 1
        assert "error: cannot reach http://127.0.0.1:9 for org/model (" in err
        assert "HF_HUB_OFFLINE=1" in err
    with monkeypatch.context() as patched:
        patched.setattr(constants, "HF_HUB_OFFLINE", True)
        code, _, err = run("convert", "org/model")
        assert code == 2
        assert "error: no checkpoint at org/model, nor in the hub's cache: unset HF_HUB_OFFLINE" in err
    assert not hub.requests


def test_files_in_the_hubs_cache_are_used_there(
    hub: Hub, run: Any, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    commit = hub.commit("org/model")
    for path in model.iterdir():
        hf_hub_download("org/model", path.name, revision="main")
    sent = hub.weight_bytes
    assert run("convert", "org/model")[0] == 0
    assert hub.weight_bytes == sent
    expect("stores/org--model.zarr")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    code, _, err = run("convert", "org/model", "--stores", "offline")
    assert (code, len(hub.requests)) == (0, asked), err
    expect("offline/org--model.zarr")
    assert model_stores.open_model("offline/org--model.zarr").attrs["revision"] == commit


def test_many_sources_of_which_some_fail(hub: Hub, run: Any, tmp_path: Path, model: Path) -> None:
    hub.models["other/model"] = model
    (tmp_path / "models.txt").write_text("# ours\norg/model\n\nother/model  # the same\norg/none\n")
    code, out, err = run("convert", "nowhere.safetensors", "org/model", "--from-file", "models.txt", "--json")
    assert code == 1
    assert json.loads(out)["stores"] == ["stores/org--model.zarr", "stores/other--model.zarr"]
    assert sorted(json.loads(out)["failed"]) == ["nowhere.safetensors", "org/none"]
    assert "failed: org/none: no checkpoint at org/none" in err
    assert err.endswith("error: 2 of 4 not converted: the same command does only what is missing\n")
    ranges = len(hub.ranges)
    code, out, err = run("convert", "--from-file", "models.txt")
    assert (code, out, len(hub.ranges)) == (1, "stores/org--model.zarr\nstores/other--model.zarr\n", ranges)
    assert err.count("is there already") == 2


def test_a_list_of_sources_that_cannot_be_read(run: Any) -> None:
    Path("bits.txt").write_bytes(b"\xff\xfe")
    for path, why in {"none.txt": "No such file", "/dev/zero": "it is no list", "bits.txt": "it is no list"}.items():
        code, _, err = run("convert", "--from-file", path)
        assert (code, err.count("\n")) == (2, 1)
        assert f"error: cannot read {path}: {why}" in err
    assert run("convert")[0] == 2


def test_a_file_that_is_too_long_for_a_config_is_not_downloaded(hub: Hub, run: Any) -> None:
    hub.sizes["README.md"] = 1 << 40
    code, _, err = run("convert", "org/model")
    assert (code, hub.sent) == (2, {})
    assert "error: README.md of org/model has 1099511627776 bytes on the hub" in err


@pytest.mark.slow
def test_the_endpoint_of_the_environment_is_used(hub: Hub, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    command = [Path(sys.executable).with_name("embgeom"), "convert", "org/model", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stores"] == ["stores/org--model.zarr"]
    expect(tmp_path / "stores/org--model.zarr")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("org/name", ("org/name", None)),
        ("gpt2", ("gpt2", None)),
        ("Qwen/Qwen2.5-3B@main", ("Qwen/Qwen2.5-3B", "main")),
        ("org/name@refs/pr/1", ("org/name", "refs/pr/1")),
        *(
            (source, None)
            for source in ("a/b/c", "/a/b", "./a", "a--b/c..d", "a/b.bin", "w.safetensors", "a b", "", "@x")
        ),
    ],
)
def test_what_looks_like_a_hub_id(source: str, found: tuple[str, str | None] | None) -> None:
    assert own.parse(source) == found


def test_a_library_caller_gets_the_errors(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither here nor on"):
        convert.convert("org/none", tmp_path)
    hub.deaf = True
    with pytest.raises(EmbgeomError, match="the whole file"):
        convert.convert("org/model", tmp_path)
