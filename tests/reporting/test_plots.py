"""Plots of results: what is drawn is what rows say, computed anew; figures are those that were looked at."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import xarray as xr
from distributed import Client
from matplotlib import pyplot
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.testing.compare import compare_images
from PIL import Image
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist, pdist, squareform

import embgeom_dask as eg
from embgeom_dask.cli import app
from embgeom_dask.reporting import drawing
from embgeom_dask.testing import make_store
from tests.reporting.figures import FIGURES, FOLDER, Results, draw, results

pytestmark = pytest.mark.usefixtures("figures_closed")

STEELBLUE = to_rgba("steelblue")
DRAWN_BY = "3.11"
"""The matplotlib that drew the stored figures: another may set its letters otherwise."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made")


@pytest.fixture(scope="module")
def made(folder: Path, client: Client) -> Results:
    return results(folder, client=client)


def distances(made: Results, name: str = "org/a") -> np.ndarray:
    return pdist(made.rows[name].astype(np.float64))


def edges_of_pairs(made: Results) -> np.ndarray:
    """The edges of bins, from the one below the nearest pair to the one above the farthest."""
    edges, true = made.one["bin_edge"].to_numpy(), distances(made)
    assert edges[-2] > true.max()  # there are bins that hold no pair
    return edges[np.searchsorted(edges, true.min(), "right") - 1 : np.searchsorted(edges, true.max()) + 1]


def test_a_histogram_shows_the_pairs_of_each_bin(made: Results) -> None:
    ax = made.one.embgeom.plot.histogram()
    (bars,) = ax.patches
    values, edges, baseline = bars.get_data()
    assert baseline == 0
    np.testing.assert_array_equal(edges, edges_of_pairs(made))
    np.testing.assert_array_equal(values, np.histogram(distances(made), edges)[0])
    assert bars.get_fill()
    assert bars.get_facecolor() == STEELBLUE
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("euclidean distance", "pairs")
    assert ax.get_title() == "org/a, output_embedding"
    assert ax.get_legend() is None
    assert ax.figure.dpi == 200
    assert made.one.embgeom.plot.histogram(log=True).get_yscale() == "log"
    shares = made.one.embgeom.plot.histogram(density=True).patches[0].get_data().values
    np.testing.assert_allclose(shares, np.histogram(distances(made), edges, density=True)[0], rtol=1e-12)


def test_models_share_the_axes_of_a_histogram(made: Results) -> None:
    ax = made.tree.embgeom.plot.histogram()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["org/a", "org/b_$x$"]
    assert len({bars.get_edgecolor() for bars in ax.patches}) == 2
    for bars, name in zip(ax.patches, made.rows, strict=True):
        values, edges, _ = bars.get_data()
        assert not bars.get_fill()
        true = np.histogram(distances(made, name), edges, density=True)[0]
        np.testing.assert_allclose(values, true, rtol=1e-12)
    counts = made.tree.embgeom.plot.histogram(density=False).patches[1].get_data()
    np.testing.assert_array_equal(counts.values, np.histogram(distances(made, "org/b_$x$"), counts.edges)[0])


def test_a_table_of_scans_is_drawn_as_their_tree(made: Results, client: Client, tmp_path: Path) -> None:
    stores = [
        make_store(tmp_path / f"{at}.zarr", output=rows, model=name)
        for at, (name, rows) in enumerate(made.rows.items())
    ]
    tree = eg.scan(stores, histogram=30, common_edges=True, client=client)
    drawn = [
        [bars.get_data().values.tolist() for bars in each.embgeom.plot.histogram().patches]
        for each in (tree, tree.to_dataset())
    ]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 2


