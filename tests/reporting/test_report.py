"""Reports: what they hold, how they name models, and that what comes from a checkpoint is text in them."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist, squareform

import embgeom_dask as eg
from embgeom_dask.cli import app
from embgeom_dask.escaping import readable, shown
from embgeom_dask.reporting import charts, markup, page, parts, report_contents, sky_chart
from embgeom_dask.reporting.display_names import display_names
from embgeom_dask.testing import make_store

HOSTILE = [
    "<script>window.hurt = 1</script>",
    "</script><script>window.hurt = 2</script>",
    "<img src=x onerror='window.hurt = 3'>",
    '"><svg onload="window.hurt = 4">',
    "&lt;b&gt;",
    "\u202eabc",
    "\x1b[31mred\x07",
    "a\nb\x00c",
    "$$x^2$$",
    "@id{safe} $name",
    "{{ 7 * 7 }}",
    "  two spaces",
    "\u200b",
    "שלום",
    "-" * 1000,
]
TOKENS = [*HOSTILE, "king", "Queen", "kings", *(f"w{place}" for place in range(60))]
MODELS = ("org/a", "other/<b>b</b>")


class Made(NamedTuple):
    rows: dict[str, np.ndarray]
    survey: xr.Dataset
    tokens: Any
    duplicates: xr.Dataset
    spectrum: Any
    scan: Any
    components: Any
    paths: list[Path]


def make(folder: Path, client: Client | None) -> Made:
    """Results of two models; of both, rows 3, 20 and 21 are one, as are 5 and 6."""
    rows = {}
    for seed, name in enumerate(MODELS):
        made = np.random.default_rng(seed).normal(size=(len(TOKENS), 6)).astype(np.float32) * (seed + 1)
        made[20], made[21], made[6] = made[3], made[3], made[5]
        rows[name] = made
    stores = [
        make_store(folder / f"{place}.zarr", output=made, tokens=TOKENS, model=name)
        for place, (name, made) in enumerate(rows.items())
    ]
    paths = [folder / name for name in ("survey", "tokens", "duplicates", "spectrum", "scan", "components")]
    kept = {"farthest": 12, "nearest": 9, "neighbors": 4, "histogram": 40, "quantiles": [0.1, 0.5], "within": [3, 4]}
    survey = eg.survey(stores, out=paths[0], client=client)
    tokens = eg.tokens(stores, out=paths[1], client=client)
    duplicates = eg.duplicates(stores, out=paths[2], client=client)
    spectrum = eg.spectrum(stores, out=paths[3], client=client)
    scan = eg.scan(stores, out=paths[4], client=client, **kept)
    components = eg.components(stores, [1, 2, 3], out=paths[5], client=client)
    return Made(rows, survey, tokens, duplicates, spectrum, scan, components, paths)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, client: Client) -> Made:
    return make(tmp_path_factory.mktemp("made"), client)


@pytest.fixture(scope="module")
def written(made: Made) -> str:
    return page.html_of(report_contents.gather(made.paths))


class Texts(HTMLParser):
    """The elements of a page, the text of its body, and what scripts hold."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.cells: list[list[str]] = []
        self.ids: dict[str, str] = {}
        self.script: str | None = None
        self.in_cell = False
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
            self.in_cell = True
        self.script = dict(attrs).get("id") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.script:
            self.ids[self.script] = self.ids.get(self.script, "") + data
        elif self.in_cell:
            self.cells[-1][-1] += data

    def unpacked(self, name: str) -> Any:
        """The data that the page packed, with arrays as numpy's."""

        def revive(value: dict[str, Any]) -> Any:
            if "planes" not in value:
                return value
            kind = np.dtype(value["kind"])
            planes = np.frombuffer(base64.b64decode(value["planes"]), np.uint8).reshape(kind.itemsize, -1)
            return np.frombuffer(planes.T.tobytes(), kind)

        return json.loads(gzip.decompress(base64.b64decode(self.ids[name])), object_hook=revive)


