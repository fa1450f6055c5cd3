from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import xarray as xr
from distributed import Client

from embgeom_dask import devices, tuning
from embgeom_dask.analyses.scan import scan
from embgeom_dask.analyses.survey import survey
from embgeom_dask.errors import EmbgeomError
from embgeom_dask.execution import product_checks
from embgeom_dask.metrics import METRICS, matrix_product
from embgeom_dask.testing import make_store
from embgeom_dask.testing.references import truth
from tests.analyses.test_scan import check

CPU = torch.device("cpu")
Multiply = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def right(metric: str, element: str, device: torch.device = CPU) -> bool:
    """What a process says that starts now."""
    return product_checks.are_right.__wrapped__(metric, element, device)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("element", ["float32", "float64"])
def test_products_of_torch_are_right(metric: str, element: str) -> None:
    assert right(metric, element)


def test_products_that_a_device_does_not_make_are_not_right() -> None:
    assert right("euclidean", "bfloat16")
    assert not right("cityblock", "int8")
    assert not right("euclidean", "float32", torch.device("meta"))


def saturated(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """As processors without VNNI multiply int8: two products at a time are added in 16 bits, up to the largest."""
    pairs = [side.int()[:, : side.shape[1] // 2 * 2].reshape(len(side), -1, 2) for side in (rows, columns)]
    sums = torch.einsum("ika,jka->ijk", pairs[0] + 128, pairs[1]).clamp(-(2**15), 2**15 - 1)
    return (sums - 128 * pairs[1].sum(2)).sum(2).int()


def cut(bits: int) -> Multiply:
    """Products of values of which so many bits are left, as in TF32 (11) and bfloat16 (8)."""

    def multiply(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        sides = []
        for side in (rows.double(), columns.double()):
            digits, exponent = torch.frexp(side)
            sides.append(torch.ldexp((digits * 2**bits).round(), exponent - bits))
        return (sides[0] @ sides[1].T).to(rows.dtype)

    return multiply


def summed(dtype: torch.dtype) -> Multiply:
    return lambda rows, columns: (rows.to(dtype) @ columns.T.to(dtype)).to(rows.dtype)


WRONG = {
    "int8 saturates": ("int8", saturated),
    "int8 in float32": ("int8", lambda rows, columns: (rows.float() @ columns.float().T).bfloat16().int()),
    "float32 in TF32": ("float32", cut(11)),
    "float32 in bfloat16": ("float32", cut(8)),
    "float64 in float32": ("float64", summed(torch.float32)),
    "float64 less a bit": ("float64", cut(44)),
    "nothing": ("float32", lambda rows, columns: torch.full((len(rows), len(columns)), torch.nan)),
    "one block": ("float64", lambda rows, columns: rows[:, :256] @ columns[:, :256].T),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_products_are_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    element, multiply = WRONG[fault]
    monkeypatch.setattr(matrix_product, "multiply", lambda rows, columns, _: multiply(rows, columns))
    assert not right("euclidean", element)
    assert not right("cosine", element)


def test_wrong_differences_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = torch.cdist
    monkeypatch.setattr(torch, "cdist", lambda x, y, p: honest(x.bfloat16().float(), y.bfloat16().float(), p=p))
    assert not right("cityblock", "float32")
    assert not right("chebyshev", "float32")


def lacking(monkeypatch: pytest.MonkeyPatch, *elements: str) -> None:
    """Let this process find that it multiplies these wrongly, once a scan is planned."""
    monkeypatch.setattr(product_checks, "are_right", lambda metric, element, device: element not in elements)
    monkeypatch.setattr(product_checks, "fastest", lambda *_: ["int8", "bfloat16", "float32"])


def vocabulary() -> np.ndarray:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(150, 24)) * rng.uniform(0.5, 2, size=(150, 1))
    rows[20:30] = rows[20]
    return rows.astype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("lacks", [("int8",), ("int8", "bfloat16", "float32")])
@pytest.mark.parametrize(
    "kept",
    [
        {"farthest": 5, "neighbors": 3, "metric": "cosine"},
        *(pytest.param(kept, marks=pytest.mark.slow) for kept in ({"farthest": 20}, {"neighbors": 4}, {"nearest": 9})),
    ],
    ids=str,
)
@tuning.override(LEAST_TILE=4, UNDECIDED=dict.fromkeys(tuning.UNDECIDED, 1e9))  # int8 is planned where it can be
def test_what_a_worker_multiplies_wrongly_is_not_used_there(
    lacks: tuple[str, ...], kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch, client: Client, tmp_path: Path
) -> None:
    lacking(monkeypatch, *lacks)
    planned = "bfloat16" if "nearest" in kept else "int8"
    rows = vocabulary()
    found = scan(make_store(tmp_path / "m.zarr", output=rows), tile=32, client=client, **kept)
    check(found, truth(rows, metric=kept.get("metric", "euclidean")), np.arange(len(rows)))
    used = planned if planned not in lacks else "float64" if "float32" in lacks else "float32"
    certificate = json.loads(found.attrs["certificate"])
    assert certificate["products"] == used
    assert certificate["product_error"] < {"float32": 1e-5, "float64": 1e-13}.get(used, 0.01)


def test_a_worker_of_wrong_float64_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, client: Client, tmp_path: Path
) -> None:
    lacking(monkeypatch, "float64")
    store = make_store(tmp_path / "m.zarr", output=vocabulary())
    with pytest.raises(EmbgeomError, match=r"^products of float64 are wrong on cpu: compute elsewhere, .*$") as refused:
        scan(store, metric="cityblock", histogram=9, client=client)
    assert "\n" not in str(refused.value)


def test_the_bounds_of_a_certificate_are_those_of_the_devices_used(client: Client, tmp_path: Path) -> None:
    store = make_store(tmp_path / "m.zarr", output=vocabulary())
    plans: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embgeom_dask.execution.passes.execute", lambda plan, *_: plans.append(plan) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scan(store, nearest=1, client=client)
    (plan,) = plans
    width, unit = 24, 2.0**-24
    on_cpu = plan.certificate({"cpu float32"})["product_error"]
    assert width * unit < on_cpu < (width + 17) * unit
    on_cuda = plan.certificate({"cpu float32", "cuda float32"})["product_error"]
    assert 3 * width * unit < on_cuda < (3 * width + 17) * unit
    assert plan.certificate({"cuda bfloat16"})["product_error"] == on_cuda  # summed in float32, and left there
    assert plan.certificate({"cpu bfloat16"})["product_error"] > 2.0**-8
    mixed = plan.certificate({"cpu bfloat16", "cpu float32"})
    assert set(mixed["products"].split(", ")) == {"bfloat16", "float32"}


def subnormal_rows() -> np.ndarray:
    rows = np.random.default_rng(0).integers(1, 1000, (90, 7)) * 2.0**-149
    rows[5] = rows[2]
    return rows.astype(np.float32)


def test_subnormal_numbers_are_numbers_whatever_the_process_does(client: Client, tmp_path: Path) -> None:
    rows = subnormal_rows()
    store = make_store(tmp_path / "m.zarr", output=rows)
    expected = truth(rows)

    def flush(on: bool) -> None:
        torch.set_flush_denormal(on)
        client.submit(torch.set_flush_denormal, on, pure=False).result()

    flush(True)
    try:
        found = scan(store, nearest=3, farthest=3, within=2.0**-141, neighbors=2, client=client)
        norms = survey(store, client=client)
        still = devices._flushes(), client.submit(devices._flushes, pure=False).result()
    finally:
        flush(False)
    assert still == (True, True)  # as they were
    for name in ("nearest", "farthest"):
        ids, distances = expected.best(3, farthest=name == "farthest")
        np.testing.assert_array_equal(found[f"{name}_token_id"], ids)
        np.testing.assert_allclose(found[f"{name}_distance"], distances, rtol=1e-12)
    assert norms["norm_min"] == np.linalg.norm(rows.astype(np.float64), axis=1).min()
    exact = np.linalg.norm(rows.astype(np.float64)[:, None] - rows.astype(np.float64), axis=2)
    assert int(found["within_count"][0]) == np.count_nonzero(exact[np.triu_indices(90, 1)] <= 2.0**-141) > 0


def test_threads_that_flush_are_not_used() -> None:
    """Those that torch shares work with do as the thread did that began them."""
    import threading

    counts: list[int] = []

    def work() -> None:
        torch.set_flush_denormal(True)
        torch.set_num_threads(4)
        torch.full((1 << 18,), 1.0).double()  # they begin
        with devices.session(CPU):
            counts.append(int((torch.full((1 << 18,), 1e-40).double() == 0).sum()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert counts == [0]


@pytest.mark.parametrize(
    ("wanted", "element"),
    [({"histogram": 8}, "float64x3"), ({"farthest": 2, "quantiles": [0.5]}, "float64x3")],
    ids=str,
)
def test_a_device_without_float64_leaves_its_products_to_the_cpu(
    wanted: dict[str, Any], element: str, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on mps, to which nothing can be moved here."""
    rows = np.random.default_rng(3).normal(size=(90, 24)).astype(np.float32)
    store = make_store(tmp_path / "m.zarr", output=rows)
    expected = scan(store, client=client, **wanted)
    monkeypatch.setattr(devices, "choose", lambda _: torch.device("mps"))
    monkeypatch.setattr(devices, "own_memory", lambda _: ("mps", 0))
    found = scan(store, client=client, **wanted)
    assert json.loads(found.attrs["certificate"])["products"] == element
    assert found.attrs["devices"] == ["cpu"]
    xr.testing.assert_equal(found, expected)