def test_bins_of_the_logarithm_have_an_axis_of_it_and_pairs_outside_are_counted(made: Results, client: Client) -> None:
    rows = made.rows["org/a"]
    assert (
        eg.scan(rows, histogram=20, histogram_scale="log", client=client).embgeom.plot.histogram().get_xscale() == "log"
    )
    ax = eg.scan(rows, histogram_edges=[2, 3, 4], client=client).embgeom.plot.cdf()
    true = distances(made)
    outside = np.count_nonzero((true < 2) | (true > 4))
    assert ax.get_xlabel() == f"euclidean distance ({outside:,} pairs outside the bins)"
    shares = [(true < 2).mean(), (true < 3).mean(), (true <= 4).mean()]
    np.testing.assert_allclose(ax.lines[0].get_xydata(), np.stack([[2, 3, 4], shares], axis=1), rtol=1e-12)


def test_a_cdf_goes_through_the_shares_of_pairs_and_marks_quantiles(made: Results) -> None:
    ax = made.one.embgeom.plot.cdf()
    curve, points = ax.lines
    true, edges = np.sort(distances(made)), edges_of_pairs(made)
    np.testing.assert_array_equal(curve.get_xdata(), edges)
    np.testing.assert_allclose(curve.get_ydata(), np.searchsorted(true, edges) / true.size, rtol=1e-12)
    expected = np.quantile(true, [0.1, 0.5, 0.9], method="inverted_cdf")
    np.testing.assert_allclose(points.get_xdata(), expected, rtol=1e-12)
    assert points.get_ydata().tolist() == [0.1, 0.5, 0.9]
    bars = made.tree.embgeom.plot.cdf().collections
    for drawn, name in zip(bars, made.rows, strict=True):
        quantiles = np.quantile(distances(made, name), [0.1, 0.5, 0.9], method="inverted_cdf")
        for (left, right), quantile, share in zip(drawn.get_segments(), quantiles, [0.1, 0.5, 0.9], strict=True):
            assert left[0] <= quantile <= right[0]
            assert left[1] == right[1] == share


def test_norms_show_the_spread_of_each_model(made: Results) -> None:
    ax = made.survey.embgeom.plot.norms()
    whole, inner = (collection.get_segments() for collection in ax.collections)
    means, medians = ax.lines
    assert [text.get_text() for text in ax.texts] == ["org/a", "org/b_$x$"]
    for place, rows in enumerate(made.rows.values()):
        norms = np.linalg.norm(rows.astype(np.float64), axis=1)
        np.testing.assert_allclose(whole[place][:, 0], [norms.min(), norms.max()], rtol=1e-12)
        mean, std = norms.mean(), norms.std(ddof=1)
        np.testing.assert_allclose(inner[place][:, 0], [mean - std, mean + std], rtol=1e-12)
        np.testing.assert_allclose(means.get_xdata()[place], mean, rtol=1e-12)
        np.testing.assert_allclose(medians.get_xdata()[place], np.median(norms), rtol=1e-12)
        assert whole[place][:, 1].tolist() == [place, place]


def test_norms_of_tokens_are_a_histogram(made: Results) -> None:
    true = [np.linalg.norm(rows.astype(np.float64), axis=1) for rows in made.rows.values()]
    one = made.tokens["org--a"].to_dataset().embgeom.plot.norms()
    (bars,) = one.patches
    values, edges, _ = bars.get_data()
    np.testing.assert_allclose(edges[[0, -1]], [true[0].min(), true[0].max()], rtol=1e-12)
    assert (len(edges), values.sum(), bars.get_facecolor()) == (257, 150, STEELBLUE)
    at = np.searchsorted(np.sort(true[0]), edges[1:-1] + 1e-9)  # what a bin's edge itself holds is in the next one
    np.testing.assert_array_equal(np.abs(np.cumsum(values)[:-1] - at) <= 1, True)
    both = made.tokens.embgeom.plot.norms(log=True)
    assert (both.get_yscale(), both.get_ylabel()) == ("log", "share of tokens")
    assert [text.get_text() for text in both.get_legend().get_texts()] == ["org/a", "org/b_$x$"]
    for bars in both.patches:
        values, edges, _ = bars.get_data()
        assert abs(values.sum() - 1) < 1e-12
        ends = min(each.min() for each in true), max(each.max() for each in true)
        np.testing.assert_allclose(edges[[0, -1]], ends, rtol=1e-12)


