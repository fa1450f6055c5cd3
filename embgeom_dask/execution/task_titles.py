"""Names of tasks on dask's dashboard: tasks are grouped by the step of the work and the model."""

from __future__ import annotations

import re
from typing import NamedTuple
from uuid import uuid4

_MOST = 100  # letters of a model's name: the key of a task may become the name of a file


class TaskTitle(NamedTuple):
    """The step that tasks are, like "rows" or "panels", and the model that they read; none of some."""

    step: str
    model: str = ""

    @property
    def prefix(self) -> str:
        """What the keys of these tasks have in common: dask's `key_split` of each."""
        named = re.sub(r"[^\w./@]+", "_", self.model)[:_MOST]  # dask ends a prefix where a hyphen and a digit are
        return f"{self.step} of {named}" if named else self.step

    @property
    def annotations(self) -> dict[str, str]:
        """What dask keeps beside each task, for plugins of a scheduler or worker."""
        return {"step": self.step, "model": self.model}

    def key(self) -> str:
        """A key that no other task has."""
        return f"{self.prefix}-{uuid4()}"
