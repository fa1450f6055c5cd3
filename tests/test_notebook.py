"""What a person sees in a notebook: run in a real Jupyter kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbclient.util import run_sync

import embgeom_dask as eg
from embgeom_dask.testing import make_store

BAR = "application/vnd.jupyter.widget-view+json"


class Kernel:
    """A kernel that runs, and the cells done in it."""

    def __init__(self, client: NotebookClient) -> None:
        self.client = client

    def run(self, source: str) -> list[Any]:
        """What a cell shows."""
        cell = nbformat.v4.new_code_cell(source)
        self.client.nb.cells.append(cell)
        self.client.execute_cell(cell, len(self.client.nb.cells) - 1)
        return list(cell.outputs)

    def complete(self, source: str) -> list[str]:
        """What Tab offers after `source`."""

        async def ask() -> list[str]:
            asked = self.client.kc.complete(source, len(source))
            while True:
                reply = await self.client.kc.get_shell_msg(timeout=30)
                if reply["parent_header"]["msg_id"] == asked:
                    return [match.removeprefix("eg.") for match in reply["content"]["matches"]]

        return list(run_sync(ask)())

    def bars(self) -> list[str]:
        """What the bars say by now, each a title and then numbers."""
        states = self.client.widget_state
        boxes = [state for state in states.values() if state.get("_model_name") == "HBoxModel"]
        found = []
        for box in boxes:
            left, _, right = (states[name.removeprefix("IPY_MODEL_")] for name in box["children"])
            found.append(f"{left['value']} {right['value']}".replace("\u2007", " "))
        return found


@contextmanager
def started(folder: Path) -> Iterator[Kernel]:
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=120, resources={"metadata": {"path": str(folder)}})
    with client.setup_kernel():
        yield Kernel(client)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("notebook")
    rows = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    make_store(folder / "tiny.zarr", output=rows, model="org/tiny", tokens=[f"t{i}" for i in range(64)])
    with started(folder) as kernel:
        kernel.run("import embgeom_dask as eg")
        yield kernel


def text_of(outputs: list[Any]) -> str:
    """What streams hold."""
    assert all(each.name == "stdout" for each in outputs if each.output_type == "stream"), outputs
    return "".join(each.text for each in outputs if each.output_type == "stream")


def test_tab_lists_the_public_names_before_any_is_used(kernel: Kernel) -> None:
    assert set(eg.__all__) <= set(kernel.complete("eg."))
    assert kernel.complete("eg.open_m") == ["open_model"]
    assert kernel.run("dir(eg)")[0].data["text/plain"] == kernel.run("sorted(eg.__all__)")[0].data["text/plain"]


def test_a_scan_shows_its_cluster_its_plan_and_a_bar(kernel: Kernel) -> None:
    outputs = kernel.run("found = eg.scan('tiny.zarr', farthest=2, tile=16)")
    said = text_of(outputs)
    assert said.startswith("dask cluster: local; dashboard: http://127.0.0.1:")
    assert "64 distinct rows of 4 values, euclidean" in said
    assert sum(BAR in each.get("data", {}) for each in outputs) == 2
    (bar,) = (each for each in kernel.bars() if each.startswith("org/tiny scan"))
    assert "100%" in bar
    assert "10/10 [" in bar
    assert "tiles/s, 1 worker" in bar
    assert kernel.run("eg.survey('tiny.zarr', progress=False);") == []


def test_a_result_shows_its_variables(kernel: Kernel) -> None:
    (shown,) = kernel.run("eg.scan('tiny.zarr', farthest=2, progress=False)")
    assert {"text/html", "text/plain"} <= set(shown.data)
    assert "farthest_distance" in shown.data["text/plain"]
    assert len(shown.data["text/plain"].splitlines()) < 40


def test_the_client_of_a_notebook_is_used_and_an_asynchronous_one_refused(kernel: Kernel) -> None:
    kernel.run("from distributed import Client\nclient = Client(processes=False, dashboard_address=':0')")
    said = text_of(kernel.run("found = eg.survey('tiny.zarr')"))
    assert said.startswith("dask cluster: of the active client; dashboard: http://127.0.0.1:")
    kernel.run("address = client.cluster.scheduler_address\nown = await Client(address, asynchronous=True)")
    with pytest.raises(CellExecutionError) as caught:
        kernel.run("eg.survey('tiny.zarr')")
    assert (caught.value.ename, caught.value.evalue) == (
        "InputError",
        "the dask client is asynchronous: give one that is not, Client(address), as `client`",
    )
    kernel.run("await own.close()\nclient.close()")


@pytest.mark.slow  # a kernel of its own
def test_without_ipywidgets_the_bar_is_text_and_nothing_warns(tmp_path: Path) -> None:
    with started(tmp_path) as kernel:
        kernel.run("import sys\nsys.modules['ipywidgets'] = None\nfrom embgeom_dask.progress import bar")
        said = text_of(kernel.run("with bar(3, 'scan', 'rows') as advance:\n    advance(3)"))
    assert "scan: 100%" in said
    assert "3/3 [" in said
    assert "Warning" not in said