def test_ranks_of_tokens_are_sorted_values(made: Results) -> None:
    for of in ("norms", "centroid"):
        lines = made.tokens.embgeom.plot.ranks(of=of).lines
        for line, rows in zip(lines, made.rows.values(), strict=True):
            exact = rows.astype(np.float64)
            from_where = exact.mean(axis=0) if of == "centroid" else 0
            true = np.sort(np.linalg.norm(exact - from_where, axis=1))[::-1]
            np.testing.assert_allclose(line.get_ydata(), true, rtol=1e-9)
            assert line.get_xdata().tolist() == [*range(1, len(rows) + 1)]


def test_a_sky_map_counts_directions_in_three_components(made: Results) -> None:
    ax = made.spectrum.embgeom.plot.skymap()
    rows = made.rows["org/a"].astype(np.float64)
    around = rows - rows.mean(axis=0)
    vectors = made.spectrum["component_vector"].sel(component=[1, 2, 3]).values
    x, y, z = vectors @ around.T
    true = np.zeros((90, 180), int)
    latitudes, longitudes = np.arcsin(np.linspace(-1, 1, 91)), np.linspace(-np.pi, np.pi, 181)
    for lat, lon in zip(np.arcsin(z / np.sqrt(x**2 + y**2 + z**2)), np.arctan2(y, x), strict=True):
        true[np.searchsorted(latitudes, lat) - 1, np.searchsorted(longitudes, lon) - 1] += 1
    drawn = ax.collections[0].get_array()
    np.testing.assert_array_equal(drawn.filled(0), true)
    assert drawn.mask.sum() == (true == 0).sum()
    assert ax.name == "mollweide"
    assert ax.get_facecolor() == (0, 0, 0, 1)
    other = made.spectrum.embgeom.plot.skymap(components=(3, 1, 2))
    assert (other.collections[0].get_array().filled(0) != true).any()


def test_a_sky_map_refuses_what_it_cannot_draw(made: Results) -> None:
    plots = made.spectrum.embgeom.plot
    for components in ((1, 2), (1, 2, 2), (1, 2, 99)):
        with pytest.raises(eg.InputError, match="`components`: give three of those that the result has, 1 to "):
            plots.skymap(components=components)
    with pytest.raises(eg.InputError, match="made with projection='mollweide'"):
        plots.skymap(Figure().add_subplot())
    with pytest.raises(eg.InputError, match="has no scores: take the result of spectrum"):
        made.one.embgeom.plot.skymap()
    with pytest.raises(eg.InputError, match="has the spread of norms alone"):
        made.survey.embgeom.plot.norms(log=True)


def test_a_spectrum_is_numpys(made: Results) -> None:
    rows = made.rows["org/a"].astype(np.float64)
    true = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
    ax = made.spectrum.embgeom.plot.spectrum()
    np.testing.assert_allclose(ax.lines[0].get_xydata(), np.stack([np.arange(1, 9), true], axis=1), rtol=1e-10)
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_title()) == ("log", "log", "org/a, output_embedding")
    ax = made.spectrum.embgeom.plot.spectrum(of="cumulative")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.cumsum(true) / true.sum(), rtol=1e-10)
    with pytest.raises(eg.InputError, match="`of` is one of eigenvalues, cumulative, not 'share'"):
        made.spectrum.embgeom.plot.spectrum(of="share")
    with pytest.raises(eg.InputError, match="has no eigenvalues: take the result of spectrum"):
        made.one.embgeom.plot.spectrum()


