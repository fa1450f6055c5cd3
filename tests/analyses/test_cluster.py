"""The dense cluster: planted ones, clouds that have none, and the files that notebooks exchange of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import xarray as xr
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import embgeom_dask as eg
from embgeom_dask import tuning
from embgeom_dask.analyses.cluster import cluster
from embgeom_dask.errors import InputError, SomeFailed
from embgeom_dask.statistics.gaps import Distances, up_to_gap
from embgeom_dask.testing import make_store

Array = np.ndarray
POPULATIONS = (814, 704, 306, 228, 11, 10, 6, 5, 4, 4, 3, 3, 2)


@pytest.fixture(autouse=True)
def small_chunks() -> Iterator[None]:
    with tuning.override(CHUNK_BYTES=1 << 18):
        yield


def planted(seed: int = 0) -> tuple[Array, Array, Array]:
    """A vocabulary with 2,246 tokens close together, many with identical rows, and two that only look to be there.

    Its rows, the tokens, and the two, which a box drawn in three components holds too.
    """
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(9_000, 48)) / np.sqrt(48) * 1.1
    places = rng.permutation(len(rows))
    members, false = np.sort(places[:2246]), np.sort(places[2246:2248])
    direction = rng.normal(size=48)
    centre = 0.37 * direction / np.linalg.norm(direction)
    rows[members] = centre + 1.25e-3 * rng.normal(size=(2246, 48)) / np.sqrt(48)
    identical = rng.permutation(members)
    for count in POPULATIONS:
        rows[identical[:count]] = rows[identical[0]]
        identical = identical[count:]
    rows[false, :3] = centre[:3]
    return rows.astype(ml_dtypes.bfloat16), members, false


def test_a_cluster_of_2248_with_two_false_members(tmp_path: Path, client: Client) -> None:
    rows, members, false = planted()
    path, file = make_store(tmp_path / "m.zarr", rows), tmp_path / "1.6a_cluster_mask.safetensors"
    drawn = np.zeros(len(rows), np.uint8)
    drawn[[*members, *false]] = 1
    save_file({"cluster_mask": drawn}, file)
    box = eg.outliers(path, f"{file}", client=client)
    assert box["token_count"].item() == 2248
    assert box["farthest_token_id"].values.tolist() == false.tolist()
    found = cluster(path, client=client)
    assert np.flatnonzero(found["in_cluster"]).tolist() == members.tolist()
    assert bool(found["stands_apart"])
    assert bool(found["is_stable"])
    assert sorted(found["cluster_token_id"].values.tolist()) == members.tolist()
    assert np.all(np.diff(found["cluster_distance"].values[found["cluster_token_id"].values]) >= 0)
    assert found["cluster_radius"].item() < 5e-3
    assert found["next_distance"].item() > 0.5
    gap = np.flatnonzero(found["gap_token_count"] == 2246)
    assert gap.tolist() == [0]
    assert found["gap_start"].values[0] == found["cluster_radius"].item()
    assert found["gap_end"].values[0] == found["next_distance"].item()
    assert found["iteration_count"].values[-1] == 2246
    # the numbers are those that outliers has of these tokens, bit for bit
    same = eg.outliers(path, client=client)
    assert same["token_count"].item() == 2246
    xr.testing.assert_equal(same["centroid"].variable, found["centroid"].variable)
    assert same["centroid_distance_max"].item() == found["cluster_radius"].item()
    xr.testing.assert_equal(same, eg.outliers(path, members, client=client))


def test_the_mask_has_the_keys_and_types_of_notebooks(tmp_path: Path, client: Client) -> None:
    rows, members, _ = planted(1)
    path, file = make_store(tmp_path / "m.zarr", rows), tmp_path / "c.safetensors"
    found = cluster(path, client=client)
    found.embgeom.to_masks(file)
    tensors = load_file(file)
    assert {name: (str(each.dtype), each.shape) for name, each in tensors.items()} == {
        "cluster_mask": ("uint8", (9000,)),
        "cluster_token_ids": ("int32", (2246,)),
        "spatial_mask": ("uint8", (9000,)),
        "centroid": ("bfloat16", (48,)),
        **dict.fromkeys(("n_cluster", "n_spatial", "n_filtered", "n_iterations"), ("int32", (1,))),
        **dict.fromkeys(("center_lat", "center_lon", "angular_diameter"), ("float32", (1,))),
    }
    assert tensors["cluster_token_ids"].tolist() == members.tolist() == np.flatnonzero(tensors["cluster_mask"]).tolist()
    assert tensors["n_cluster"].item() == 2246
    assert (
        tensors["n_spatial"].item() - tensors["n_filtered"].item()
        == (tensors["spatial_mask"] & tensors["cluster_mask"]).sum()
    )
    assert tensors["n_iterations"].item() == np.count_nonzero(found["iteration_kind"] == "refine")
    again = eg.outliers(path, str(file), client=client)
    assert again["token_count"].item() == 2246
    assert again.attrs["centroid_source"] == "file"
    with pytest.raises(InputError, match=r"c\.safetensors exists: `overwrite` replaces it"):
        found.embgeom.to_masks(file)
    some = cluster(eg.open_model(path)["output_embedding"][:5000], client=client)
    some.embgeom.to_masks(tmp_path / "first.safetensors")
    some = cluster(eg.open_model(path)["output_embedding"][1000:6000], client=client)
    with pytest.raises(InputError, match="this result is of some tokens"):
        some.embgeom.to_masks(tmp_path / "some.safetensors")


def test_masks_and_groups_of_tokens_go_out_and_come_in(tmp_path: Path, client: Client) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    rows[[3, 9, 40]] = rows[20]
    rows[[5, 6]] = rows[50]
    path = make_store(tmp_path / "m.zarr", rows)
    eg.tokens(path, client=client).embgeom.to_masks(tmp_path / "masks.safetensors")
    masks = load_file(tmp_path / "masks.safetensors")
    assert {name: str(each.dtype) for name, each in masks.items()} == {
        **dict.fromkeys(("has_token", "is_added", "is_special"), "bool"),
        "token_to_black_hole": "int64",
    }
    assert masks["has_token"].all()
    duplicates = eg.duplicates(path, client=client)
    duplicates.embgeom.to_masks(tmp_path / "groups.safetensors")
    groups = load_file(tmp_path / "groups.safetensors")
    assert groups["token_to_black_hole"].tolist() == duplicates["token_to_group"].values.tolist()
    for selection in ("groups.safetensors", "masks.safetensors:token_to_black_hole"):
        found = eg.scan(path, tokens=str(tmp_path / selection), neighbors=1, client=client)
        assert found["token_id"].values.tolist() == [3, 5, 6, 9, 20, 40, 50]
    whole = eg.scan(path, tokens=str(tmp_path / "masks.safetensors:has_token"), neighbors=1, client=client)
    assert whole.sizes["token_id"] == 60
    with pytest.raises(InputError, match="this result has no mask"):
        eg.survey(path, client=client).embgeom.to_masks(tmp_path / "no.safetensors")


def test_no_worker_or_chunk_changes_a_bit(tmp_path: Path, workers: Client) -> None:
    rows = planted(2)[0][:4000]
    path = make_store(tmp_path / "m.zarr", rows)
    alone = cluster(path)
    xr.testing.assert_equal(cluster(path, client=workers), alone)
    with tuning.override(CHUNK_BYTES=1 << 22):
        xr.testing.assert_equal(cluster(make_store(tmp_path / "b.zarr", rows)), alone)


@pytest.mark.parametrize(
    "kind", ["normal", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("uniform", "plane"))]
)
def test_a_cloud_of_one_piece_has_no_cluster(kind: str, tmp_path: Path, client: Client) -> None:
    rng = np.random.default_rng(1)
    width = 2 if kind == "plane" else 40
    rows = rng.normal(size=(3000, width)) if kind == "normal" else rng.uniform(-1, 1, (3000, width))
    path = make_store(tmp_path / "m.zarr", rows)
    found = cluster(path, client=client)
    assert not found["stands_apart"]
    assert found["contrast"].item() < 2
    with pytest.raises(InputError, match=r"no cluster of output_embedding stands apart \(contrast 1"):
        eg.outliers(path, client=client)


@pytest.mark.parametrize("copies", [1, 40])
def test_a_cluster_far_from_the_mean_is_found_from_a_dense_place(copies: int, client: Client) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(700, 12))
    members = np.sort(rng.permutation(700)[:60])
    rows[members] = 4 * np.eye(12)[0] + 0.02 * rng.normal(size=(60, 12))
    rows[members[:copies]] = rows[members[0]]
    rows[rng.permutation(np.setdiff1d(np.arange(700), members))[:12]] = rows[members[0]] * -0.3  # fewer than `least`
    found = cluster(rows.astype(np.float32), client=client, least=16)
    np.testing.assert_array_equal(np.flatnonzero(found["in_cluster"]), members)
    assert found["stands_apart"]
    assert found["iteration_kind"].values[0] == "dense"
    assert set(found["iteration_kind"].values[1:]) <= {"refine"}


@pytest.mark.parametrize("share", [0.1, 0.6, 1.0])
def test_identical_rows_are_a_cluster(share: float, client: Client) -> None:
    rows = np.random.default_rng(2).normal(size=(400, 10))
    rows[: int(400 * share)] = 0.1
    found = cluster(rows, client=client)
    if share == 0.1:
        assert np.flatnonzero(found["in_cluster"]).tolist() == list(range(40))
        assert (found["cluster_radius"].item(), bool(found["stands_apart"])) == (0, True)
    if share == 1:
        assert found["contrast"].item() == 1


@given(
    distances=st.lists(st.just(0.0) | st.floats(1e-100, 1e6), min_size=8, max_size=60),
    least=st.integers(1, 2),
)
def test_a_gap_lies_between_least_and_half_of_all(distances: list[float], least: int) -> None:
    distance = np.array(distances)
    found = up_to_gap(Distances.of(distance), least)
    assert least <= found.rows.size < max(2, distance.size // 2 + 1)
    assert found.contrast >= 1
    near = np.sort(distance)
    assert (found.radius, found.following) == (near[found.rows.size - 1], near[found.rows.size])
    assert found.rows.tolist() == np.sort(np.argsort(distance, kind="stable")[: found.rows.size]).tolist()


@given(
    distances=st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.0 + 2.0**-40, 2.0, 3.0]), min_size=8, max_size=40),
    off=st.sampled_from([2.0**-41, 2.0**-30, 0.1]),
    count=st.sampled_from([None, 4]),
    seed=st.integers(0, 99),
)
def test_a_gap_in_rough_distances_is_that_in_exact_ones(
    distances: list[float], off: float, count: int | None, seed: int
) -> None:
    distance = np.array(distances)
    moved = distance + off * np.random.default_rng(seed).uniform(-1, 1, distance.size)
    rough = Distances(moved, np.full(distance.size, 1.01 * off), lambda rows: distance[rows])
    expected, found = up_to_gap(Distances.of(distance), 2, count), up_to_gap(rough, 2, count)
    assert found.rows.tolist() == expected.rows.tolist()
    assert found[1:] == expected[1:]


def test_the_gap_is_where_the_distance_to_twice_as_many_is_longest() -> None:
    found = up_to_gap(Distances.of(np.arange(1.0, 101)), 5)
    assert (found.contrast, found.rows.size) == (2, 5)
    distance = np.concatenate([np.linspace(1, 1.1, 30), np.linspace(5, 6, 100), np.linspace(30, 31, 3)])
    found = up_to_gap(Distances.of(distance[::-1].copy()), 5)
    assert (found.rows.size, found.radius, found.following) == (30, 1.1, 5)
    assert found.rows.tolist() == list(range(103, 133))
    # rows that all but coincide are one place: a group within a cluster is no cluster of its own
    nested = np.concatenate([np.zeros(20), np.full(30, 1e-6), np.linspace(1, 1.1, 200)])
    assert up_to_gap(Distances.of(nested), 5).rows.size == 50


def test_from_a_token_files_and_names(tmp_path: Path, client: Client) -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(1000, 20))
    rows[100:140] = 0.01 * rng.normal(size=(40, 20)) + 0.2
    rows[500:560] = 0.01 * rng.normal(size=(60, 20)) - 0.4
    path, out = make_store(tmp_path / "m.zarr", rows, tokens=[f"p{i}" for i in range(1000)]), tmp_path / "r.zarr"
    found = cluster(path, client=client, out=out)
    assert np.flatnonzero(found["in_cluster"]).tolist() == list(range(500, 560))
    other = cluster(path, origin="p110", client=client)
    assert np.flatnonzero(other["in_cluster"]).tolist() == list(range(100, 140))
    assert set(other["iteration_kind"].values) == {"refine"}
    assert found["cluster_token"].values[0] == f"p{found['cluster_token_id'].values[0]}"
    xr.testing.assert_identical(eg.open_result(out), found)
    xr.testing.assert_identical(cluster(path, out=out, client=client), found)
    with pytest.raises(InputError, match="least is 16 there and 20 here"):
        cluster(path, least=20, out=out, client=client)
    assert found.embgeom.to_frame("iterations")["iteration_count"].tolist() == found["iteration_count"].values.tolist()
    assert found.embgeom.to_frame("in_cluster")["in_cluster"].sum() == 60
    result = eg.outliers(path, out=tmp_path / "o.zarr", client=client)
    xr.testing.assert_identical(eg.outliers(path, out=tmp_path / "o.zarr", client=client), result)
    assert result["farthest_token_id"].values.min() >= 500
    part = eg.open_model(path)["output_embedding"][50:850]
    assert np.flatnonzero(cluster(part, client=client)["in_cluster"]).tolist() == list(range(450, 510))
    assert eg.outliers(part, client=client)["token_count"].item() == 60


def test_many_models_are_a_tree_with_a_table(tmp_path: Path, client: Client) -> None:
    stores = [make_store(tmp_path / f"{i}.zarr", planted(i)[0][: 3000 + i], model=f"org/m{i}") for i in range(2)]
    tree = cluster(stores, out=tmp_path / "all", client=client)
    for i, store in enumerate(stores):
        xr.testing.assert_equal(tree[f"org--m{i}"].to_dataset(), cluster(store, client=client))
    assert tree["vocab_size"].values.tolist() == [3000, 3001]
    xr.testing.assert_equal(eg.open_result(tmp_path / "all"), tree)
    with pytest.raises(SomeFailed, match=r"none.zarr"):
        cluster([stores[0], tmp_path / "none.zarr"], client=client)


def test_what_is_refused(tmp_path: Path, client: Client) -> None:
    path = make_store(tmp_path / "m.zarr", np.random.default_rng(0).normal(size=(63, 4)))
    refused: list[tuple[dict[str, Any], str]] = [
        ({}, "has 63 rows, and a cluster of `least` 16 is sought among four times as many"),
        ({"least": 0}, "`least` 0: give a whole number of at least 1"),
        ({"least": 4, "origin": "1,2"}, "`origin` 1,2: give one token, not 2"),
    ]
    for how, said in refused:
        with pytest.raises(InputError) as error:
            cluster(path, client=client, **how)
        assert said in str(error.value)
    bad = np.random.default_rng(0).normal(size=(100, 4))
    bad[7] = np.nan
    with pytest.raises(InputError, match=r"1 of 100 rows .* hold NaN or infinity \(token ids 7\)"):
        cluster(make_store(tmp_path / "bad.zarr", bad), client=client)
