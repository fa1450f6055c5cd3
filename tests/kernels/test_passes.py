from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numba
import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.dispatcher import Dispatcher

from embgeom_dask import devices, tuning
from embgeom_dask.errors import EmbgeomWarning
from embgeom_dask.kernels import nearest, numba_cache, numba_passes, torch_passes
from embgeom_dask.kernels.bounds import LinearBound, StripEnds, upper_bounds
from embgeom_dask.kernels.passes import Bins, select
from embgeom_dask.kernels.quantize import peaks, quantize
from embgeom_dask.kernels.recentre import recentre_on_cpu, recentre_on_device
from embgeom_dask.metrics import METRICS, Norms
from embgeom_dask.pairwise.blocks import Block
from embgeom_dask.pairwise.exact import Exact, Rows
from embgeom_dask.pairwise.tiles import Tile
from embgeom_dask.reductions import Histogram, Thresholds
from embgeom_dask.testing.references import truth
from embgeom_dask.testing.strategies import matrices
from tests.guards import NoFloat64

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.cuda),
    pytest.param("mps", marks=pytest.mark.mps),
]


def block(rows: np.ndarray, start: int, metric: str, where: str = "cpu") -> Block:
    points = METRICS[metric].points(rows.astype(np.float64), rows.dtype)
    positions = np.arange(start, start + len(rows))
    return Block(positions, rows, devices.to_tensor(points.values, torch.device(where)), points.norms, positions * 0.0)


@pytest.mark.parametrize("where", DEVICES)
def test_the_bounds_of_bfloat16_products_hold(where: str) -> None:
    rng = np.random.default_rng(0)
    for width in (1, 7, 640):
        rows = (rng.normal(size=(60, width)) + 0.3).astype(ml_dtypes.bfloat16)
        rows[10:20] = rows[9]
        rows[12, 0] *= 1.01
        points = devices.to_tensor(rows, torch.device(where))
        sides = Block(np.arange(60), rows, points, Norms((rows.astype(float) ** 2).sum(1)), np.zeros(60))
        tile = Tile(METRICS["euclidean"], sides, sides, diagonal=True)
        low, high = tile.terms
        p = tile.product.float().cpu().numpy()
        least, most = (
            t.row[:, None] + t.column + t.factor * p + np.float32(t.abs_factor) * np.abs(p) for t in (low, high)
        )
        true = ((rows[:, None].astype(float) - rows.astype(float)) ** 2).sum(-1)
        assert (least <= true).all()
        assert (most >= true).all()
        i, j, bound = select(tile.product, low, np.full(60, 3, np.float32), np.full(60, 3, np.float32), diagonal=True)
        expected = np.argwhere(np.triu(least <= 3, 1))
        np.testing.assert_array_equal(np.stack([i, j], 1), expected)
        assert (upper_bounds(tile.product, low, high, i, j, bound) >= true[i, j]).all()