def test_components_are_those_of_the_graph_at_each_radius(made: Results) -> None:
    count = made.components.embgeom.plot.components()
    largest = made.components.embgeom.plot.components(of="largest")
    assert [text.get_text() for text in count.get_legend().get_texts()] == ["org/a", "org/b_$x$"]
    assert (count.get_xlabel(), count.get_yscale()) == ("radius, euclidean distance", "log")
    for place, rows in enumerate(made.rows.values()):
        unique, tokens = np.unique(rows.astype(np.float64), axis=0, return_counts=True)
        near = squareform(pdist(unique))
        for at, radius in enumerate([1, 2, 2.5, 3, 4, 6]):
            components, label = connected_components(near <= radius, directed=False)
            assert count.lines[place].get_xydata()[at].tolist() == [radius, components]
            assert largest.lines[place].get_ydata()[at] == np.bincount(label, tokens).max() / len(rows)
    near = made.components["org--a"].to_dataset().isel(radius=slice(0, 1))
    assert near.embgeom.plot.components().get_yscale() == "linear"
    with pytest.raises(eg.InputError, match="has no components: take the result of components"):
        made.spectrum.embgeom.plot.components()


def test_a_training_is_drawn_over_its_steps(made: Results) -> None:
    drawn = made.series.embgeom.plot.series(of="changes").lines
    lines = {line.get_label(): line.get_ydata() for line in drawn}
    assert lines["change"].tolist() == made.series["changed_count"].values.tolist()
    assert lines["first change (born)"].tolist() == [0, 40, *[0] * 10, 20, *[0] * 17]
    assert lines["last change (die)"].tolist()[:-1] == [*[0] * 20, 4, *[0] * 8]
    assert np.isnan(lines["last change (die)"][-1])
    assert lines["join a group (merge)"][8] == lines["leave one (part)"][25] == 4
    assert len({to_rgba(line.get_color()) for line in drawn}) == len({line.get_marker() for line in drawn}) == 5
    assert np.flatnonzero(drawn[3].get_markevery()).tolist() == [8]  # where it is not 0
    every = made.series.embgeom.plot.series()
    assert [each.get_ylabel() for each in every.child_axes][-1] == "L2 norm\nof rows"
    assert every.child_axes[-1].lines[0].get_ydata().tolist() == made.series["norm_mean"].values.tolist()


def test_what_has_the_name_but_not_the_values_is_not_drawn(made: Results, client: Client) -> None:
    plots = eg.outliers(made.rows["org/a"], "0:9", client=client).embgeom.plot
    for draw_it, said in [(plots.ranks, "nothing that is ranked"), (plots.norms, "no norms")]:
        with pytest.raises(eg.InputError, match=f"this result has {said}"):
            draw_it()
    table = made.tree.to_dataset().embgeom.plot
    with pytest.raises(eg.InputError, match="this result has nothing that is ranked"):
        table.ranks()


def test_ranks(made: Results) -> None:
    groups = made.duplicates.embgeom.plot.ranks()
    assert [line.get_xydata().tolist() for line in groups.lines] == [[[1, 4], [2, 2]]] * 2
    assert (groups.get_xscale(), groups.get_ylabel()) == ("log", "tokens in the group")
    true = np.sort(distances(made))
    farthest, nearest = (made.one.embgeom.plot.ranks(of=of).lines[0] for of in ("farthest", "nearest"))
    np.testing.assert_allclose(farthest.get_ydata(), true[::-1][:20], rtol=1e-12)
    np.testing.assert_allclose(nearest.get_ydata(), true[:20], rtol=1e-12)
    assert farthest.get_xdata().tolist() == [*range(1, 21)]


def test_ranks_of_neighbors_and_degrees(made: Results) -> None:
    rows = made.rows["org/a"].astype(np.float64)
    square = cdist(rows, rows)
    nearest = np.sort(square + np.diag(np.full(150, np.inf)), axis=1)[:, :9]
    ax = made.one.embgeom.plot.ranks(of="neighbors")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.median(nearest, axis=0), rtol=1e-12)
    band = ax.collections[0].get_paths()[0].vertices
    for rank in range(1, 10):
        heights = band[band[:, 0] == rank, 1]
        expected = [nearest[:, rank - 1].min(), nearest[:, rank - 1].max()]
        np.testing.assert_allclose([heights.min(), heights.max()], expected, rtol=1e-12, atol=1e-7)
    ax = made.one.embgeom.plot.ranks(of="degrees")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["org/a, radius 2", "org/a, radius 3"]
    for line, radius in zip(ax.lines, (2, 3), strict=True):
        degree = (square <= radius).sum(axis=1) - 1
        assert line.get_ydata().tolist() == sorted(degree.tolist(), reverse=True)
        assert line.get_xdata().tolist() == [*range(1, 151)]