@pytest.fixture(scope="module")
def texts(written: str) -> Texts:
    return Texts(written)


def test_a_report_loads_nothing_and_runs_its_own_scripts_alone(written: str, texts: Texts) -> None:
    assert not [tag for tag, attrs in texts.elements if tag in ("link", "img", "iframe", "object", "base")]
    assert not [
        attrs for _, attrs in texts.elements if {"src", "srcset", "action", "onclick", "onerror"} & attrs.keys()
    ]
    assert all(attrs["href"].startswith("#") for _, attrs in texts.elements if "href" in attrs)
    (policy,) = [attrs["content"] for tag, attrs in texts.elements if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    scripts = re.findall(r"<script>(.*?)</script>", written, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts]
    assert re.findall(r"sha256-([^']+)", policy) == hashes


def test_hostile_tokens_are_text_wherever_they_are(written: str, texts: Texts) -> None:
    for token in HOSTILE[:4]:
        assert token not in written
    assert not [tag for tag, _ in texts.elements if tag == "svg"]
    assert "\u202e" not in written
    assert "\x1b" not in written
    cells = {cell for row in texts.cells for cell in row}
    for token in HOSTILE:
        shown = markup.cut(readable(token))
        packed = [texts.unpacked(name) for name in texts.ids if name.startswith("data")]
        assert all(shown in each["token"] for each in packed)
    assert {"\\u202eabc", HOSTILE[0]} & {cell.strip() for cell in cells}


def test_every_plot_is_json_that_holds_no_token(texts: Texts) -> None:
    plots = {name: json.loads(text) for name, text in texts.ids.items() if name.startswith("plot")}
    places = {attrs["data-plot"] for _, attrs in texts.elements if "data-plot" in attrs}
    assert places == plots.keys()
    assert not any(token in json.dumps(plots) for token in ("king", "hurt", "two spaces"))


def test_tables_hold_the_numbers_of_the_results(made: Made, texts: Texts) -> None:
    rows = {tuple(row) for row in texts.cells}
    for place, label in enumerate(("a", "<b>b</b>")):
        one = made.survey.isel(model=place)
        numbers = [f"{one[f'norm_{name}'].item():.6g}" for name in ("mean", "median", "std", "min", "max")]
        assert (label, "output_embedding", str(len(TOKENS)), "6", "float32", *numbers) in rows
        true = np.sort(pdist(made.rows[MODELS[place]].astype(np.float64)))
        assert (
            label,
            f"{true.size:,}",
            f"{true.mean():.6g}",
            f"{true.std(ddof=1):.6g}",
            "0",
            f"{true[-1]:.6g}",
        ) in rows
        scan = made.scan[list(made.scan.children)[place]]
        ids = scan["farthest_token_id"].to_numpy()[0]
        names = [markup.cut(readable(TOKENS[each])) for each in ids]
        assert ("1", f"{true[-1]:.6g}", str(ids[0]), names[0], str(ids[1]), names[1]) in rows
        assert (label, str(len(TOKENS)), str(len(TOKENS) - 3), "3", "2", "5") in rows
        members = " ".join(markup.cut(TOKENS[each]) for each in (3, 20, 21))
        assert any(row[0] == label and row[2:] == ("3", "3, 20, 21", members) for row in rows)


def test_components_are_those_of_the_graph(made: Made, texts: Texts) -> None:
    for rows in made.rows.values():
        unique = np.unique(rows.astype(np.float64), axis=0)
        weight = np.array([(rows == row).all(axis=1).sum() for row in unique])
        for radius in (1, 2, 3):
            near = squareform(pdist(unique)) <= radius
            count, label = connected_components(near, directed=False)
            tokens = np.bincount(label, weight).astype(int)
            edges = (near.sum() - len(unique)) // 2
            row = [str(radius), f"{count}", f"{(tokens == 1).sum()}", f"{edges:,}", f"{tokens.max()}"]
            assert row in texts.cells


def test_what_has_no_section_has_its_tables(made: Made, tmp_path: Path, client: Client) -> None:
    rows = made.rows[MODELS[0]]
    stores = [make_store(tmp_path / f"{at}.zarr", output=rows + at, tokens=TOKENS, model=f"m{at}") for at in (0, 1)]
    found = page.html_of(
        report_contents.gather([eg.compare(*stores, client=client), eg.scan(rows, pairs_within=2, client=client)])
    )
    assert re.findall(r'<section id="(\w+)">', found) == ["tables", "provenance", "missing"]
    near = pdist(rows.astype(np.float64)) <= 2
    assert f"The first 20 of {near.sum():,} lines." in found
    assert "<h3>result 1: compare</h3>" in found


def test_the_table_of_undertrained_tokens_begins_with_what_the_indicator_finds(tmp_path: Path, client: Client) -> None:
    rows = np.random.default_rng(4).normal(size=(len(TOKENS), 6)).astype(np.float32)
    store = make_store(tmp_path / "m.zarr", output=rows, tokens=TOKENS, model="m")
    result = eg.undertrained(store, unused="3,5", client=client)
    found = Texts(page.html_of(report_contents.gather(result)))
    heading = next(at for at, row in enumerate(found.cells) if "indicator_rank" in row)
    ranks = result["indicator_rank"].to_series().sort_values()
    ids = [row[0] for row in found.cells[heading + 1 : heading + 21]]
    assert ids == [str(each) for each in ranks.index[:20]]


def test_directions_have_a_section_with_the_largest_kurtosis_first(tmp_path: Path, client: Client) -> None:
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(len(TOKENS), 6)).astype(np.float32)
    store = make_store(tmp_path / "m.zarr", output=rows, tokens=TOKENS, model="org/m")
    np.save(tmp_path / "d.npy", rng.normal(size=(30, 6)).astype(np.float32))
    result = eg.readout(tmp_path / "d.npy", store, k=7, labels=[f"feature {at}" for at in range(30)], client=client)
    found = Texts(page.html_of(report_contents.gather(result)))
    assert [attrs["id"] for tag, attrs in found.elements if tag == "section"] == ["directions", "provenance", "missing"]
    heading = next(at for at, row in enumerate(found.cells) if "kurtosis" in row)
    lines = found.cells[heading + 1 : heading + 31]
    order = result["row_kurtosis"].to_series().sort_values(ascending=False).index
    assert [line[:2] for line in lines] == [[str(each), f"feature {each}"] for each in order]
    tokens = display_names(result.sel(direction=order[0]), "top_token")[:5]
    assert lines[0][2].split() == " ".join(map(markup.cut, tokens)).split()
    for part in (result.isel(direction=0), result.isel(top=0), result.drop_dims("bottom"), result.isel(direction=[])):
        assert 'id="directions"' not in page.html_of(report_contents.gather(part))
    without = eg.readout(tmp_path / "d.npy", store, k=1, moments=False, client=client)
    found = Texts(page.html_of(report_contents.gather(without)))
    heading = next(at for at, row in enumerate(found.cells) if "largest product" in row)
    assert [line[0] for line in found.cells[heading + 1 : heading + 31]] == [str(each) for each in range(30)]


