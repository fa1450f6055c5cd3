"""Two vocabularies row by row and many all against all: against fractions, brute force and what was planted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xarray as xr
from distributed import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.errors import InputError
from embgeom_dask.storage import model_stores, model_writing
from embgeom_dask.testing import make_store
from embgeom_dask.testing.checkpoints import ArrayRows
from embgeom_dask.testing.references import truth

Array = np.ndarray
METRICS = ("euclidean", "cosine", "chebyshev", "cityblock")


@pytest.fixture(autouse=True)
def small_chunks() -> Iterator[None]:
    with tuning.override(CHUNK_BYTES=4096, PART_BYTES=4096):
        yield


def two(rows: int = 60, width: int = 12, seed: int = 0) -> tuple[Array, Array]:
    """A base and a tuned matrix: rows 0 to 9 are identical, 10 is scaled, 11 has one other value, 12 is zero in one."""
    random = np.random.default_rng(seed)
    base = 0.37 + 1e-2 * random.normal(size=(rows, width))
    tuned = base + 1e-4 * random.normal(size=base.shape)
    tuned[:10], tuned[10], tuned[11], tuned[12] = base[:10], 2 * base[10], base[11], 0
    tuned[11, 3] += 0.5
    base[1, 0], tuned[1, 0] = 0.0, -0.0
    return base, tuned


def named_store(path: Path, rows: Array, **labels: Any) -> str:
    """A store of rows with labels: pieces, texts and bytes."""
    own = {"token": labels.pop("token"), "text": labels.pop("text"), "has_token": labels.pop("has", None)}
    own["has_token"] = own["has_token"] or [True] * len(rows)
    made = model_stores.make_labels(**own, **labels)
    sources = {"output_embedding": ArrayRows(rows)}
    return model_writing.write_model(path, sources, labels=made, attrs={"model": f"org/{path.stem}"})


@pytest.mark.parametrize(
    "types",
    [(np.float32, np.float32), (ml_dtypes.bfloat16, np.float32), (np.float16, ml_dtypes.bfloat16), (np.float64,) * 2],
)
def test_every_distance_is_the_nearest_to_the_true_one(types: tuple[Any, Any], tmp_path: Path) -> None:
    base, tuned = (rows.astype(dtype) for rows, dtype in zip(two(), types, strict=True))
    found = eg.compare(make_store(tmp_path / "a.zarr", base), make_store(tmp_path / "b.zarr", tuned))
    for metric in METRICS:
        keep = np.arange(60) != 12 if metric == "cosine" else np.ones(60, bool)
        for row in np.flatnonzero(keep).tolist():
            pair = truth(base[row : row + 1], metric=metric, against=(tuned[row : row + 1], np.arange(1)))
            assert found[f"{metric}_distance"].values[row] == pair.distance[0], (metric, row)
    assert np.isnan(found["cosine_distance"].values[12])
    different = base.astype(float) != tuned.astype(float)
    assert found["changed_value_count"].values.tolist() == different.sum(axis=1).tolist()
    assert found["identical_count"].item() == (~different.any(axis=1)).sum()
    norms = [eg.tokens(tmp_path / f"{name}.zarr")["norm_l2"].values.tolist() for name in "ab"]
    assert [found["norm_l2"].values.tolist(), found["against_norm_l2"].values.tolist()] == norms
    means = [eg.survey(tmp_path / f"{name}.zarr")["centroid"].values[0] for name in "ab"]
    assert found["centroid"].values.tolist() == means[0].tolist()
    np.testing.assert_allclose(found["centroid_shift"], np.linalg.norm(means[0] - means[1]), rtol=1e-9)


def test_no_worker_or_chunk_changes_a_bit(tmp_path: Path, workers: Client) -> None:
    base, tuned = (rows.astype(ml_dtypes.bfloat16) for rows in two(900))
    a, b = make_store(tmp_path / "a.zarr", base), make_store(tmp_path / "b.zarr", tuned[:800])
    alone, all_of = eg.compare(a, b), eg.compare([a, b])
    assert alone.sizes["unmatched"] == 100
    xr.testing.assert_equal(eg.compare(a, b, client=workers), alone)
    xr.testing.assert_equal(eg.compare([a, b], client=workers), all_of)
    with tuning.override(CHUNK_BYTES=1 << 20):
        c = make_store(tmp_path / "c.zarr", base)
        xr.testing.assert_equal(eg.compare(c, b), alone)
        xr.testing.assert_equal(eg.compare([c, b]), all_of)


def test_tokens_are_matched_through_the_marks_of_spaces(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    byte_level = named_store(
        tmp_path / "gpt.zarr",
        rows[:7],
        token=["\u0120king", "king", "\u00c3\u00a9", "A", "only", "\u00ff", ""],
        text=[" king", "king", "\u00e9", "A", "only", "\ufffd", ""],
        bytes=["206b696e67", "6b696e67", "c3a9", "41", "6f6e6c79", "ff", ""],
        has=[True] * 6 + [False],
    )
    sentence = named_store(
        tmp_path / "llama.zarr",
        rows[::-1],
        token=["<0x41>", "<0xFF>", "\u2581king", "A", "\u00e9", "king", "other", "\u2581king"],
        text=["A", "\ufffd", " king", "A", "\u00e9", "king", "other", " king"],
        bytes=["41", "ff", "", "", "", "", "", ""],
    )
    found = eg.compare(byte_level, sentence, match="token")
    assert found["token_id"].values.tolist() == [0, 1, 2, 3, 5]
    assert found["against_token_id"].values.tolist() == [2, 5, 4, 3, 1]
    assert found["against_token"].values[0] == "\u2581king"
    assert found["unmatched_token_id"].values.tolist() == [4, 6]
    assert found["against_unmatched_token_id"].values.tolist() == [0, 6, 7]
    assert [found[f"{side}unmatched_count"].item() for side in ("", "against_")] == [2, 3]
    there = rows[::-1][[2, 5, 4, 3, 1]].astype(float)
    np.testing.assert_allclose(
        found["euclidean_distance"], np.linalg.norm(rows[[0, 1, 2, 3, 5]] - there, axis=1), rtol=1e-12
    )
    assert "token_changed" not in found
    plain = make_store(tmp_path / "plain.zarr", rows[:2], tokens=["\u2581king", "\u0120king"], model="org/plain")
    again = eg.compare(plain, sentence, match="token")
    assert again["against_token_id"].values.tolist() == [2]
    assert eg.compare([byte_level, sentence])["shared_token_count"].values.tolist() == [[6, 5], [5, 6]]


def test_pieces_that_begin_a_word_are_matched_with_those_of_wordpiece(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32)
    bert = ["[CLS]", "king", "##king", ",", "##,", "\u738b", "##\u738b", "##s", "[unused0]", "##"]
    others = {
        "sentence": ["\u2581king", "king", ",", "\u2581,", "##,", "\u738b", "s", "\u2581s", "[CLS]", "##\u738b"],
        "gpt": ["\u0120king", "king", ",", "\u0120,", "##,", "\u738b", "s", "\u0120s", "[CLS]", "##\u738b"],
        "bert": ["##s", "king", "##,", ",", "\u738b", "##king", "##\u738b", "[CLS]", "kings", "##"],
    }
    special = [True] + [False] * 9
    mine = named_store(tmp_path / "mine.zarr", rows[:10], token=bert, text=bert, is_special=special)
    expected = {"sentence": [8, 0, 1, 2, 5, 6], "gpt": [8, 0, 1, 2, 5, 6], "bert": [7, 1, 5, 3, 2, 4, 6, 0, 9]}
    matched = {"bert": [0, 1, 2, 3, 4, 5, 6, 7, 9]}
    for name, pieces in others.items():
        texts = [piece.replace("\u0120", " ") for piece in pieces]
        raw = [text.encode().hex() if name == "gpt" else "" for text in texts]
        other = named_store(tmp_path / f"{name}.zarr", rows[:10], token=pieces, text=texts, bytes=raw)
        found = eg.compare(mine, other, match="token")
        assert found["token_id"].values.tolist() == matched.get(name, [0, 1, 2, 3, 5, 7]), name
        assert found["against_token_id"].values.tolist() == expected[name], name
        assert found["unmatched_count"].item() == 10 - len(expected[name])
        assert eg.compare(other, mine, match="token")["matched_count"].item() == len(expected[name])


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(2, 40), second=st.integers(2, 40), seed=st.integers(0, 2**32 - 1))
def test_matching_by_token_undoes_a_shuffle(first: int, second: int, seed: int, client: Client) -> None:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(60, 3)).astype(np.float32)
    mine, theirs = (np.sort(random.permutation(60)[:count]) for count in (first, second))
    theirs = random.permutation(theirs)
    sides = [
        xr.DataArray(rows[ids], dims=("token", "hidden"), coords={"token": [f"w{each}" for each in ids]})
        for ids in (mine, theirs)
    ]
    shared = set(mine) & set(theirs)
    if not shared:
        with pytest.raises(InputError, match="have no token in common: match them by token id"):
            eg.compare(*sides, match="token", client=client)
        return
    found = eg.compare(*sides, match="token", client=client)
    assert set(found["token"].values.tolist()) == {f"w{each}" for each in shared}
    assert found["token"].values.tolist() == found["against_token"].values.tolist()
    assert not found["euclidean_distance"].any()
    assert found["identical_count"].item() == found["matched_count"].item() == len(shared)


def test_of_other_widths_there_are_norms_but_no_distances(tmp_path: Path) -> None:
    base, tuned = two()
    a, b = make_store(tmp_path / "a.zarr", base), make_store(tmp_path / "b.zarr", tuned[:, :5])
    found = eg.compare(a, b)
    assert "euclidean_distance" not in found
    assert "centroid_shift" not in found
    assert found.sizes["against_hidden"] == 5
    assert found["matched_count"].item() == 60
    assert found.embgeom.to_frame("against_centroid").columns.tolist() == ["against_hidden", "against_centroid"]


def test_lineage_finds_what_was_planted(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    base = random.normal(size=(2500, 6)).astype(np.float32)
    base[[7, 8]] = base[3]  # 2,498 different rows
    tuned = base.copy()
    tuned[100:200] += 1
    moved = tuned[:, ::-1][:, :5].copy()  # other width
    longer = np.vstack([base, random.normal(size=(30, 6)).astype(np.float32)])
    longer[:, 2] = 0
    rolled = np.roll(base, 1, axis=0)
    arrays = {"base": base, "copy": base, "tuned": tuned, "moved": moved, "longer": longer, "rolled": rolled}
    stores = [make_store(tmp_path / f"{name}.zarr", rows, model=f"org/{name}") for name, rows in arrays.items()]
    found = eg.compare(stores).rename(against="other").set_index(model="model", other="other")

    def of(name: str, first: str, second: str) -> int:
        there = found[name].sel(model=f"org/{first}", other=f"org/{second}").item()
        assert there == found[name].sel(model=f"org/{second}", other=f"org/{first}").item()
        return int(there)

    assert [of("same_bytes", "base", other) for other in arrays] == [1, 1, 0, 0, 0, 0]
    assert [of("identical_row_count", "base", other) for other in arrays] == [2500, 2500, 2400, 0, 0, 1]
    assert [of("shared_row_count", "base", other) for other in arrays] == [2498, 2498, 2398, 0, 0, 2498]
    assert [of("identical_column_count", "base", other) for other in arrays] == [6, 6, 0, 0, 5, 0]
    assert of("shared_column_count", "tuned", "moved") == 5
    assert of("identical_column_count", "tuned", "moved") == 0
    assert [of("shared_token_count", "base", other) for other in ("base", "longer")] == [2500, 2500]
    frame = eg.compare(stores[:2]).embgeom.to_frame("models")
    assert frame["shared_row_count"].tolist() == [2498] * 4


def test_values_of_other_types_are_compared_as_values(tmp_path: Path) -> None:
    rows = np.random.default_rng(3).normal(size=(50, 4)).astype(ml_dtypes.bfloat16)
    rows[0] = 0
    types = (ml_dtypes.bfloat16, np.float32, np.float64)
    stores = [make_store(tmp_path / f"{i}.zarr", rows.astype(each), model=f"org/{i}") for i, each in enumerate(types)]
    minus = rows.copy()
    minus[0] = -0.0
    stores.append(make_store(tmp_path / "3.zarr", minus, model="org/3"))
    found = eg.compare(stores)
    assert (found["identical_row_count"].values == 50).all()
    assert (found["identical_column_count"].values == 4).all()
    assert found["same_bytes"].values.sum() == 4
    assert not eg.compare(stores[1], stores[3])["changed_value_count"].any()


def test_results_are_saved_and_told_apart(tmp_path: Path) -> None:
    base, tuned = two()
    a = make_store(tmp_path / "a.zarr", base, model="org/a")
    b = make_store(tmp_path / "b.zarr", tuned, model="org/b", tokens=["x", *(f"t{i}" for i in range(1, 60))])
    found = eg.compare(a, b, out=tmp_path / "r.zarr")
    xr.testing.assert_identical(eg.open_result(tmp_path / "r.zarr"), found)
    xr.testing.assert_identical(eg.compare(a, b, out=tmp_path / "r.zarr"), found)
    assert found["token_changed"].values.nonzero()[0].tolist() == [0]
    assert (found["model"].item(), found["against"].item()) == ("org/a", "org/b")
    untold = make_store(tmp_path / "c.zarr", tuned, model="org/c", tokens=[""] * 60)
    assert not {"token_changed", "token_changed_count"} & set(eg.compare(a, untold).variables)
    with pytest.raises(InputError, match="match is 'id' there and 'token' here"):
        eg.compare(a, b, match="token", out=tmp_path / "r.zarr")
    frame = found.embgeom.to_frame("rows")
    assert frame["euclidean_distance"].tolist() == found["euclidean_distance"].values.tolist()
    all_of = eg.compare([a, b], out=tmp_path / "all.zarr")
    xr.testing.assert_identical(eg.open_result(tmp_path / "all.zarr"), all_of)
    part = eg.open_model(a)["output_embedding"][20:40]
    some = eg.compare(part, b)
    assert some["token_id"].values.tolist() == list(range(20, 40))
    assert some["against_unmatched_count"].item() == 40
    assert some["euclidean_distance"].values.tolist() == found["euclidean_distance"].values[20:40].tolist()
    assert set(json.loads(some.attrs["settings"])) == {"match", "tokens"}


def test_what_is_refused(tmp_path: Path) -> None:
    base, tuned = two()
    a, b = make_store(tmp_path / "a.zarr", base), make_store(tmp_path / "b.zarr", input=tuned)
    with pytest.raises(InputError, match=r"by default .* gives its output_embedding and .* its input_embedding"):
        eg.compare(a, b)
    assert eg.compare(f"{a}:output", f"{b}:input", role="output")["matched_count"].item() == 60
    with pytest.raises(InputError, match="has no input_embedding"):
        eg.compare(f"{a}:input", b)
    with pytest.raises(InputError, match="`match` name: choose id or token"):
        eg.compare(a, a, match="name")
    with pytest.raises(InputError, match="compare needs two stores or more"):
        eg.compare(a)
    with pytest.raises(InputError, match="`data` is a list"):
        eg.compare([a, a], b)
    twice = xr.DataArray(base[:2], dims=("token_id", "hidden"), coords={"token_id": [3, 3]})
    with pytest.raises(InputError, match="token id 3 is that of several rows: give each row once"):
        eg.compare(twice, a)
    with pytest.raises(InputError, match="have no id in common"):
        eg.compare(twice[:1].assign_coords(token_id=[99]), a)
    bad = tuned.copy()
    bad[[3, 30]] = np.nan
    with pytest.raises(InputError, match=r"2 of 60 rows .* hold NaN or infinity \(token ids 3, 30\)"):
        eg.compare(a, make_store(tmp_path / "bad.zarr", bad), out=tmp_path / "r.zarr")
    assert not (tmp_path / "r.zarr").exists()


def turned(rows: Array, width: int, seed: int = 5) -> tuple[Array, Array, Array]:
    """The columns of rows in another order, with other signs and some noise, and columns of noise up to `width`."""
    random = np.random.default_rng(seed)
    order, signs = random.permutation(rows.shape[1]), random.choice([-1, 1], rows.shape[1])
    found = np.hstack([rows[:, order] * signs, random.normal(size=(len(rows), width - rows.shape[1]))])
    places = random.permutation(width)
    place_of = np.empty(width, int)
    place_of[places] = np.arange(width)
    return (
        found[:, places] + 0.01 * random.normal(size=found.shape),
        place_of[np.argsort(order)],
        signs[np.argsort(order)],
    )


@pytest.mark.parametrize("width", [9, 14])
def test_columns_are_found_through_order_sign_and_width(width: int, tmp_path: Path, client: Client) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rows = np.random.default_rng(4).normal(size=(500, 9)) * np.linspace(1, 3, 9) + 0.3
    other, match, signs = turned(rows, width)
    base, tuned = rows.astype(np.float32), other[:450].astype(ml_dtypes.bfloat16)
    a, b = make_store(tmp_path / "a.zarr", base), make_store(tmp_path / "b.zarr", tuned)
    found = eg.compare(a, b, columns=True, client=client)
    assert found["column_match"].values.tolist() == match.tolist()
    assert np.sign(found["column_cosine"].values).tolist() == signs.tolist()
    x, y = base[:450].astype(float), tuned.astype(float)
    cosine = (x / np.linalg.norm(x, axis=0)).T @ (y / np.linalg.norm(y, axis=0))
    mine, theirs = optimize.linear_sum_assignment(1 - np.abs(cosine))
    np.testing.assert_allclose(found["column_cosine"], cosine[mine, theirs], rtol=1e-12)
    np.testing.assert_allclose(found["column_cosine_mean"], np.abs(cosine[mine, theirs]).mean(), rtol=1e-12)
    assert found["column_moved_count"].item() == (match != np.arange(9)).sum()
    x, y = x - x.mean(0), y - y.mean(0)
    cka = np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert abs(found["cka"].item() - cka) < 1e-12
    assert 0 < found["cka_error"].item() < 1e-11
    spectra = [np.linalg.eigh(np.cov(each.T)) for each in (x, y)]
    scores = [each @ vectors[:, ::-1][:, :9] for each, (_, vectors) in zip((x, y), spectra, strict=True)]
    there = np.corrcoef(*(each.T for each in scores))[:9, 9:]
    np.testing.assert_allclose(np.abs(found["score_correlation"]), np.abs(there), atol=1e-9)
    np.testing.assert_allclose(found["component_share"], spectra[0][0][::-1] / spectra[0][0].sum(), rtol=1e-9)
    assert ("component_cosine" in found) == (width == 9)


def test_neighbors_csls_and_shared_tokens_are_those_of_brute_force(tmp_path: Path, client: Client) -> None:
    random = np.random.default_rng(6)
    words = [f"w{i}" for i in range(70)]
    rows = random.normal(size=(70, 6)).astype(np.float32)
    tuned = (rows + 0.3 * random.normal(size=rows.shape)).astype(np.float32)
    mine, theirs = np.arange(60), random.permutation(np.arange(15, 70))
    a = make_store(tmp_path / "a.zarr", rows[mine], tokens=[words[i] for i in mine])
    b = make_store(tmp_path / "b.zarr", tuned[theirs], tokens=[words[i] for i in theirs])
    how: dict[str, Any] = {"match": "token", "metric": "cosine", "client": client}
    found = eg.compare(a, b, neighbors=4, csls=5, shared=3, **how)
    shared = np.arange(15, 60)
    x, y = (each[shared].astype(float) for each in (rows, tuned))
    x, y = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (x, y))
    lists = [np.argsort(-(each @ each.T) + 9 * np.eye(45), axis=1)[:, :4] for each in (x, y)]
    kept = [len({*one} & {*other}) for one, other in zip(*(each.tolist() for each in lists), strict=True)]
    assert found["neighbors_kept"].values.tolist() == kept
    assert found["neighbors_kept_share"].item() == pytest.approx(sum(kept) / 180)
    near = [np.sort(each, axis=1)[:, -5:].mean(axis=1) for each in (x @ y.T, y @ x.T)]
    np.testing.assert_allclose(found["csls"], 2 * (x * y).sum(axis=1) - near[0] - near[1], atol=1e-12)
    np.testing.assert_allclose(found["against_near_cosine_mean"], near[1], rtol=1e-12)
    scaled = 2 * x @ y.T - near[0][:, None] - near[1]
    first = np.argsort(-scaled, axis=1)[:, :5]
    ids = np.array([theirs.tolist().index(i) for i in shared])[first]
    assert found["near_token_id"].values.tolist() == ids.tolist()
    assert found["near_token"].values[:, 0].tolist() == [words[i] for i in shared[first[:, 0]]]
    np.testing.assert_allclose(found["near_csls"], np.take_along_axis(scaled, first, 1), atol=1e-12)
    assert found["csls_first_share"].item() == np.mean(first[:, 0] == np.arange(45))
    left = rows[:15].astype(float)
    cosine = (left / np.linalg.norm(left, axis=1, keepdims=True)) @ x.T
    best = np.argsort(-cosine, axis=1)[:, :3]
    assert found["shared_token_id"].values.tolist() == shared[best].tolist()
    assert found["shared_token"].values.tolist() == [[words[i] for i in line] for line in shared[best].tolist()]
    np.testing.assert_allclose(found["shared_distance"], 1 - np.take_along_axis(cosine, best, 1), rtol=1e-12)
    assert found.embgeom.to_frame("shared")["unmatched_token_id"].tolist() == np.repeat(np.arange(15), 3).tolist()
    same = eg.compare(a, a, csls=1, client=client)
    np.testing.assert_allclose(same["csls"], 0, atol=1e-15)


def test_a_row_of_zeros_has_no_cosine_with_any(tmp_path: Path, client: Client) -> None:
    rows = np.random.default_rng(7).normal(size=(9, 4)).astype(np.float32)
    rows[[1, 8]] = 0
    a, b = make_store(tmp_path / "a.zarr", rows), make_store(tmp_path / "b.zarr", rows[:6])
    found = eg.compare(a, b, csls=2, shared=2, neighbors=2, metric="cosine", client=client)
    assert np.flatnonzero(np.isnan(found["csls"])).tolist() == [1]
    assert found["near_token_id"].values[1].tolist() == [-1, -1]
    assert found["near_token_id"].values[[0, 2, 3, 4, 5], 0].tolist() == [0, 2, 3, 4, 5]
    assert found["csls_first_share"].item() == 1
    assert found["neighbors_kept"].values.tolist() == [2, 0, 2, 2, 2, 2]
    assert found["neighbors_kept_share"].item() == 1
    assert found["shared_token_id"].values[2].tolist() == [-1, -1]
    other = rows[:6].copy()
    other[[0, 3, 4]] = other[[3, 0, 4]] * [[1], [1], [0]]
    swapped = eg.compare(a, make_store(tmp_path / "c.zarr", other), csls=2, client=client)
    assert np.flatnonzero(np.isnan(swapped["csls"])).tolist() == [1, 4]
    assert swapped["csls_first_share"].item() == 0.5  # of 0, 2, 3 and 5


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    base, tuned = two()
    a, b = make_store(tmp_path / "a.zarr", base), make_store(tmp_path / "b.zarr", tuned[:, :5])
    with pytest.raises(InputError, match="`csls`: test/model has 12 columns and test/model has 5"):
        eg.compare(a, b, csls=3)
    with pytest.raises(InputError, match="this is asked of two stores"):
        eg.compare([a, b], neighbors=3)
    with pytest.raises(InputError, match="`shared` 0: give a whole number of at least 1"):
        eg.compare(a, b, shared=0)
    with pytest.raises(InputError, match="no metric 'taxi'"):
        eg.compare(a, b, metric="taxi")