def test_ranks_of_lists_that_are_short(client: Client) -> None:
    rows = np.zeros((4, 2), np.float32)
    rows[3] = 1
    found = eg.scan(rows, neighbors=3, distinct=True, client=client)
    line = found.embgeom.plot.ranks().lines[0]
    np.testing.assert_allclose(line.get_ydata(), [2**0.5] * 3)


def test_a_heat_map_of_pairs_is_their_matrix(made: Results) -> None:
    ax = made.few.embgeom.plot.heatmap(of="pairs")
    rows = made.rows["org/a"][:20].astype(np.float64)
    square = cdist(rows, rows)
    near = square <= 3.5
    kept = np.flatnonzero(near.sum(axis=1) > 1)
    drawn = ax.images[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(drawn), ~near[np.ix_(kept, kept)])
    np.testing.assert_allclose(drawn.filled(-1), np.where(near, square, -1)[np.ix_(kept, kept)], atol=1e-12)
    assert drawn.data[0, 0] == 0
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == [text.get_text() for text in ax.get_xticklabels()]
    assert {"$x$ _{", "\\u202eabc", "\\x1b[31m"} <= {*names}
    assert len(names) == len(kept)
    assert not any(text.get_parse_math() for text in [*ax.get_yticklabels(), *ax.get_xticklabels()])
    assert ax.images[0].get_cmap().name == "inferno"


def test_a_heat_map_of_two_matrices_has_the_tokens_of_each(made: Results, client: Client) -> None:
    first, second = (rows[:6].astype(np.float64) for rows in made.rows.values())
    ax = eg.scan(first, against=second[:3], pairs_within=100, client=client).embgeom.plot.heatmap()
    np.testing.assert_allclose(ax.images[0].get_array(), cdist(first, second[:3]), rtol=1e-12)


def test_a_heat_map_of_neighbors_has_a_line_a_token(made: Results) -> None:
    ax = made.one.embgeom.plot.heatmap()
    drawn = ax.images[0].get_array()
    assert drawn.shape == (150, 9)
    np.testing.assert_array_equal(drawn, made.one["neighbor_distance"])
    few = made.few.isel(token_id=[2, 5]).embgeom.plot.heatmap(of="neighbors")
    assert [text.get_text() for text in few.get_yticklabels()] == ["\\u202eabc", "w0"]
    few.figure.canvas.draw()
    assert [text.get_text() for text in few.get_xticklabels() if text.get_text()] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("name", ["histogram", "cdf", "ranks", "heatmap"])
def test_a_plot_is_drawn_on_the_axes_given(made: Results, name: str) -> None:
    ax = Figure().add_subplot()
    assert getattr(made.one.embgeom.plot, name)(ax=ax) is ax
    assert not pyplot.get_fignums()


def test_models_of_one_name_are_told_apart(made: Results) -> None:
    one = made.one
    tree = xr.DataTree.from_dict({"/first": one, "/second": one, "/old": one.assign_coords(revision="abc")})
    labels = [text.get_text() for text in tree.embgeom.plot.cdf().get_legend().get_texts()]
    assert labels == ["first", "second", "org/a@abc"]


