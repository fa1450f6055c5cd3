"""The device that a process computes on: choice, threads, precision, memory."""

from __future__ import annotations

import math
import platform
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import local
from time import perf_counter
from typing import Any

import dask.system
import distributed.system
import numpy as np
import psutil
import torch
from distributed import Worker, get_worker

from embgeom_dask import private_apis, versions
from embgeom_dask.errors import EmbgeomError, InputError

_NO_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
_INITIAL_THREADS = min(torch.get_num_threads(), dask.system.CPU_COUNT)
_LEAST_NORMAL, _HALF, _SUBNORMAL = sys.float_info.min, 0.5, 1e-40
_PART = 1 << 15  # values that torch gives one of its threads at least


def available() -> list[torch.device]:
    """Every device of this process, best first: each CUDA device, then Apple's mps, then the cpu."""
    found = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append(torch.device("mps"))
    return [*found, torch.device("cpu")]


def choose(name: str = "auto") -> torch.device:
    """Return the device called `name`: `cpu`, `mps`, `cuda`, `cuda:N`, or with `auto` the best of this process.

    Where several CUDA devices are visible and the name gives no index, each dask worker takes one of its own: worker N
    takes `cuda:N`, modulo their number.

    Raises
    ------
    InputError
        where this process has no such device.
    """
    found = available()
    names = dict.fromkeys(part for device in found for part in (device.type, str(device)))
    if name == "auto":
        name = found[0].type
    if name not in names:
        raise InputError(f"no device {name!r} here: choose auto or one of {', '.join(names)}")
    return torch.device("cuda", _cuda_index(torch.cuda.device_count())) if name == "cuda" else torch.device(name)


def _cuda_index(count: int) -> int:
    """The index, of `count` CUDA devices, that belongs to the dask worker running this task."""
    worker = _worker()
    if worker is None or "dask_cuda" in sys.modules:  # dask-cuda puts each worker's own device first
        return 0
    number = re.search(r"(?:^|-)(\d+)$", str(worker.name))  # 3 in a LocalCluster, "name-3" from `dask worker --name`
    return int(number[1]) % count if number else 0


def _worker() -> Worker | None:
    try:
        return get_worker()
    except ValueError:
        return None