def test_a_training_has_a_section_with_the_tokens_that_change(tmp_path: Path) -> None:
    rows = np.cumsum(np.ones((3, len(TOKENS), 2), np.float32), axis=0)
    rows[1:, 30:] = rows[0, 30:]
    rows[2, :6] = rows[1, :6]
    stores = [make_store(tmp_path / f"step-{at}.zarr", output=each, tokens=TOKENS) for at, each in enumerate(rows)]
    found = Texts(page.html_of(report_contents.gather(eg.series(stores))))
    assert [attrs["id"] for tag, attrs in found.elements if tag == "section"] == ["series", "provenance", "missing"]
    assert not [tag for tag, _ in found.elements if tag in ("img", "svg")]
    assert ["3", str(len(TOKENS)), str(len(TOKENS) - 30), "24"] in found.cells
    assert ["0", shown(HOSTILE[0]), "1", "1", "1", "3"] in found.cells
    plots = [json.loads(each) for name, each in found.ids.items() if name.startswith("plot-")]
    assert len(plots) == 4


def test_results_of_several_steps_are_tables_and_one_of_them_is_drawn(tmp_path: Path, client: Client) -> None:
    steps = np.random.default_rng(0).normal(size=(2, 9, 4))
    steps[1, 3] = steps[1, 2]
    each = {"survey": {}, "tokens": {}, "duplicates": {}, "spectrum": {}, "outliers": {"tokens": "0:4"}}
    tree = eg.series(steps, each=each, client=client)
    found = report_contents.gather(tree)
    assert 'id="tables"' in page.html_of(found)
    assert not found.having("norm_l2", "token_id") + found.having("unique_count") + found.of_command("outliers")
    results = {name: node.to_dataset() for name, node in tree.children.items()}
    for name, plot in {"spectrum": "skymap", "tokens": "norms", "duplicates": "ranks", "survey": "norms"}.items():
        with pytest.raises(eg.InputError, match=r"is of several steps, and a plot is of one: choose it"):
            getattr(results[name].embgeom.plot, plot)()
    assert results["spectrum"].isel(step=1).embgeom.plot.spectrum().lines
    assert results["tokens"].isel(step=1).embgeom.plot.ranks().lines
    for name in ("tokens", "spectrum"):
        with pytest.raises(eg.InputError, match="several steps"):
            results[name].embgeom.to_parquet(tmp_path / "t.parquet")
    for result in results.values():
        assert all(len(result.embgeom.to_frame(table)) for table in result.embgeom.tables if "outlier_" not in table)
    results["tokens"].isel(step=1).embgeom.to_parquet(tmp_path / "t.parquet")