def test_what_a_result_lacks_is_said_in_a_line_with_what_makes_it(made: Results) -> None:
    plots = {name: getattr(made, name).embgeom.plot for name in ("one", "few", "tree", "survey", "duplicates")}
    mixed = xr.DataTree.from_dict({"/a": made.one, "/b": made.few}).embgeom.plot
    for draw_it, message in [
        (plots["few"].histogram, "this result has no histogram: give scan `histogram`"),
        (mixed.cdf, "/b has no histogram: give scan `histogram`"),
        (xr.DataTree().embgeom.plot.cdf, "this tree of results has no histogram: give scan `histogram`"),
        (plots["one"].norms, "this result has no norms: take the result of tokens or of survey"),
        (plots["survey"].ranks, "this result has nothing that is ranked: give scan `farthest`, `nearest`, .*"),
        (lambda: plots["few"].ranks(of="groups"), "this result has no groups: it has neighbors"),
        (lambda: plots["few"].ranks(of="sizes"), "`of` is one of groups, .*, centroid, not 'sizes'"),
        (
            plots["duplicates"].heatmap,
            "this result has nothing for a heat map: give scan `neighbors` or `pairs_within`",
        ),
        (plots["survey"].series, "this result has no steps: take the result of series"),
        (plots["tree"].heatmap, r"this plot is of one model, and the result is of 2 \(org/a, org/b_\$x\$\): .*"),
    ]:
        with pytest.raises(eg.InputError, match=f"^{message}$"):
            draw_it()
    assert not pyplot.get_fignums()


