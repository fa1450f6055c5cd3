"""What is seen of the work on a cluster: names of tasks, dask's report, the line of a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask.utils import key_split
from distributed import Client, SchedulerPlugin
from hypothesis import given
from hypothesis import strategies as st

import embgeom_dask as eg
from embgeom_dask.errors import InputError
from embgeom_dask.execution.cluster import report_to
from embgeom_dask.execution.monitor import Batch, tally
from embgeom_dask.execution.task_titles import TaskTitle
from embgeom_dask.testing import make_store
from tests.clusters import workers_of_one_thread


@given(st.text(min_size=1))
def test_dask_groups_tasks_by_step_and_model(model: str) -> None:
    title = TaskTitle("panels", model)
    first, second = title.key(), title.key()
    assert first != second
    assert key_split(first) == key_split(second) == title.prefix
    assert title.prefix.startswith("panels of ")


def test_models_that_differ_behind_a_number_are_told_apart() -> None:
    small, large = (key_split(TaskTitle("rows", f"acme/tiny-{size}B-base").key()) for size in (0.6, 8))
    assert (small, large) == ("rows of acme/tiny_0.6B_base", "rows of acme/tiny_8B_base")


class Seen(SchedulerPlugin):
    """The group and the annotations of every task of a scheduler."""

    def __init__(self) -> None:
        self.tasks: dict[str, dict[str, Any]] = {}

    def transition(self, key: Any, start: str, finish: str, *args: Any, **more: Any) -> None:
        if finish == "memory":
            task = self.scheduler.tasks[key]
            self.tasks[task.prefix.name] = dict(task.annotations or {})

    async def start(self, scheduler: Any) -> None:
        self.scheduler = scheduler


def test_the_tasks_of_a_scan_are_named_and_a_report_is_written(client: Client, tmp_path: Path) -> None:
    stores = [make_store(tmp_path / f"{each}.zarr", np.eye(40, 4), model=f"org/m-{each}") for each in range(2)]
    report = tmp_path / "report.html"
    client.register_plugin(Seen(), name="seen")
    with report_to(report):
        eg.scan(stores, nearest=1, tile=16, client=client)
    tasks = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.plugins["seen"].tasks)
    client.unregister_scheduler_plugin("seen")
    assert "<title>Dask Performance Report</title>" in report.read_text()
    assert "scan of org/m_0" in report.read_text()
    for each in range(2):
        for step in ("rows", "scan"):
            assert f"{step} of org/m_{each}" in tasks
    assert tasks["scan of org/m_1"].items() >= {"step": "scan", "model": "org/m-1"}.items()


def test_a_report_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"cannot write .*no/report.html: there is no folder"),
        report_to("no/report.html"),
    ):
        pass
    with pytest.raises(InputError, match=r"it is a folder, give the name of a file in it$"), report_to(tmp_path):
        pass


def test_the_line_of_a_batch_says_what_its_workers_did() -> None:
    with workers_of_one_thread(2) as client:
        batch = Batch(client)
        tally(1 << 20, 1.0)  # outside: nobody's
        assert batch.said().endswith("/hour, 2 workers")
        with batch.enter():
            tally(3 << 20, 1e9)
        assert batch.said().endswith("/hour, 2 workers, 100% busy, 3 MiB read")
