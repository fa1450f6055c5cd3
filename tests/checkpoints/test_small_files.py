"""Configs, indexes and model cards of any content: read within bounds, or refused in one line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import metadata_load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, PreTrainedTokenizerFast

from embgeom_dask.checkpoints import convert
from embgeom_dask.checkpoints.files import LocalFolder
from embgeom_dask.checkpoints.safetensors import read_index
from embgeom_dask.checkpoints.small_files import read_config, read_license
from embgeom_dask.errors import InputError
from embgeom_dask.storage import model_stores
from embgeom_dask.testing import make_checkpoint, make_store
from tests.checkpoints.test_convert import LLAMA, contents, random, stored

JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=4), parts, max_size=3),
    max_leaves=6,
)
ANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MARK = b"\xef\xbb\xbf"
TENSORS = {"model.embed_tokens.weight": random(20, 8), "lm_head.weight": random(20, 8, seed=1)}


def in_one_line(error: InputError) -> bool:
    return "\n" not in str(error) and len(str(error)) < 600


def read(reader: Callable[[], Any]) -> Any:
    """What `reader` returns; None where it refuses, in one line."""
    try:
        return reader()
    except InputError as error:
        if in_one_line(error):
            return None
        raise


@ANY
@given(JSON, JSON, JSON)
def test_a_config_of_any_shape_is_read_or_refused_in_one_line(
    tmp_path: Path, architectures: Any, kind: Any, whole: Any
) -> None:
    for value in (whole, {"architectures": architectures, "model_type": kind}):
        (tmp_path / "config.json").write_text(json.dumps(value))
        config = read(lambda: read_config(tmp_path)) or {}
        names = config.get("architectures")
        assert names is None or all(isinstance(name, str) for name in names)
        assert isinstance(config.get("model_type"), str | None)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architectures": 5}, "architectures is 5, not names"),
        ({"architectures": {"a": 1}}, "architectures is {'a': 1}, not names"),
        ({"architectures": "LlamaForCausalLM"}, "architectures is 'LlamaForCausalLM', not names"),
        ({"model_type": ["x"]}, r"model_type is \['x'\], not a name"),
        ({"model_type": {}}, "model_type is {}, not a name"),
    ],
)
def test_a_config_whose_names_are_none_is_refused(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    source = make_checkpoint(tmp_path / "m", TENSORS, LLAMA | config)
    with pytest.raises(InputError, match=r"config\.json is not a model's config: " + words):
        convert.convert(source, tmp_path / "stores")
    keys = dict(zip(("input_key", "output_key"), TENSORS, strict=True))
    assert model_stores.open_model(convert.convert(source, tmp_path, **keys)).attrs["architecture"] == ""


@pytest.mark.filterwarnings("ignore::embgeom_dask.errors.EmbgeomWarning")  # of a class that transformers has not
@settings(ANY, max_examples=12)
@given(st.sampled_from(sorted(LLAMA)) | st.sampled_from(["tie_word_embeddings", "rope_parameters", "dtype"]), JSON)
def test_a_field_of_any_shape_is_used_or_refused_in_one_line(tmp_path: Path, field: str, value: Any) -> None:
    source = tmp_path / "m"
    if not source.exists():
        make_checkpoint(source, TENSORS)
    (source / "config.json").write_text(json.dumps(LLAMA | {field: value}))
    store = read(lambda: convert.convert(source, tmp_path / "stores", overwrite=True))
    assert store is None or stored(store, "input") == TENSORS["model.embed_tokens.weight"].tobytes()


@ANY
@given(JSON | st.builds(lambda value: {"weight_map": value}, JSON))
def test_an_index_of_any_shape_is_read_or_refused_in_one_line(tmp_path: Path, value: Any) -> None:
    (tmp_path / "index.json").write_text(json.dumps(value))
    files = read(lambda: read_index(LocalFolder(tmp_path, "m", ""), "index.json", ".safetensors")) or {}
    assert all(file.endswith(".safetensors") for file in files.values())


@pytest.mark.parametrize("shard", ["a" * 5000, "\0", "a\0b", "/" * 300])
def test_an_index_that_names_what_is_no_file_name_is_refused(tmp_path: Path, shard: str) -> None:
    index = {"weight_map": {"a": f"{shard}.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"not a \.safetensors file of the folder") as refused:
        convert.convert(tmp_path, tmp_path / "stores")
    assert in_one_line(refused.value)


@ANY
@given(
    st.dictionaries(
        st.sampled_from(["license", "license_name", "tags", "base_model", "a b", "1"]),
        st.text(max_size=20) | st.lists(st.text(max_size=5), max_size=3) | st.none() | st.integers() | JSON,
    ),
    st.booleans(),
)
def test_the_licence_is_what_the_hubs_library_reads(tmp_path: Path, card: dict[str, Any], marked: bool) -> None:
    path = tmp_path / "README.md"
    text = f"---\n{yaml.safe_dump(card, allow_unicode=True)}\n---\n# A model\nlicense: none\n"
    path.write_bytes(MARK * marked + text.encode("utf-8", "replace"))
    read = metadata_load(path) or {}
    wanted = read.get("license_name") or read.get("license")
    if any(isinstance(read.get(name), bool | int | float) for name in ("license_name", "license")):
        return  # the library gives a number, here it is its text
    if isinstance(wanted, str):
        assert read_license(path) == wanted
    elif isinstance(wanted, list) and all(isinstance(item, str) and item for item in wanted):
        assert read_license(path) == ", ".join(wanted)


def test_numbers_that_are_not_finite_are_read_as_transformers_writes_them(tmp_path: Path) -> None:
    config: Any = LlamaConfig()
    config.limits = [0.0, float("inf"), -float("inf")]
    config.save_pretrained(tmp_path)
    assert "__float__" in (tmp_path / "config.json").read_text()
    assert read_config(tmp_path)["limits"] == [0.0, float("inf"), -float("inf")]


def test_a_card_that_describes_more_than_fits_in_memory_is_looked_through(tmp_path: Path) -> None:
    lines = ["---", "a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    path = tmp_path / "README.md"
    for licence, wanted in {
        "*a11": "",
        "&b [*b]": "",
        "mit": "mit",
        "[" * 200_000: "",
        "!!python/name:os.system x": "x",
    }.items():
        path.write_text("\n".join([*lines, f"license: {licence}", "---", ""]))
        began = time.process_time()
        assert read_license(path) == wanted
        assert time.process_time() - began < 20  # 9**12 items would never end
    path.write_bytes(b"---\nlicense: \xff\n---\n")
    assert read_license(path) == "\N{REPLACEMENT CHARACTER}"
    assert read_license(tmp_path / "none.md") == ""


@pytest.mark.parametrize("scale", ["NaN", "Infinity", "-Infinity"])
def test_a_scale_that_is_no_number_is_refused_and_infinity_elsewhere_is_not(tmp_path: Path, scale: str) -> None:
    source = Path(make_checkpoint(tmp_path / "m", TENSORS))
    granite = json.dumps(LLAMA | {"model_type": "granite", "architectures": ["GraniteForCausalLM"]})[:-1]
    (source / "config.json").write_text(f'{granite}, "embedding_multiplier": {scale}}}')
    with pytest.raises(InputError) as refused:
        convert.convert(source, tmp_path / "stores")
    assert in_one_line(refused.value)
    assert contents(tmp_path / "stores") == []
    (source / "config.json").write_text(f'{granite}, "embedding_multiplier": 2.5, "time_step_limit": [0.0, Infinity]}}')
    store = convert.convert(source, tmp_path / "stores")
    assert json.loads(model_stores.open_model(store).attrs["decision"])["embedding_scale"] == 2.5


def test_byte_order_marks_are_skipped(tmp_path: Path) -> None:
    source = Path(make_checkpoint(tmp_path / "m", TENSORS, LLAMA, shards=2))
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(20)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(source)
    files = ("config.json", "model.safetensors.index.json", "README.md", "tokenizer.json", "tokenizer_config.json")
    for file in files:
        (source / file).write_bytes(MARK + (source / file).read_bytes())
    opened = model_stores.open_model(convert.convert(source, tmp_path / "stores"))
    assert (opened.attrs["architecture"], opened.attrs["license"]) == ("LlamaForCausalLM", "mit")
    assert json.loads(opened.attrs["decision"])["class"] == "LlamaForCausalLM"
    assert opened.token.values.tolist() == [f"w{i}" for i in range(20)]


@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "README.md", "tokenizer.json", "pytorch_model.bin"]
)
@pytest.mark.parametrize("device", [False, True])
def test_pipes_and_devices_are_not_read(tmp_path: Path, file: str, device: bool) -> None:
    source = Path(make_checkpoint(tmp_path / "m", TENSORS, LLAMA))
    (source / file).unlink(missing_ok=True)
    if device:
        (source / file).symlink_to("/dev/zero")
    else:
        os.mkfifo(source / file)
    with pytest.raises(InputError, match=f"{file} is a pipe or a device, not a file: move it away"):
        convert.convert(source, tmp_path / "stores")


def test_a_config_that_links_to_nothing_or_is_too_long_is_refused(tmp_path: Path) -> None:
    source = Path(make_checkpoint(tmp_path / "m", TENSORS))
    (source / "config.json").symlink_to("../blobs/0123")
    with pytest.raises(InputError, match=r"config\.json is a link to \.\./blobs/0123, which is not there: download"):
        convert.convert(source, tmp_path / "stores")
    (source / "config.json").unlink()
    with (source / "config.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="its 1099511627776 bytes are more than 16777216"):
        convert.convert(source, tmp_path / "stores")


def test_a_tensor_of_a_long_name_is_named_in_part(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a" * 100_000: np.ones((2, 2)), "b": np.ones((2, 3))}, path)
    with pytest.raises(InputError, match="has 2 matrices") as refused:
        convert.convert(path, tmp_path / "stores")
    assert in_one_line(refused.value)


@pytest.mark.parametrize("source", ["a" * 5000, "a/" * 3000 + "b", "a\0b", "\ud800"])
def test_a_source_of_any_name_is_refused_in_one_line(tmp_path: Path, source: str) -> None:
    with pytest.raises(InputError) as refused:
        convert.convert(str(tmp_path / source), tmp_path / "stores")
    assert in_one_line(refused.value)


def test_a_store_whose_name_would_be_too_long_is_refused(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / ("o" * 150) / ("n" * 150), TENSORS, LLAMA)
    with pytest.raises(InputError, match="would give a store of a name of 307 bytes: rename its folder"):
        convert.convert(source, tmp_path / "stores")


def test_a_store_that_tells_no_decision_is_not_taken_for_the_same(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "models--org--m/snapshots/0123abcd", TENSORS, LLAMA)
    make_store(tmp_path / "org--m.zarr", random(20, 8), model="org/m", revision="0123abcd")
    with pytest.raises(InputError, match="exists: `overwrite` replaces it"):
        convert.convert(source, tmp_path)
