"""Tables, figures and pages of a part of a result are those of its part of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from distributed import Client

import embgeom_dask as eg
from embgeom_dask.reporting import page, report_contents, step_numbers
from tests.reporting.test_report import Texts

pytestmark = pytest.mark.usefixtures("figures_closed")


class Made(NamedTuple):
    rows: dict[str, xr.DataArray]
    results: dict[str, xr.Dataset]


@pytest.fixture(scope="module")
def made(client: Client) -> Made:
    rows = {}
    for seed, (name, size) in enumerate((("a", 40), ("b", 30))):
        values = np.random.default_rng(seed).normal(size=(size, 4)).astype(np.float32)
        values[5:9], values[20:23] = values[5], values[20]
        values[24 : 24 + 4 * seed] = values[24]
        tokens = ("token_id", [f"{name}{place}" for place in range(size)])
        labels = {"token_id": np.arange(size) * (seed + 1), "token": tokens}
        rows[name] = xr.DataArray(values, dims=("token_id", "hidden"), coords=labels, name=name)
    asked = {"farthest": 4, "nearest": 4, "neighbors": 3, "histogram": 8, "within": [1, 2], "pairs_within": 1.5}
    one, other = rows.values()
    return Made(
        rows,
        {
            "scan": eg.scan(one, client=client, **asked),
            "other": eg.scan(other, client=client, **asked),
            "against": eg.scan(one, against=other, farthest=2, nearest=2, neighbors=3, client=client),
            "products": eg.scan(one, metric="dot", largest=2, smallest=3, top=2, bottom=2, client=client),
            "duplicates": eg.duplicates([one, other], client=client),
            "tokens": eg.tokens(one, client=client),
            "spectrum": eg.spectrum(one, client=client),
            "components": eg.components(one, [1.0, 1.5, 2.0], client=client),
        },
    )


def lines(table: pd.DataFrame) -> set[tuple[str, ...]]:
    return {tuple(map(repr, line)) for line in table.astype(object).itertuples(index=False)}


@pytest.mark.parametrize("name", ["scan", "against", "products", "duplicates", "tokens", "spectrum", "components"])
def test_tables_of_a_part_have_lines_of_the_whole(made: Made, name: str) -> None:
    whole = made.results[name]
    parts = [whole.transpose(*reversed([*whole.dims])), whole.chunk()]
    for dim, size in whole.sizes.items():
        if dim != "side":
            parts += [whole.isel({dim: slice(None, None, -1)}), whole.isel({dim: slice(size // 2, None)})]
            parts += [whole.isel({dim: slice(0, max(1, size // 2))}), whole.isel({dim: [size - 1]} if size else {})]
    for part in parts:
        for table in set(part.embgeom.tables) & set(whole.embgeom.tables):
            found, known = part.embgeom.to_frame(table), whole.embgeom.to_frame(table)
            columns = [column for column in known if column in found]
            assert lines(found[columns]) <= lines(known[columns]), (table, part.sizes)


def test_groups_stay_those_of_their_models(made: Made) -> None:
    whole = made.results["duplicates"]
    of_b = whole.embgeom.to_frame("members").query("model == 'b (array)'").reset_index(drop=True)
    assert of_b["group_population"].tolist() == [4] * 8 + [3] * 3
    for part in (whole.isel(model=1), whole.isel(model=[1]), whole.set_xindex("model").sel(model=["b (array)"])):
        pd.testing.assert_frame_equal(part.embgeom.to_frame("members"), of_b)
        (line,) = part.embgeom.plot.ranks(of="groups").lines
        assert line.get_ydata().tolist() == [4, 4, 3]
    turned = whole.isel(model=[1, 0]).sortby("group_population")
    assert lines(turned.embgeom.to_frame("members")) == lines(whole.embgeom.to_frame("members"))
    alike = whole.assign_coords(model=("model", ["c", "c"])).assign_attrs(model=["c", "c"])
    with pytest.raises(eg.InputError, match="does not tell which model each of its groups is of"):
        alike.isel(model=1).embgeom.to_frame("groups")


def test_a_report_of_a_part_names_the_same_tokens(made: Made, tmp_path: Path) -> None:
    cells = {}
    for name in ("scan", "against", "duplicates", "components"):
        whole = made.results[name]
        parts = [whole, whole.transpose(*reversed([*whole.dims])), whole.chunk()]
        parts += [whole.isel(member=slice(None, None, -1))] if name == "duplicates" else []
        parts += [whole.isel(connected_component=slice(None, None, -1))] if name == "components" else []
        for part in parts:
            texts = Texts(page.html_of(report_contents.gather(part)))
            said = {tuple(line) for line in texts.cells}
            searched = [texts.unpacked(each) for each in texts.ids if each.startswith("data")]
            names = [each["other_token"] for each in searched if "other_token" in each]
            first = cells.setdefault(name, (said, names))
            if name == "duplicates" and "member" in part.dims:
                said = {line for line in said if not any("," in cell for cell in line)}
                assert said <= first[0]
            else:
                assert (said, names) == first
    made.results["scan"].sel(token_id=3).isel(bin=2).embgeom.report(tmp_path / "one.html")


def test_a_histogram_of_some_bins_is_drawn_where_they_are(made: Made) -> None:
    whole = made.results["scan"]
    left, right = whole["bin_left"].values, whole["bin_right"].values
    for part in (whole.isel(bin=slice(2, 5)), whole.isel(bin=[4, 3, 2])):
        (bars,) = part.embgeom.plot.histogram().patches
        np.testing.assert_array_equal(bars.get_data().edges, [*left[2:5], right[4]])
        np.testing.assert_array_equal(bars.get_data().values, whole["histogram_count"].values[2:5])
        (line,) = part.embgeom.plot.cdf().lines
        np.testing.assert_array_equal(line.get_xdata(), [*left[2:5], right[4]])
        np.testing.assert_array_equal(line.get_ydata(), whole["histogram_cdf"].values[1:5])
    with pytest.raises(eg.InputError, match="bins between others are missing"):
        whole.isel(bin=[1, 3]).embgeom.plot.histogram()


@pytest.mark.filterwarnings("ignore:In a future version of xarray:FutureWarning")
def test_models_that_xarray_puts_together_are_drawn_and_written_each_for_itself(made: Made, tmp_path: Path) -> None:
    alone = [made.results["scan"], made.results["other"]]
    both = xr.concat(alone, "model", coords="all", join="outer")
    drawn = zip(both.embgeom.plot.cdf().lines, both.embgeom.plot.histogram(density=False).patches, alone, strict=True)
    for line, bars, one in drawn:
        np.testing.assert_array_equal(line.get_xydata(), one.embgeom.plot.cdf().lines[0].get_xydata())
        np.testing.assert_array_equal(bars.get_data().values, one.embgeom.plot.histogram().patches[0].get_data().values)
    for place, one in enumerate(alone):
        part = both.isel(model=place)
        part.embgeom.to_parquet(tmp_path / f"{place}.parquet")
        table = pd.read_parquet(tmp_path / f"{place}.parquet").dropna(subset="token")
        assert table["token"].tolist() == one["token"].values.tolist()
        assert part.embgeom.to_csr("pairs").sum() == one.embgeom.to_csr("pairs").sum()


def test_what_a_graph_needs_is_named_where_it_is_gone(made: Made) -> None:
    whole = made.results["scan"]
    for part, lost in ((whole.sel(token_id=3), "token_id"), (whole.isel(neighbor=0), "neighbor")):
        with pytest.raises(eg.InputError, match=f"has lost its `{lost}`"):
            part.embgeom.to_csr()
    with pytest.raises(eg.InputError, match="has lost its `side`"):
        whole.isel(side=[0]).embgeom.to_csr("pairs")
    with pytest.raises(eg.InputError, match="has one side of its pairs"):
        whole.isel(side=0).embgeom.to_frame("nearest")
    pairs = whole.isel(pair=slice(2))
    assert (pairs.transpose("side", ...).embgeom.to_csr("pairs") != pairs.embgeom.to_csr("pairs")).nnz == 0


def test_components_at_some_radii_are_drawn(made: Made) -> None:
    whole = made.results["components"]
    (line,) = whole.embgeom.plot.components(of="largest").lines
    (some,) = whole.isel(radius=[0, 1]).embgeom.plot.components(of="largest").lines
    np.testing.assert_array_equal(some.get_ydata(), line.get_ydata()[:2])


def test_a_training_has_its_name_in_netcdf_too(tmp_path: Path) -> None:
    whole = xr.Dataset(attrs={"model": ["org/run"]})
    whole.to_netcdf(tmp_path / "series.nc")
    again = xr.load_dataset(tmp_path / "series.nc")
    assert [step_numbers.name_of(each) for each in (whole, again, xr.Dataset())] == ["org/run", "org/run", ""]


def test_a_part_of_a_training_counts_the_changes_at_its_steps() -> None:
    first, last = ("token_id", [-1, 10, 20, 20, 40]), ("token_id", [-1, 30, 30, 50, 40])
    whole = xr.Dataset({"first_change_step": first, "last_change_step": last}, {"step": range(0, 60, 10)})
    for part in (whole, whole.isel(step=slice(2, 5)), whole.isel(step=slice(None, None, -1))):
        born, died = (step_numbers.values(part, name) for name in ("born", "died"))
        known = dict(zip(part["step"].values.tolist(), zip(born, died, strict=True), strict=True))
        latest = max(known)
        assert {step: counts[0] for step, counts in known.items() if counts[0]} == {
            step: count for step, count in {10: 1, 20: 2, 40: 1}.items() if step in known
        }
        assert {step: counts[1] for step, counts in known.items() if counts[1] > 0} == {
            step: count for step, count in {30: 2, 40: 1, 50: 1}.items() if step in known and step != latest
        }
        assert np.isnan(known[latest][1])