def test_results_of_one_row_are_no_figures_of_nothing(client: Client) -> None:
    found = page.html_of(report_contents.gather(eg.scan(np.ones((1, 3), np.float32), histogram=4, client=client)))
    assert "data-plot" not in found


def test_products_have_tables_of_pairs_too(client: Client) -> None:
    rows = np.array([[1, 0], [2, 0], [0, -3], [-4, 1]], np.float32)
    found = Texts(
        page.html_of(report_contents.gather(eg.scan(rows, metric="dot", largest=2, smallest=1, client=client)))
    )
    headings = [row for row in found.cells if row[:2] == ["rank", "product"]]
    assert len(headings) == 2
    assert ["1", "-8", "1", "", "3", ""] in found.cells
    assert ["1", "2", "0", "", "1", ""] in found.cells


def test_the_search_has_every_token_and_its_neighbors(made: Made, texts: Texts) -> None:
    options = [attrs["value"] for tag, attrs in texts.elements if tag == "option"]
    assert len(options) == 2
    for name, node in zip(options, made.scan.children.values(), strict=True):
        data = texts.unpacked(name)
        np.testing.assert_array_equal(data["id"], node["token_id"])
        np.testing.assert_array_equal(data["neighbor"], node["neighbor_token_id"].to_numpy().ravel())
        said = [f"{value:.6g}" for value in data["distance"]]
        assert said == [f"{value:.6g}" for value in node["neighbor_distance"].to_numpy().ravel()]
        assert data["token"] == [markup.cut(readable(token)) for token in TOKENS]