@settings(deadline=None, max_examples=50)
@given(matrices(max_rows=30), st.sampled_from([1, 5, 16, 48]), st.floats(0.1, 3))
def test_rows_rounded_to_integers_are_within_what_is_said(rows: np.ndarray, repeat: int, fill: float) -> None:
    rows = np.tile(rows, (1, repeat))
    width = rows.shape[1]
    centre = rows.astype(float).mean(axis=0)
    values = rows.astype(float) - centre
    largest = np.linalg.norm(values, axis=1).max()
    scale = 127 * fill / largest if largest > 0 else 1.0
    points, error = quantize(rows, centre, scale)
    assert points.dtype == np.int8
    assert points.min() >= -127
    mixed = max(2**e for e in range(10) if width % 2**e == 0 and (e == 0 or width // 2**e >= 8))
    turn = np.kron(scipy.linalg.hadamard(mixed), np.eye(width // mixed)) / np.sqrt(mixed)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], width)
    turned = (values * signs) @ turn.T * scale
    left = np.linalg.norm(turned - points, axis=1)
    assert (left <= error * (1 + 1e-9) + 2.0**-112).all()  # what underflows is part of `Precision.tiny`
    if fill <= 1:
        assert (error <= np.sqrt(width) / 2 + 1e-3).all()
    np.testing.assert_allclose(peaks(rows, centre, scale), np.abs(turned).max(axis=1), rtol=1e-5, atol=1e-4)


@settings(deadline=None, max_examples=50)
@given(matrices(max_rows=30), st.sampled_from([16, 20, 48]), st.floats(0.3, 5))
def test_the_bounds_of_products_of_integers_hold(rows: np.ndarray, repeat: int, fill: float) -> None:
    rows = np.tile(rows, (1, repeat))
    centre = rows.astype(float).mean(axis=0)
    norm = ((rows.astype(float) - centre) ** 2).sum(axis=1)
    scale = 127 * fill / np.sqrt(norm.max()) if norm.max() > 0 else 1.0
    points, error = quantize(rows, centre, scale)
    sides = Norms(norm * scale**2, error)
    whole = Block(np.arange(len(rows)), rows, torch.from_numpy(points), sides, norm)
    first, second = whole.take(slice(len(rows) // 2 + 1)), whole.take(slice(len(rows) // 3, None))
    tile = Tile(METRICS["euclidean"], first, second, diagonal=False)
    assert tile.product.dtype == torch.int32
    low, high = tile.terms
    p = tile.product.numpy().astype(np.float32)
    least, most = (t.row[:, None] + t.column + np.float32(t.factor) * p for t in (low, high))
    x, y = (np.longdouble(rows[side.positions].astype(float)) for side in (first, second))
    true = ((x[:, None] - y) ** 2).sum(-1) * scale**2
    assert (least <= true).all()
    assert (most >= true).all()
    limit = np.full(len(x), np.median(least), np.float32)
    i, j, bound = select(tile.product, low, limit, np.full(len(y), -np.inf, np.float32), diagonal=False)
    np.testing.assert_array_equal(np.stack([i, j], 1), np.argwhere(least <= limit[0]))
    assert (upper_bounds(tile.product, low, high, i, j, bound) >= true[i, j]).all()


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("work", ["of a cpu", "of a device"])
def test_points_about_another_centre_lose_what_is_said(work: str, where: str) -> None:
    if (work, where) == ("of a cpu", "cuda") or where == "mps":
        pytest.skip("there the work of a device, in float64, is done")
    rng = np.random.default_rng(0)
    rows = 0.37 * rng.normal(size=(1, 640)) + rng.choice([1e-3, 1.0], (50, 1)) * rng.normal(size=(50, 640))
    rows = rows.astype(ml_dtypes.bfloat16)
    points = devices.to_tensor(rows, torch.device(where))
    recentre = {"of a cpu": recentre_on_cpu, "of a device": recentre_on_device}[work]
    found, norm, left = recentre(points, points[7])
    away = rows.astype(np.longdouble) - rows[7].astype(np.longdouble)
    assert found.dtype == torch.bfloat16
    np.testing.assert_array_equal(found.cpu().float().numpy(), away.astype(np.float32).astype(ml_dtypes.bfloat16))
    np.testing.assert_allclose(norm, (away**2).sum(1), rtol=1e-12)
    lost = np.sqrt(((away - found.cpu().double().numpy()) ** 2).sum(1)).astype(float)
    assert (left >= lost * (1 - 1e-12)).all()
    np.testing.assert_allclose(left, lost, rtol=1e-8)


def test_the_bounds_of_products_about_another_centre_hold() -> None:
    rng = np.random.default_rng(0)
    rows = 0.37 * rng.normal(size=(1, 640)) + rng.choice([1e-3, 1.0], (60, 1)) * rng.normal(size=(60, 640))
    rows = rows.astype(ml_dtypes.bfloat16)
    points = devices.to_tensor(rows, torch.device("cpu"))
    whole = Block(np.arange(60), rows, points, Norms((rows.astype(float) ** 2).sum(1)), np.zeros(60)).about(points[3])
    tile = Tile(METRICS["euclidean"], whole.take(slice(35)), whole.take(slice(20, None)), diagonal=False)
    low, high = tile.terms
    p = tile.product.float().numpy()
    least, most = (t.row[:, None] + t.column + t.factor * p + np.float32(t.abs_factor) * np.abs(p) for t in (low, high))
    true = ((rows[:35, None].astype(float) - rows[None, 20:].astype(float)) ** 2).sum(-1)
    assert (least <= true).all()
    assert (most >= true).all()


def distances(metric: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if metric == "cosine":
        return 1 - (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    if metric == "dot":
        return -(x * y).sum(-1)
    difference = np.abs(x - y)
    return difference.max(-1) if metric == "chebyshev" else (difference ** (1 + (metric == "euclidean"))).sum(-1)


@pytest.mark.parametrize("where", DEVICES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", sorted(METRICS))
def test_the_bounds_of_every_pair_hold(where: str, dtype: type, metric: str) -> None:
    if where == "mps" and dtype is np.float64:
        pytest.skip("mps has no float64")
    rng = np.random.default_rng(0)
    for width in (1, 7, 640):
        rows = (rng.normal(size=(60, width)) * rng.uniform(1e-8, 1, size=(60, 1)) / width).astype(dtype)
        rows[10:20] = rows[9] * (1 + 1e-7 * rng.normal(size=(10, width)))
        first, second = block(rows[:25], 0, metric, where), block(rows[25:], 25, metric, where)
        tile = Tile(METRICS[metric], first, second, diagonal=False)
        low, high = tile.terms
        i, j = np.indices((25, 35)).reshape(2, -1)
        product = tile.product.cpu().numpy()
        least = (low.row[:, None] + low.column + dtype(low.factor) * product).ravel()
        most = (high.row[:, None] + high.column + dtype(high.factor) * product).ravel()
        x, y = np.longdouble(rows[:25])[i], np.longdouble(rows[25:])[j]
        true = distances(metric, x, y)
        assert (least <= true).all()
        assert (most >= true).all()
        assert (upper_bounds(tile.product, low, high, i, j, least) >= true).all()


@settings(deadline=None, max_examples=30)
@given(matrices(max_rows=30), st.floats(0, 4), st.floats(0, 4), st.booleans(), st.sampled_from([0.0, 0.25]))
def test_both_passes_select_the_same_pairs(
    rows: np.ndarray, row_limit: float, column_limit: float, diagonal: bool, abs_factor: float
) -> None:
    points = rows.astype(np.float64)
    points = (points / max(1e-300, np.sqrt((points**2).sum(1).max()))).astype(np.float32)
    product = torch.from_numpy(points) @ torch.from_numpy(points).T
    norms = (points**2).sum(1)
    limits = np.full(len(points), row_limit, np.float32), np.linspace(-1, column_limit, len(points), dtype=np.float32)
    terms = LinearBound(norms, norms, -2.0, abs_factor)
    fast = numba_passes.select(product, terms, *limits, diagonal)
    plain = torch_passes.select(product, terms, *limits, diagonal)
    p = product.numpy()
    bound = norms[:, None] + norms - np.float32(2) * p + np.float32(abs_factor) * np.abs(p)
    hit = bound <= np.maximum(limits[0][:, None], limits[1])
    i, j = np.nonzero(np.triu(hit, 1) if diagonal else hit)
    for found in (fast, plain):
        np.testing.assert_array_equal(found[0], i)
        np.testing.assert_array_equal(found[1], j)
        np.testing.assert_array_equal(found[2], bound[i, j])


def bins_of(count: int, digits: float = 1.0) -> Bins:
    squared = np.linspace(0, 2, count + 1) ** 2
    lower, upper = np.append(-np.inf, squared), np.append(squared, np.inf)
    cells = np.empty((0, 2), np.int64)
    return Bins(lower, upper, True, 0.0, count / 2, cells, digits, 0.0, False, 2.0**40, 21, 2.0**20, margin=1e-9)


@pytest.mark.parametrize("diagonal", [False, True])
def test_both_passes_count_the_same_and_leave_what_is_near_an_edge(diagonal: bool) -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(150, 8))
    points /= np.sqrt((points**2).sum(1).max())
    points[7] = points[3] * (1 + 1e-9)
    norms, weights = (points**2).sum(1), rng.integers(1, 4, size=150)
    product = torch.from_numpy(points @ points.T)
    bins = bins_of(40)
    terms = (
        LinearBound(norms * (1 - 1e-4), norms * (1 - 1e-4), -2.0),
        LinearBound(norms * (1 + 1e-4), norms * (1 + 1e-4), -2.0),
    )
    fast = numba_passes.bin_pairs(product, terms, (weights, weights), bins, diagonal)
    plain = torch_passes.bin_pairs(product, terms, (weights, weights), bins, diagonal)
    for a, b in zip(fast, plain, strict=True):
        np.testing.assert_array_equal(a, b)
    counts, sums, i, j, summed = fast
    assert 0 < summed.sum() < i.size
    assert (3, 7) in set(zip(i.tolist(), j.tolist(), strict=True))
    first, second = np.triu_indices(150, 1) if diagonal else np.indices((150, 150)).reshape(2, -1)
    left = set(zip(i.tolist(), j.tolist(), strict=True))
    decided = np.array([pair not in left for pair in zip(first.tolist(), second.tolist(), strict=True)])
    everywhere = np.concatenate([[first[decided], second[decided]], [i[summed], j[summed]]], axis=1)
    first, second = first[decided], second[decided]
    distance = np.sqrt(((points[first] - points[second]) ** 2).sum(1))
    weight = weights[first] * weights[second]
    expected = np.histogram(distance, np.linspace(0, 2, 41), weights=weight)[0]
    np.testing.assert_array_equal(counts[1:-1], expected)
    assert 0 < i.size < first.size
    first, second = everywhere
    distance = np.sqrt(((points[first] - points[second]) ** 2).sum(1))
    weight = weights[first] * weights[second]
    total = float(weights @ sums[:, 0]) / 2.0**40
    np.testing.assert_allclose(total, (weight * distance).sum(), rtol=1e-11)
    square = weights @ (sums[:, 1].astype(float) * 2.0**42 + sums[:, 2] * 2.0**22 + sums[:, 3]) / 2.0**80
    np.testing.assert_allclose(square, (weight * distance**2).sum(), rtol=1e-11)
    off = 1e-4 * (norms[first] + norms[second]) / (2 * distance)
    np.testing.assert_allclose(float(weights @ sums[:, 4]) / 2.0**20, (weight * off).sum(), rtol=0.05)
    np.testing.assert_allclose(float(weights @ sums[:, 5]) / 2.0**40, (weight * off**2).sum(), rtol=0.05)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 99), st.floats(0, 2), st.booleans())
def test_strips_that_the_ends_of_their_bounds_rule_out_hold_nothing(seed: int, radius: float, with_nan: bool) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(170, 3)) * rng.choice([0.01, 0.2], size=(170, 1))
    product, norms = torch.from_numpy(points @ points.T)[:20], (points**2).sum(1)
    if with_nan:
        product[3, 70], product[5, 7] = np.nan, -np.inf
    low, high = (LinearBound(norms[:20], norms + error, -2.0, 0.1 * error) for error in (-1e-3, 1e-3))
    ones, bins = (np.ones(20, np.int64), np.ones(170, np.int64)), bins_of(40)
    ends = StripEnds.unknown(20, 170)
    plain = numba_passes.bin_pairs(product, (low, high), ones, bins, False)
    for a, b in zip(plain, numba_passes.bin_pairs(product, (low, high), ones, bins, False, ends), strict=True):
        np.testing.assert_array_equal(a, b)
    p = product.numpy()
    with np.errstate(invalid="ignore"):
        least, most = (t.row[:, None] + t.column - 2 * p + t.abs_factor * np.abs(p) for t in (low, high))
    least, most = np.where(np.isnan(least), -np.inf, least), np.where(np.isnan(most), np.inf, most)
    least, most = least[:, :128].reshape(20, 2, 64).min(axis=2), most[:, :128].reshape(20, 2, 64).max(axis=2)
    assert (ends.least <= least).all()
    assert (ends.most >= most).all()
    told = ends.least > -np.inf
    assert told.sum() >= (37 if with_nan else 40)
    assert (np.sqrt(ends.most[told].clip(0)) - np.sqrt(most[told].clip(0)) <= 0.05).all(), "a bin is as wide as that"
    limits, cuts = (np.full(20, radius / 4), np.linspace(-1, radius / 2, 170)), np.array([radius / 4, radius])
    cases: list[tuple[Any, tuple[Any, ...], StripEnds]] = [
        (numba_passes.select, (product, low, *limits, False), ends),
        (numba_passes.select, (product, -high, -limits[0], -limits[1], False), -ends),
        (numba_passes.count_within, (product, (low, high), ones, cuts, cuts, False), ends),
    ]
    for work, asked, of_strips in cases:
        for a, b in zip(work(*asked), work(*asked, of_strips), strict=True):
            np.testing.assert_array_equal(a, b)


@settings(deadline=None, max_examples=30)
@given(
    matrices(max_rows=30),
    st.sets(st.floats(0, 4), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
)
def test_both_passes_count_what_is_certainly_within(
    rows: np.ndarray, radii: set[float], diagonal: bool, element: torch.dtype
) -> None:
    dtype = np.float64 if element == torch.float64 else np.float32
    points = rows.astype(np.float64)
    points = (points / max(1e-300, np.sqrt((points**2).sum(1).max()))).astype(dtype)
    product = (torch.from_numpy(points) @ torch.from_numpy(points).T).to(element)
    weights = np.arange(1, len(points) + 1), np.arange(3, len(points) + 3)
    norms = (points**2).sum(1)
    low, high = (LinearBound((norms * (1 + sign * 1e-2)).astype(dtype), norms, -2.0, sign * 1e-2) for sign in (-1, 1))
    cuts = np.array(sorted(radii), dtype)
    fast = numba_passes.count_within(product, (low, high), weights, cuts, cuts, diagonal)
    plain = torch_passes.count_within(product, (low, high), weights, cuts, cuts, diagonal)
    p = product.to(torch.from_numpy(norms).dtype).numpy()
    least, most = (t.row[:, None] + t.column - dtype(2) * p + dtype(t.abs_factor) * np.abs(p) for t in (low, high))
    considered = np.triu(np.ones(p.shape, bool), 1) if diagonal else np.ones(p.shape, bool)
    unsure = considered & ((least[..., None] <= cuts) & (most[..., None] > cuts)).any(axis=-1)
    within = (considered & ~unsure)[..., None] & (most[..., None] <= cuts)
    for found in (fast, plain):
        np.testing.assert_array_equal(found[0], (within * weights[1][:, None]).sum(axis=1))
        np.testing.assert_array_equal(found[1], (within * weights[0][:, None, None]).sum(axis=0))
        np.testing.assert_array_equal(np.stack(found[2:], 1), np.argwhere(unsure))


@pytest.mark.parametrize(
    "edges",
    [
        np.geomspace(1e-3, 1.5, 60),
        np.array([0.3, 0.31, 1.0, 1.7]),
        np.linspace(0, 1.7, 400),
        np.linspace(0.3, 1.2, 3000),
    ],
)
def test_both_passes_find_the_same_bin_in_bins_of_any_width(edges: np.ndarray) -> None:
    points = np.random.default_rng(2).normal(size=(150, 8))
    points /= np.sqrt((points**2).sum(1).max())
    distance = np.sqrt(((points[:, None] - points) ** 2).sum(-1))[np.triu_indices(150, 1)]
    rows, ones = block(points, 0, "euclidean"), np.ones(150, np.int64)
    tile = Tile(METRICS["euclidean"], rows, rows, diagonal=True)
    stored = Rows(150, lambda _: points)
    exact = Exact(tile.metric, stored, stored, 8, 1.0)
    bins = Histogram(Thresholds.at(exact.metric, edges, closed=False), (ones, ones))._in_points(exact)
    fast = numba_passes.bin_pairs(tile.product, tile.terms, (ones, ones), bins, True)
    plain = torch_passes.bin_pairs(tile.product, tile.terms, (ones, ones), bins, True)
    for k in (0, 2, 3):
        np.testing.assert_array_equal(fast[k], plain[k])
    np.testing.assert_allclose(fast[1][:, 0], plain[1][:, 0], rtol=1e-15)
    counts = np.histogram(distance, np.concatenate([[0], edges, [9]]))[0]
    np.testing.assert_array_equal(fast[0], counts)
    assert len(bins.table) or bins.margin < 1e-9
    assert fast[2].size == 0


def test_pairs_clearly_in_a_bin_are_few_where_its_ends_are_far_from_where_cells_meet() -> None:
    points = np.random.default_rng(4).normal(size=(90, 8)) / 9
    product, norms, ones = torch.from_numpy(points @ points.T), (points**2).sum(1), np.ones(90, np.int64)
    terms = tuple(LinearBound(norms * (1 + sign * 1e-6), norms * (1 + sign * 1e-6), -2.0) for sign in (-1, 1))
    bins = bins_of(20)
    shifted = np.linspace(0, 2, 21) + 0.02  # a fifth of a bin
    lower, upper = np.append(-np.inf, shifted**2), np.append(shifted**2, np.inf)
    wrong = bins._replace(lower=lower, upper=upper, margin=0.0)
    right = wrong._replace(margin=0.2 + 1e-9)
    known = bins._replace(lower=lower, upper=upper, margin=1.0)
    found = [numba_passes.bin_pairs(product, (terms[0], terms[1]), (ones, ones), each, True) for each in (known, right)]
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
    careless = numba_passes.bin_pairs(product, (terms[0], terms[1]), (ones, ones), wrong, True)
    assert (careless[0] != found[0][0]).any(), "a margin that is too small was not seen"


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # of torch itself
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_passes_compile_as_a_whole_and_find_the_same(backend: str) -> None:
    torch_passes.compiled.cache_clear()
    points = np.random.default_rng(3).normal(size=(33, 8)) / 4
    product, norms = torch.from_numpy(points @ points.T), (points**2).sum(1)
    low, high = (
        LinearBound(norms * (1 + sign * 1e-2), norms * (1 + sign * 1e-2), -2.0, sign * 1e-3) for sign in (-1, 1)
    )
    weights, cuts = (np.arange(1, 34), np.arange(3, 36)), np.array([0.3, 0.9])
    for name, asked in (
        ("select", (product, low, np.full(33, 0.5), np.linspace(-1, 1, 33), True)),
        ("count_within", (product, (low, high), weights, cuts, cuts, True)),
        ("bin_pairs", (product, (low, high), weights, bins_of(20), True)),
    ):
        plain = getattr(torch_passes, name)(*asked)
        with tuning.override(COMPILED_DEVICES=("cpu",), COMPILER=backend):
            found = getattr(torch_passes, name)(*asked)
        for a, b in zip(plain, found, strict=True):
            np.testing.assert_array_equal(a, b)
        assert 0 < plain[2].size < 33 * 16
    assert torch_passes.compiled.cache_info().currsize == 3


def test_passes_run_uncompiled_where_torch_cannot_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Callable[..., Any]:
        asked.append(1)
        raise RuntimeError("no\ntriton")

    def work(product: Any, one: int) -> int:
        return one + 1

    asked: list[int] = []
    monkeypatch.setattr(torch, "compile", broken)
    tile = SimpleNamespace(device=torch.device("cuda"))
    with pytest.warns(EmbgeomWarning, match=r"torch\.compile fails, so tiles take longer \(no triton\)"):
        assert torch_passes.run_on_device(work, tile, 1) == 2
    assert torch_passes.run_on_device(work, tile, 1) == 2
    assert len(asked) == 1
    monkeypatch.setattr(torch_passes, "compiled", lambda *_, **__: broken)
    monkeypatch.setattr(torch_passes.devices, "out_of_memory", lambda _: True)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="triton"):
        torch_passes.run_on_device(lambda product: 0, tile)


def test_the_tile_of_a_device_without_float64_makes_none() -> None:
    points = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    limit = np.full(20, 3.0, np.float32)
    for metric in METRICS:
        rows = block(points, 0, metric)
        with NoFloat64():
            tile = Tile(METRICS[metric], rows, rows, diagonal=True)
            low, high = tile.terms
            i, j, least = torch_passes.select(tile.product, low, limit, limit, True)
            upper_bounds(tile.product, low, high, i, j, least)
        np.testing.assert_array_equal(i, select(tile.product, low, limit, limit, diagonal=True)[0])
        expected = truth(points, metric=metric).distance
        value = -expected if metric == "dot" else expected ** (2 if metric == "euclidean" else 1)
        assert i.size == int((value <= 3).sum()) > 0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10000), st.integers(1, 150), st.integers(1, 5), st.sampled_from(["own", "two"]), st.booleans())
def test_both_passes_keep_the_nearest_of_every_row(seed: int, n: int, k: int, sides: str, on_device: bool) -> None:
    rng, own = np.random.default_rng(seed), sides == "own"
    true = rng.integers(0, 30, size=(n, n)).astype(np.float32)
    product = torch.from_numpy(-true / 2 + rng.uniform(-0.25, 0.25, (n, n)).astype(np.float32))
    low, high = (LinearBound(np.full(n, s, np.float32), np.zeros(n, np.float32), -2.0, 0.0) for s in (-0.6, 0.6))
    rows, columns = (np.arange(n), np.arange(n)) if own else (np.arange(n), np.arange(n, 2 * n))
    allowed = np.triu(np.ones((n, n), np.bool_), 1) if own else np.ones((n, n), np.bool_)
    duplicate_of = rng.integers(-1, n, n)
    allowed[duplicate_of >= 0, duplicate_of[duplicate_of >= 0]] = False
    duplicate_of[duplicate_of >= 0] += columns[0]
    best, limit = np.full((2 * n, k), np.inf), np.full(2 * n, np.inf)
    work = nearest._on_device if on_device else nearest._on_cpu
    i, j, least = work(product, (low, high), best, limit, nearest.Positions(rows, columns, duplicate_of), True, own)
    assert allowed[i, j].all()
    assert (least <= true[i, j]).all()
    assert len(set(zip(i.tolist(), j.tolist(), strict=True))) == i.size
    found = np.zeros((n, n), np.bool_)
    found[i, j] = True
    for position in range(n if own else 2 * n):
        there = allowed & ((rows == position)[:, None] | (columns == position))
        kth = np.sort(true[there])[k - 1] if np.count_nonzero(there) >= k else np.inf
        assert limit[position] >= kth
        assert found[there & (true <= kth)].all()


def only_where_named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let numba write nowhere but where it is told to; `folder` is the temporary one."""
    monkeypatch.setattr(numba.config, "CACHE_LOCATOR_CLASSES", "UserProvidedCacheLocator")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    for owner, name in ((numba.config, "CACHE_DIR"), (Dispatcher, "enable_caching")):
        monkeypatch.setattr(owner, name, getattr(owner, name))


def compile_one() -> None:
    @numba.njit(cache=True)
    def twice(x):
        return 2 * x

    assert twice(21) == 42


def test_compiled_passes_are_kept_where_numba_can_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    only_where_named(monkeypatch, tmp_path)
    with pytest.raises(RuntimeError, match="no locator available"):
        compile_one()
    numba_cache.settle()
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    compile_one()
    assert list(folder.rglob("*.nbi"))


@pytest.mark.parametrize("fault", ["missing", "of all"])
def test_compiled_passes_are_kept_nowhere_else(fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / f"embgeom-numba-{os.getuid()}"
    if fault == "of all":
        folder.mkdir()
        folder.chmod(0o777)
    only_where_named(monkeypatch, tmp_path / "missing" if fault == "missing" else tmp_path)
    numba_cache.settle()
    compile_one()
    assert not list(tmp_path.rglob("*.nbi"))
