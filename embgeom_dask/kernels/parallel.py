"""Work of one task shared out among the cores that it may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from threading import current_thread
from typing import Any

import torch

_THREADS = "embgeom-cores"


@cache
def _pool() -> ThreadPoolExecutor:
    keep_subnormal = partial(torch.set_flush_denormal, False)
    return ThreadPoolExecutor(os.cpu_count() or 1, _THREADS, initializer=keep_subnormal)


def share_out(work: Callable[[int, int], Any], size: int, least: int = 64) -> list[Any]:
    """Call `work(start, stop)` over range(size) in one part a thread of torch's; results in order.

    A part is not smaller than `least`. `work` must release the GIL to run side by side. Work that is a part itself is
    not shared out again: its parts would wait for threads that all wait for parts.
    """
    parts = max(1, min(torch.get_num_threads(), size // least))
    if parts == 1 or current_thread().name.startswith(_THREADS):
        return [work(0, size)]
    bounds = [size * part // parts for part in range(parts + 1)]
    return list(_pool().map(work, bounds[:-1], bounds[1:]))