def test_what_is_not_there_is_said_with_the_command(made: Made, texts: Texts) -> None:
    assert not [attrs for _, attrs in texts.elements if attrs.get("id") == "missing"]
    few = page.html_of(report_contents.gather(made.paths[0]))
    said = [html.unescape(each) for each in re.findall(r"<code>(.*?)</code>", few)]
    stores = "org/a 'other/<b>b</b>'"
    assert said == [
        f"embgeom tokens {stores} --out tokens",
        f"embgeom spectrum {stores} --sky 1,2,3 --out spectrum",
        f"embgeom duplicates {stores} --out duplicates",
        f"embgeom components {stores} --radius 0.2,0.4,0.6,0.8,1,1.2 --out components",
        f"embgeom scan {stores} --farthest 20 --nearest 20 --neighbors 10 --histogram 512 "
        "--quantiles 0.01,0.25,0.5,0.75,0.99 --out scan",
    ]
    sections = re.findall(r'<section id="(\w+)">', few)
    assert sections == ["survey", "provenance", "missing"]


def test_provenance_has_the_certificate_and_sha256(made: Made, texts: Texts) -> None:
    rows = [row for row in texts.cells if row and row[0].startswith("certificate: ")]
    assert rows
    assert ["sha256", made.scan[next(iter(made.scan.children))].attrs["sha256"][0]] in texts.cells


def named(*of: tuple[str, str, str], against: str = "") -> list[str]:
    items = []
    for model, revision, matrix in of:
        coords: dict[str, Any] = {"model": model, "revision": revision, "matrix": matrix}
        coords |= {"against": against, "against_revision": ""} if against else {}
        items.append(xr.Dataset({"norm_mean": 1.0}, coords, {"command": "survey"}))
    return [each.label for each in report_contents.gather(items).items]


def test_models_are_named_as_shortly_as_tells_them_apart() -> None:
    assert named(("org/a", "", "output_embedding")) == ["a"]
    assert named(("org/a", "", "output_embedding"), ("other/a", "", "output_embedding")) == ["org/a", "other/a"]
    assert named(("a", "r1", "output_embedding"), ("a", "r2", "output_embedding")) == ["a@r1", "a@r2"]
    assert named(("a", "", "output_embedding"), ("a", "", "input_embedding")) == ["a, output", "a, input"]
    assert named(("a", "", "output_embedding"), ("a", "", "output_embedding")) == ["a (result 1)", "a (result 2)"]
    assert named(("org/a", "", "output_embedding"), against="org/b") == ["a, output against b"]
    assert named(("org/a", "", "output_embedding"), against="org/a") == ["a"]


def test_the_title_counts_models_not_results() -> None:
    items = [xr.Dataset({"norm_mean": 1.0}, {"model": f"m{k % 2}"}, {"command": "survey"}) for k in range(6)]
    assert "<title>embgeom: 2 models</title>" in page.html_of(report_contents.gather(items))


def test_one_model_is_steelblue_and_several_are_of_inferno() -> None:
    def colors(count: int) -> list[str]:
        one = [xr.Dataset({"norm_mean": 1.0}, {"model": f"m{place}"}) for place in range(count)]
        return [each.color for each in report_contents.gather(one).items]

    assert colors(1) == ["steelblue"]
    assert len(set(colors(20))) == 20


@given(st.text())
def test_text_is_escaped_so_that_a_browser_reads_it_again(value: str) -> None:
    class Reader(HTMLParser):
        found = ""

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            raise AssertionError(tag)

        def handle_data(self, data: str) -> None:
            self.found += data

    reader = Reader()
    reader.feed(f"{markup.text(value)}\n")
    reader.close()
    assert reader.found[:-1] == shown(value)
    assert json.loads(parts.in_script(value)) == value
    assert not re.search("[<>&]", parts.in_script(value))


def test_a_long_table_has_its_first_lines_and_says_so() -> None:
    rows = [[place, place / 7] for place in range(markup.MOST_ROWS + 5)]
    made = markup.table([markup.Column("id", "id"), markup.Column("x")], rows, rest="More is elsewhere.")
    assert made.count("<tr>") == markup.MOST_ROWS + 1
    assert "The first 1,000 of 1,005 lines. More is elsewhere." in made
    assert f'data-sort="{1 / 7!r}" title="{1 / 7!r}">0.142857<' in made


