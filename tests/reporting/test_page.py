"""The page of a report in a real browser, which is asked what it shows, fetches and complains of."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client
from PIL import Image

from embgeom_dask.reporting import page, report_contents
from tests.reporting.browser import MISSING, Browser, browser
from tests.reporting.test_report import HOSTILE, TOKENS, Made, make

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

DRAW = "embgeom.draw_all().then(() => document.querySelectorAll('[data-drawn]').length)"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, client: Client) -> Made:
    return make(tmp_path_factory.mktemp("made"), client)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def written(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "report.html"
    path.write_text(page.html_of(report_contents.gather(made.paths)), encoding="utf-8")
    return path


@pytest.fixture
def opened(chromium: Browser, written: Path) -> Browser:
    chromium.size(1400, 900)
    chromium.open(written.as_uri())
    return chromium


def complaints(found: Browser) -> list[Any]:
    """What a page complained of, and what it loaded that is not in it."""
    said = [each for each in found.of("Runtime.consoleAPICalled") if each["type"] in ("error", "warning", "assert")]
    said += found.of("Runtime.exceptionThrown", "Log.entryAdded")
    urls = [each["request"]["url"] for each in found.of("Network.requestWillBeSent")]
    return [*said, *(url for url in urls[1:] if not url.startswith(("data:", "blob:")))]


def test_every_figure_is_drawn_without_a_complaint_or_a_request(opened: Browser, written: Path) -> None:
    figures = opened.run("document.querySelectorAll('.drawing').length")
    assert figures > 15
    assert opened.run(DRAW) == figures
    sizes = opened.run(
        "[...document.querySelectorAll('.drawing')].map(e => [e.clientWidth, e.clientHeight, e.children.length])"
    )
    assert all(width > 300 and height > 250 and children == 1 for width, height, children in sizes)
    assert opened.run("document.documentElement.scrollWidth") == 1400
    assert complaints(opened) == []
    assert len(opened.of("Network.requestWillBeSent")) >= 1


def test_figures_are_drawn_where_one_looks(opened: Browser) -> None:
    assert opened.wait("document.querySelectorAll('#norms [data-drawn]').length == 2")
    far = "document.querySelectorAll('#ranks [data-drawn]').length"
    assert opened.run(far) == 0
    opened.run("document.querySelector('#ranks').scrollIntoView()")
    assert opened.wait(far)


def test_nothing_of_a_hostile_token_runs(opened: Browser) -> None:
    opened.run(DRAW)
    for token in HOSTILE:
        typed(opened, token.strip())
    assert opened.run("window.hurt === undefined")
    assert opened.run("document.querySelectorAll('svg, img, main script').length") == 0
    assert complaints(opened) == []


def typed(found: Browser, text: str) -> None:
    found.click("#search input")
    found.run("document.querySelector('#search input').select()")
    found.type(text)


ANSWER = "[...document.querySelectorAll('.answer tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))"


@pytest.mark.parametrize(("word", "place"), [("king", 15), ("QUEEN", 16), ("26", 26), (HOSTILE[0], 0)])
def test_the_search_finds_a_token_and_its_neighbors(word: str, place: int, opened: Browser, made: Made) -> None:
    typed(opened, word)
    whose = opened.wait("document.querySelector('.answer p')?.textContent")
    assert whose == f"The nearest to {TOKENS[place]}, id {place}:"
    one = made.scan[next(iter(made.scan.children))]
    ids, distances = one["neighbor_token_id"].to_numpy()[place], one["neighbor_distance"].to_numpy()[place]
    rows = opened.run(ANSWER)
    assert [int(row[2]) for row in rows] == ids.tolist()
    assert [float(row[1]) for row in rows] == [float(f"{each:.6g}") for each in distances]


def test_the_search_goes_on_from_a_neighbor_and_to_another_model(opened: Browser, made: Made) -> None:
    typed(opened, "king")
    opened.wait("document.querySelector('.answer p')?.textContent")
    second = opened.run(ANSWER)[1]
    opened.click(".answer tbody tr:nth-child(2) button")
    assert opened.wait(f"document.querySelector('.answer p').textContent.endsWith(', id {second[2]}:')")
    typed(opened, "king")
    opened.run(
        "(s => {s.selectedIndex = 1; s.dispatchEvent(new Event('change'))})(document.querySelector('#search select'))"
    )
    ids = made.scan[list(made.scan.children)[1]]["neighbor_token_id"].to_numpy()[15].astype(str).tolist()
    assert opened.wait(
        f"JSON.stringify({ANSWER}.map(row => row[2])) === {json.dumps(json.dumps(ids, separators=(',', ':')))}"
    )
    typed(opened, "no such token")
    assert opened.wait("document.querySelector('.answer').textContent.startsWith('No token')")
    assert complaints(opened) == []


def column(found: Browser, table: str, place: int) -> list[str]:
    cells = f"[...document.querySelectorAll('{table} tbody tr')].map(row => row.cells[{place}].textContent)"
    values: list[str] = found.run(cells)
    return values


def test_a_click_on_a_heading_sorts(opened: Browser) -> None:
    table = "#pairs table"
    before = column(opened, table, 1)[:12]
    assert before == sorted(before, key=float, reverse=True)
    opened.run("document.querySelector('#pairs table').id = 'first'")
    opened.click("#first th:nth-child(3) button")
    ids = [int(each) for each in column(opened, "#first", 2)]
    assert ids == sorted(ids, reverse=True)
    assert opened.run("document.querySelector('#first th:nth-child(3)').ariaSort") == "descending"
    opened.click("#first th:nth-child(3) button")
    ids = [int(each) for each in column(opened, "#first", 2)]
    assert ids == sorted(ids)
    opened.click("#first th:nth-child(4) button")
    names = column(opened, "#first", 3)
    assert names == sorted(names)


TOOLTIP = """(() => {
  const all = node => [...node.querySelectorAll('*')].flatMap(e => [e, ...(e.shadowRoot ? all(e.shadowRoot) : [])])
  const tips = all(document).filter(e => e.classList.contains('bk-Tooltip') && e.getBoundingClientRect().width)
  const text = node => node.shadowRoot ? [...node.shadowRoot.children].filter(e => e.tagName != 'STYLE')
    .map(text).join(' ') : node.tagName == 'SLOT' ? '' : node.children.length ? [...node.children].map(text).join(' ')
    : node.textContent
  return tips.map(text).join(' ')
})()"""


def test_the_pointer_over_a_point_names_its_token(opened: Browser, made: Made) -> None:
    """The farthest token from the centroid: its point lies alone."""
    one = made.tokens[next(iter(made.tokens.children))]
    far, norm = one["centroid_distance"].to_numpy(), one["norm_l2"].to_numpy()
    place = int(np.argmax(far))
    opened.middle("#tokens .drawing")
    opened.wait("document.querySelector('#tokens .drawing').dataset.drawn")
    x, y = opened.run(
        f"""(() => {{
          const place = document.querySelector('#tokens .drawing')
          const box = place.getBoundingClientRect()
          const view = Bokeh.index.find_one_by_id(embgeom.figure(place).id)
          const frame = view.frame
          return [box.x + frame.x_scale.compute({far[place]}), box.y + frame.y_scale.compute({norm[place]})]
        }})()"""
    )
    opened.move(x - 40, y)
    opened.move(x, y)
    said = opened.wait(TOOLTIP)
    assert TOKENS[place] in said
    assert f"{norm[place]:.6g}" in said
    assert f"{far[place]:.6g}" in said


def test_a_click_on_a_name_hides_its_lines(opened: Browser) -> None:
    opened.middle("#distances .drawing")
    opened.wait("document.querySelector('#distances .drawing').dataset.drawn")
    shown = "embgeom.figure(document.querySelector('#distances .drawing')).renderers.map(r => r.visible)"
    assert opened.run(shown) == [True, True]
    opened.click("#distances .legend button")
    assert opened.run(shown) == [False, True]
    opened.click("#distances .legend button")
    assert opened.run(shown) == [True, True]


@pytest.mark.slow
def test_it_looks_as_it_should(opened: Browser, tmp_path: Path) -> None:
    """Screenshots: there is ink where figures are, and the sky is dark with stars in it."""
    opened.run(DRAW)
    opened.middle("#sky .drawing")
    opened.screenshot(tmp_path / "sky.png")
    x, y, width, height = opened.run(
        "(b => [b.x, b.y, b.width, b.height])(document.querySelector('#sky .drawing').getBoundingClientRect())"
    )
    sky = np.asarray(Image.open(tmp_path / "sky.png").convert("RGB"))[int(y) : int(y + height), int(x) : int(x + width)]
    assert (sky.max(axis=2) == 0).mean() > 0.8
    assert (sky[..., 0] > 100).sum() > 50
    for name in ("norms", "spectrum", "distances", "ranks"):
        opened.middle(f"#{name} .drawing")
        opened.screenshot(tmp_path / f"{name}.png")
        seen = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"))
        assert len(np.unique(seen.reshape(-1, 3), axis=0)) > 50


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_and_figures_have_the_theme_of_the_browser(theme: str, opened: Browser, tmp_path: Path) -> None:
    opened.run(DRAW)
    opened.theme(theme)
    try:
        opened.middle("#norms .drawing")
        x, y = opened.run(
            "(b => [b.right - 5, b.bottom - 5])(document.querySelector('#norms').getBoundingClientRect())"
        )
        opened.screenshot(tmp_path / "page.png")
    finally:
        opened.theme("")
    seen = np.asarray(Image.open(tmp_path / "page.png").convert("L"))
    figure = opened.run(
        "(b => [b.x, b.y, b.right, b.bottom])(document.querySelector('#norms .drawing').getBoundingClientRect())"
    )
    left, top, right, bottom = map(int, figure)
    ground = np.bincount(seen[top:bottom, left:right].ravel()).argmax()
    assert seen[int(y), int(x)] == ground == (255 if theme == "light" else 26)


@pytest.mark.slow
@pytest.mark.parametrize("width", [700, 1000, 2200])
def test_nothing_is_cut_in_a_window_of_any_width(width: int, chromium: Browser, written: Path) -> None:
    chromium.size(width, 800)
    chromium.open(written.as_uri())
    chromium.run(DRAW)
    assert chromium.run("document.documentElement.scrollWidth") == width
    cut = "[...document.querySelectorAll('.drawing')].filter(e => e.firstChild.clientWidth > e.clientWidth + 1).length"
    assert chromium.run(cut) == 0


@pytest.mark.slow
def test_many_tokens_stay_fluid(chromium: Browser, tmp_path: Path) -> None:
    """150,000 points are drawn and moved in a few seconds, by a processor alone."""
    import xarray as xr

    random = np.random.default_rng(0)
    far = random.gamma(9, 0.1, 150_000)
    names = np.array([f"token{place}" for place in range(far.size)], dtype=object)
    columns = {"norm_l2": far + random.normal(0, 0.02, far.size), "centroid_distance": far}
    result = xr.Dataset(
        {name: ("token_id", values) for name, values in columns.items()}
        | {f"{name}_rank": ("token_id", np.argsort(np.argsort(-values)) + 1) for name, values in columns.items()},
        {"token_id": np.arange(far.size), "token": ("token_id", names), "model": "org/large"},
        {"command": "tokens"},
    )
    (tmp_path / "large.html").write_text(page.html_of(report_contents.gather(result)))
    chromium.size(1400, 900)
    chromium.open((tmp_path / "large.html").as_uri())
    chromium.middle("#tokens .drawing")
    chromium.wait("document.querySelector('#tokens .drawing').dataset.drawn")
    before = time.perf_counter()
    chromium.run(
        """(async () => {
          const figure = embgeom.figure(document.querySelector('#tokens .drawing'))
          for (let step = 0; step < 5; step++) {
            figure.x_range.start += 0.01
            figure.x_range.end += 0.01
            await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))
          }
        })()"""
    )
    assert time.perf_counter() - before < 20
    assert complaints(chromium) == []