def compute_threads() -> int:
    """Return how many cores one task may use: this process's share, divided among the threads of its dask worker.

    The share is what torch started with (all cores, or `OMP_NUM_THREADS`, which dask's nanny sets to 1), at most the
    cores that the machine or its container grants.
    """
    worker = _worker()
    return max(1, _INITIAL_THREADS // (worker.state.nthreads if worker else 1))


@contextmanager
def session(device: torch.device) -> Iterator[torch.device]:
    """Compute on `device` inside a task: this thread's share of the cores, full precision in every product.

    Torch's thread count belongs to the calling thread, so this is entered inside each task; it is put back on exit, as
    is what the thread did with subnormal numbers (see `subnormal`). The precision pins are of the whole process and
    stay: float32 products are float32 (no TF32), and bfloat16 and float16 products are summed in float32.
    """
    threads = torch.get_num_threads()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cudnn.allow_tf32 = False
    with subnormal():
        torch.set_num_threads(compute_threads())
        try:
            if not _threads_keep_subnormal():
                torch.set_num_threads(1)
            yield device
        finally:
            torch.set_num_threads(threads)


@contextmanager
def subnormal() -> Iterator[None]:
    """Let this thread compute with subnormal numbers, whatever a library or `torch.set_flush_denormal` told it before.

    Raises
    ------
    EmbgeomError
        where this machine takes them for 0 all the same.
    """
    flushes = _flushes()
    torch.set_flush_denormal(False)
    if _flushes():
        raise EmbgeomError("this process takes subnormal numbers for 0, and torch cannot change that: use another one")
    if flushes:
        _thread.checked = False
    try:
        yield
    finally:
        if flushes:
            torch.set_flush_denormal(True)


def _flushes() -> bool:
    return _LEAST_NORMAL * _HALF == 0.0


class _Thread(local):
    """What is known of the threads of torch that work for this thread: they keep the mode it had at their start."""

    checked = False
    keep_subnormal = True


_thread = _Thread()


def _threads_keep_subnormal() -> bool:
    if not _thread.checked:
        values = torch.full((_PART * torch.get_num_threads(),), _SUBNORMAL).double()
        _thread.checked, _thread.keep_subnormal = True, bool((values > 0).all())
    return _thread.keep_subnormal


def to_tensor(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return `array` as a tensor of the same dtype on `device`; `ml_dtypes.bfloat16` becomes `torch.bfloat16`.

    On the cpu a C-contiguous array is not copied, and a read-only one must not be written through the tensor.
    """
    bfloat16 = array.dtype.name == "bfloat16"
    plain = np.asarray(array.view(np.int16) if bfloat16 else array, order="C")
    tensor = torch.from_numpy(np.asarray(_Writable(plain)))
    return (tensor.view(torch.bfloat16) if bfloat16 else tensor).to(device)


class _Writable:
    """The memory of an array without its read-only flag, which torch warns of."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        pointer, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (pointer, False)}


def memory(device: torch.device) -> tuple[int, int]:
    """Return (total, free) bytes of `device`; for the cpu, of this machine or of the container that limits it."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total, free
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return total, total - torch.mps.driver_allocated_memory()
    limit = int(distributed.system.memory_limit())
    return limit, min(psutil.virtual_memory().available, limit - psutil.Process().memory_info().rss)


def out_of_memory(error: Exception) -> bool:
    """Whether an operation failed because a device, or the host, has no memory left."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(said in str(error) for said in _NO_MEMORY)


def release(device: torch.device) -> None:
    """Give the memory that torch holds back on `device`, and that no tensor uses, back to it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def own_memory(name: str) -> tuple[str, int]:
    """The type of the device called `name`, and the bytes free in its own memory; 0 for the cpu."""
    device = choose(name)
    return device.type, 0 if device.type == "cpu" else memory(device)[1]


def describe() -> dict[str, Any]:
    """Return what this process computes with: devices (memory in bytes), cores, platform and package versions."""
    return {
        "devices": [_describe(device) for device in available()],
        "cores": dask.system.CPU_COUNT,
        "threads": _INITIAL_THREADS,
        "platform": platform.platform(),
        "versions": versions.installed(),
    }


def _describe(device: torch.device) -> dict[str, Any]:
    total, free = memory(device)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {"device": str(device), "name": name, "memory_total": total, "memory_free": free}


def fastest(name: str = "auto") -> list[str]:
    """Element types of products on the device called `name`, fastest first; on a cpu as measured, once a process.

    `execution.product_checks` says whether they are right.
    """
    return list(_fastest(choose(name)))


@cache
def _fastest(device: torch.device) -> list[str]:
    if device.type != "cpu":
        return ["bfloat16", "float32", "int8x3"] if device.type == "cuda" else ["float32"]
    with session(device):
        return by_time(multiplied)


def by_time(seconds: Callable[[torch.Tensor], float]) -> list[str]:
    """Element types of products on a cpu, fastest first: `seconds` times a product of points (512, 1024) of each."""
    values = torch.arange(512 * 1024).view(512, 1024) * 40503 % 255 - 127
    points = {name: values.to(getattr(torch, name)) for name in ("int8", "bfloat16", "float32")}
    rounds = [[seconds(point) for point in points.values()] for _ in range(12)]
    least = dict(zip(points, map(min, zip(*rounds, strict=True)), strict=True))
    return sorted(least, key=lambda name: least[name])


def multiplied(points: torch.Tensor) -> float:
    """The seconds that a product of points with themselves takes; infinity if this machine cannot make it."""
    multiply = private_apis.int8_product if points.dtype == torch.int8 else torch.mm
    start = perf_counter()
    try:
        multiply(points, points.T)
    except RuntimeError:  # not made here
        return math.inf
    return perf_counter() - start