def test_the_sky_is_mollweides() -> None:
    random = np.random.default_rng(0)
    sine = np.concatenate([random.uniform(-1, 1, 2000), [-1, 0, 1], 1 - np.logspace(-12, -2, 40)])
    longitude = random.uniform(-np.pi, np.pi, sine.size)
    x, y = sky_chart.projected(longitude, sine)
    angle = [brentq(lambda t, one=one: 2 * t + np.sin(2 * t) - np.pi * one, -np.pi / 2, np.pi / 2) for one in sine]
    np.testing.assert_allclose(x, 2 / np.pi * longitude * np.cos(angle), atol=2e-3)
    np.testing.assert_allclose(y, np.sin(angle), atol=1e-5)
    near_poles = np.abs(sine) > 0.999
    np.testing.assert_allclose(x[~near_poles], (2 / np.pi * longitude * np.cos(angle))[~near_poles], atol=1e-9)
    cells = sky_chart.counts(np.append(longitude, np.nan), np.append(sine, 0))
    assert cells.sum() == longitude.size
    west, north = sky_chart.counts(np.array([-3.0]), np.array([0.01])).nonzero()[::-1]
    assert west < 20
    assert 85 <= north <= 95


def test_equal_parts_of_the_sky_are_equal_cells() -> None:
    random = np.random.default_rng(1)
    cells = sky_chart.counts(random.uniform(-np.pi, np.pi, 400_000), random.uniform(-1, 1, 400_000))
    middle = cells[60:120, 100:260].mean()
    assert abs(cells[160:176, 150:210].mean() / middle - 1) < 0.03


def test_long_lines_keep_their_ends() -> None:
    places = charts.thinned(np.zeros(150_000))
    assert places[0] == 0
    assert places[-1] == 149_999
    assert np.all(np.diff(places) > 0)
    assert 500 < places.size <= 2000
    assert charts.thinned(np.zeros(10)).tolist() == list(range(10))


def without_ids(html: str) -> str:
    """The page without the numbers that bokeh counts up in one process."""
    return re.sub(r'"p\d+"|"[0-9a-f-]{36}"', '"id"', html)


def test_the_command_writes_a_report(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [str(path) for path in made.paths]
    assert app.main(["report", *paths, "-o", "r.html"]) == 0
    assert capsys.readouterr().out == "r.html\n"
    first = without_ids(Path("r.html").read_text())
    assert app.main(["report", *paths, "-o", "r.html"]) == 2
    assert "r.html exists: --overwrite replaces it" in capsys.readouterr().err
    assert app.main(["report", *paths, "-o", "r.html", "--overwrite"]) == 0
    assert without_ids(Path("r.html").read_text()) == first
    assert app.main(["report", "nowhere", "-o", "s.html"]) == 2
    assert "no result at nowhere" in capsys.readouterr().err
    assert app.main(["report", paths[0], "-o", "no/s.html"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_a_report_takes_results_as_they_are(made: Made, tmp_path: Path) -> None:
    found = eg.report([made.survey, made.scan, made.paths[1]], tmp_path / "r.html")
    assert found == tmp_path / "r.html"
    assert "Norm against distance" in found.read_text()
    again = made.scan.embgeom.report(tmp_path / "scan.html")
    assert page.html_of(report_contents.gather(made.scan)).count("<table") == again.read_text().count("<table")
    with pytest.raises(eg.InputError, match="exists"):
        made.survey.embgeom.report(again)
    with pytest.raises(eg.InputError, match="result 1 is a DataArray: give a result, or its path"):
        eg.report(xr.DataArray([1.0]), tmp_path / "s.html")
    with pytest.raises(eg.InputError, match="no results"):
        eg.report([], tmp_path / "s.html")
    assert not (tmp_path / "s.html").exists()
