from __future__ import annotations

from pathlib import Path

import dask
import numpy as np
import pytest
from distributed import Client
from scipy.spatial.distance import cdist, pdist

from embgeom_dask import tuning
from embgeom_dask.analyses.scan import scan
from embgeom_dask.errors import InputError
from embgeom_dask.testing import make_store


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "chebyshev", "cityblock"])
def test_what_a_metric_lets_a_scan_leave_out_changes_no_farthest_pair(
    metric: str, client: Client, tmp_path: Path
) -> None:
    """Short rows lie in opposite directions, long ones in one: the farthest by cosine are among the shortest rows."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 6)) * 1e-3
    rows[:200] = (1 + 0.1 * rng.normal(size=(200, 6))) * rng.uniform(1, 9, (200, 1))
    rows[250] = 0
    store = make_store(tmp_path / "m.zarr", output=rows)
    found = scan(store, metric=metric, farthest=12, tile=32, client=client)
    first, second = np.triu_indices(300, 1)
    distance = np.nan_to_num(pdist(rows, metric), nan=-1.0)
    best = np.argsort(-distance)[:12]
    assert found["farthest_token_id"].values.tolist() == np.stack([first[best], second[best]], axis=1).tolist()
    np.testing.assert_allclose(found["farthest_distance"], distance[best], rtol=1e-12)
    left_out = found["left_out_token_id"].values.tolist() if "left_out_token_id" in found else []
    assert left_out == ([250] if metric == "cosine" else [])


def test_the_farthest_in_chebyshev_distance_are_sought_among_few_rows(client: Client, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(3000, 4))
    store = make_store(tmp_path / "m.zarr", output=rows)
    plans = [
        scan(store, metric=metric, farthest=1, dry_run=True, client=client).attrs["plan"]
        for metric in ("chebyshev", "cityblock")
    ]
    assert plans[0]["rows"][0] < 300
    assert plans[1]["rows"] == [3000]


@pytest.mark.parametrize("one_matrix", [True, False])
def test_tiles_that_make_more_panels_than_can_be_dealt_are_refused(
    one_matrix: bool, client: Client, tmp_path: Path
) -> None:
    rows = np.random.default_rng(2).normal(size=(100, 4))
    store = make_store(tmp_path / "m.zarr", output=rows)
    against = None if one_matrix else make_store(tmp_path / "other.zarr", output=rows[::-1])
    beside = [
        (0, 99 - row) if one_matrix else (row, 99 - row) for row in range(100)
    ]  # tiles on either side of the first
    panels = 100 + sum(-(-tiles // 8) for each in beside for tiles in each)
    with tuning.override(MOST_PANELS=panels):
        scan(store, against=against, nearest=1, tile=1, dry_run=True, client=client)
    with (
        tuning.override(MOST_PANELS=panels - 1),
        pytest.raises(InputError, match=rf"tiles of 1 row make {panels:,} panels .* at most {panels - 1:,}: .*`tile`"),
    ):
        scan(store, against=against, nearest=1, tile=1, dry_run=True, client=client)


@pytest.mark.filterwarnings("error")
def test_no_task_of_a_large_plan_makes_dask_warn(client: Client, tmp_path: Path) -> None:
    rows = np.random.default_rng(2).normal(size=(30_000, 4))
    store = make_store(tmp_path / "m.zarr", output=rows)
    warned = {"distributed.admin.large-graph-warning-threshold": 500_000}
    with dask.config.set(warned), tuning.override(SENT_BYTES=200_000):
        found = scan(store, against=rows[:50], farthest=1, client=client)
    assert found["farthest_distance"].item() == pytest.approx(cdist(rows, rows[:50]).max())
