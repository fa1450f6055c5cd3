"""Share out the work of one task among the cores that the task may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from threading import current_thread
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_THREADS = "embgeom-cores"


@cache
def _pool() -> ThreadPoolExecutor:
    keep_subnormal = partial(torch.set_flush_denormal, False)
    return ThreadPoolExecutor(os.cpu_count() or 1, _THREADS, initializer=keep_subnormal)


def share_out(work: Callable[[int, int], Any], size: int, least: int = 64) -> list[Any]:
    """Call `work(start, stop)` for the parts of range(size), in as many threads as torch uses; return the results.

    A part has at least `least` elements, unless there is one part only; results are in the order of the parts. `work`
    must release the GIL for its parts to run at the same time. Inside a part, work is not shared out again: that could
    deadlock, with all threads of the pool waiting for parts that wait for a thread.
    """
    parts = max(1, min(torch.get_num_threads(), size // least))
    if parts == 1 or current_thread().name.startswith(_THREADS):
        return [work(0, size)]
    bounds = [size * part // parts for part in range(parts + 1)]
    return list(_pool().map(work, bounds[:-1], bounds[1:]))


def joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the arrays one after the other; a single one as it is, since new memory costs more than what fills it."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
