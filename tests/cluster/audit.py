"""Preloaded by the workers of the tests: a line in $AUDIT for every panel started, computed and committed.

Lines are of one length, and a page of memory holds a whole number of them: a line that crossed a page could be read, or
left by a kill, in part.

A panel called $POISON ends its worker; one called $STUCK computes until the file $AUDIT.free is there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from embgeom_dask.execution.callbacks import PanelCallback

LINE = 64  # bytes


def dask_setup(worker: Any) -> None:
    large = torch.ones(2000, 2000)
    log = os.open(os.environ["AUDIT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def audit(event: str, plan: Any, panel: Any) -> None:
        os.write(log, f"{event} {panel.name}".ljust(LINE - 1).encode() + b"\n")
        if event != "started":
            return
        if panel.name == os.environ.get("POISON"):
            os._exit(1)
        while panel.name == os.environ.get("STUCK") and not Path(os.environ["AUDIT"] + ".free").exists():
            torch.mm(large, large)

    PanelCallback(audit).register()