def test_pairs_of_too_many_tokens_are_refused(made: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_MATRIX_TOKENS", 10)
    with pytest.raises(eg.InputError, match=r"a heat map shows up to 10 tokens, the pairs are of 1.*: scan `tokens`"):
        made.one.embgeom.plot.heatmap(of="pairs")


def test_a_result_with_nothing_in_it_is_drawn_or_refused(client: Client, tmp_path: Path) -> None:
    rows = np.random.default_rng(3).normal(size=(30, 4)).astype(np.float32)
    empty = eg.scan(rows, within=[1e-6], pairs_within=1e-6, histogram_edges=[90, 91, 92], client=client)
    drawn = [
        eg.duplicates(rows, client=client).embgeom.plot.ranks(),
        empty.embgeom.plot.ranks(of="degrees"),
        empty.embgeom.plot.histogram(log=True),
        eg.spectrum(np.ones((5, 4), np.float32), client=client).embgeom.plot.spectrum(),
    ]
    for ax in drawn:
        ax.figure.savefig(tmp_path / "drawn.png")  # a logarithm of nothing fails here
        assert ax.get_yscale() == "linear"
    with pytest.raises(eg.InputError, match="there is nothing to draw: the result has 0 pairs"):
        empty.embgeom.plot.heatmap()


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_those_that_were_looked_at(made: Results, name: str, tmp_path: Path) -> None:
    if not matplotlib.__version__.startswith(DRAWN_BY):
        pytest.skip(f"the stored figures are of matplotlib {DRAWN_BY}, this is {matplotlib.__version__}")
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        draw(name, made, tmp_path / "drawn.png")
    assert compare_images(f"{FOLDER / name}.png", str(tmp_path / "drawn.png"), tol=2) is None


def run(*args: object) -> int:
    return app.main([str(arg) for arg in args])


def test_the_command_writes_a_figure(
    made: Results, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fig.png"
    assert run("plot", folder / "scan.zarr", "--histogram", "--log", "-o", out) == 0
    assert capfd.readouterr().out == f"{out}\n"
    with Image.open(out) as image:
        assert image.size == (1280, 960)
        assert [*map(round, image.info["dpi"])] == [200, 200]
    first = out.read_bytes()
    assert run("plot", folder / "scan.zarr", "--histogram", "-o", out) == 2
    assert capfd.readouterr().err == f"error: {out} exists: --overwrite replaces it\n"
    assert out.read_bytes() == first
    assert run("plot", folder / "scan.zarr", "--histogram", "-o", out, "--overwrite") == 0
    assert out.read_bytes() != first
    assert [each.name for each in tmp_path.iterdir()] == ["fig.png"]


@pytest.mark.parametrize(("ending", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")])
def test_the_ending_is_the_format_and_a_figure_is_the_same_each_time(
    made: Results, folder: Path, tmp_path: Path, ending: str, start: bytes
) -> None:
    outs = [tmp_path / f"{place}.{ending}" for place in (1, 2)]
    for out in outs:
        assert run("plot", folder / "scans", "--cdf", "-o", out) == 0
    assert outs[0].read_bytes().startswith(start)
    assert outs[0].read_bytes() == outs[1].read_bytes()


CHOOSE = (
    "choose one plot: --histogram, --cdf, --norms, --ranks, --heatmap, --skymap, --spectrum, --components, --series"
)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--histogram"], "this result has no histogram: give scan --histogram"),
        ([], CHOOSE),
        (
            ["--cdf", "--norms"],
            CHOOSE,
        ),
        (["--cdf", "--log"], "--log goes with --histogram and --norms, not with --cdf"),
        (
            ["--norms", "--of", "groups"],
            "--of goes with --ranks, --heatmap, --spectrum, --components and --series, not with --norms",
        ),
        (
            ["--ranks", "--of", "sizes"],
            "--of is one of groups, farthest, nearest, neighbors, degrees, norms, centroid, not 'sizes'",
        ),
    ],
)
def test_the_command_refuses_in_a_line(
    made: Results, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    assert run("plot", folder / "surveys", *args, "-o", tmp_path / "fig.png") == 2
    assert capfd.readouterr().err == f"error: {message}\n"
    assert not [*tmp_path.iterdir()]


def test_the_command_draws_a_sky_map(made: Results, folder: Path, tmp_path: Path) -> None:
    assert run("plot", folder / "spectrum.zarr", "--skymap", "-o", tmp_path / "sky.png") == 0
    assert run("plot", folder / "spectrum.zarr", "--spectrum", "--of", "cumulative", "-o", tmp_path / "share.png") == 0
    assert run("plot", folder / "components", "--components", "-o", tmp_path / "components.pdf") == 0
    assert run("plot", folder / "tokens", "--norms", "--log", "-o", tmp_path / "norms.svg") == 0


def test_a_name_without_a_format_is_refused(
    made: Results, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("plot", folder / "scan.zarr", "--cdf", "-o", tmp_path / "fig.gif") == 2
    said = capfd.readouterr().err
    assert said == f"error: {tmp_path / 'fig.gif'} ends with no format of figures: .pdf, .png, .svg\n"


def test_without_matplotlib_a_line_says_what_to_install(
    made: Results, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("plot", folder / "scan.zarr", "--cdf", "-o", tmp_path / "fig.png") == 2
    assert capfd.readouterr().err == "error: matplotlib is not installed: pip install 'embgeom-dask[plot]'\n"
    with pytest.raises(eg.InputError, match=r"pip install 'embgeom-dask\[plot\]'"):
        made.one.embgeom.plot.histogram()


@pytest.mark.slow  # in a process of its own, which loads all
def test_the_command_needs_no_display_and_no_pyplot(made: Results, folder: Path, tmp_path: Path) -> None:
    args = ["plot", str(folder / "scan.zarr"), "--ranks", "-o", str(tmp_path / "fig.svg")]
    code = (
        f"import sys; from embgeom_dask.cli import app; assert app.main({args!r}) == 0;"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"PATH": "", "MPLBACKEND": "tkagg", "HOME": str(tmp_path)}
    )


def test_what_the_page_shows_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Client) -> None:
    page = (Path(__file__).parents[2] / "docs" / "plots.md").read_text()
    commands = re.findall(r"^    \$ embgeom (.*)$", page, re.M)
    (words,) = [re.search(r"--tokens (\S+)", command) for command in commands if "--tokens" in command]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drawing, "DPI", 50)
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    tokens = [*(f"t{i}" for i in range(44)), *words[1].split(",")]
    name = "sentence-transformers/all-MiniLM-L6-v2"
    make_store(f"stores/{name.replace('/', '--')}.zarr", output=rows, tokens=tokens, model=name)
    with client.as_current():
        for command in commands:
            assert app.main(command.split()) == 0, command
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(block, {})
    drawn = {"histogram.png", "cdf.png", "heatmap.png", "words.png", "ranks.svg", "norms.pdf", "zoomed.png"}
    assert drawn <= {each.name for each in tmp_path.iterdir()}
    for picture in re.findall(r"!\[.*\]\((.*)\)", page):
        assert (Path(__file__).parents[2] / "docs" / picture).stat().st_size < 64 << 10
