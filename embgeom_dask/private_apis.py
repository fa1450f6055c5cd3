"""What this package takes of other libraries that they do not promise to keep, each thing behind one function.

`tests/test_private_apis.py` calls every one, and says which version of the library has it no more. Two things stand
elsewhere: what a data type of zarr derives from, in `bfloat16`; the reading of ranges from the hub, in
`checkpoints.hub`. Nothing is imported before it is used.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import concurrent.futures

    import torch
    import xarray as xr
    from distributed import Client, Worker

T = TypeVar("T")


def int8_product(rows: torch.Tensor, columns: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """The matrix product of two int8 matrices in int32: `torch.mm` would give it in int8."""
    import torch

    if out is not None:
        return torch._int_mm(rows, columns, out=out)
    return (torch._int_mm if rows.device.type == "cpu" else int8_product_of_few)(rows, columns)


def int8_product_of_few(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The same product where torch refuses less than 17 rows, and columns or values that are no multiple of 8: CUDA."""
    import torch

    (m, width), n = rows.shape, columns.shape[1]
    first = torch.nn.functional.pad(rows, (0, -width % 8, 0, max(0, 32 - m)))
    second = torch.nn.functional.pad(columns.T, (0, -width % 8, 0, -n % 8))
    return torch._int_mm(first, second.T)[:m, :n]


def tensor_names(model: Any) -> Callable[[str], tuple[str, int] | None]:
    """Where `from_pretrained` of transformers loads the tensors of a checkpoint.

    Returns
    -------
    callable
        From the name of a tensor in a checkpoint to the parameter of `model` that it makes, and which part of it: 0,
        or its place among the tensors that are concatenated along their rows. None where it is made otherwise.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import Concatenate, WeightConverter, WeightRenaming, rename_source_key

    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    sources = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    state, prefix = model.state_dict(), model.base_model_prefix

    def find(name: str) -> tuple[str, int] | None:
        target, pattern = rename_source_key(name, renamings, converters, prefix, state)
        if pattern is None:
            return target, 0
        converter = sources[pattern]
        if not all(isinstance(each, Concatenate) and each.dim == 0 for each in converter.operations):
            return None
        return target, list(converter.source_patterns).index(pattern)

    return find


def tied_parameters(model: Any) -> dict[str, str]:
    """By the name of each parameter of a transformers model that is another's, the name of the other."""
    ties: dict[str, str] = model.all_tied_weights_keys
    return ties


def variable_of(dims: Sequence[Hashable], strings: Any, attrs: Mapping[Any, Any] | None = None) -> xr.Variable:
    """A variable of an array of Python's strings, in which xarray would look for dates, 0.15 us each."""
    import xarray as xr

    return xr.Variable(dims, strings, attrs, fastpath=True)


def lacks_package(name: str) -> bool:
    """Whether transformers finds no package of that name, `sentencepiece` or `protobuf`."""
    from transformers.utils import import_utils

    there: bool = getattr(import_utils, f"is_{name}_available")()
    return not there


def stop_numba_caching() -> None:
    """Let numba compile anew what is defined from now on with `cache=True`: it would fail without a folder to keep."""
    from numba.core.dispatcher import Dispatcher

    Dispatcher.enable_caching = lambda self: None  # type: ignore[method-assign]  # noqa: ARG005


def wait_for_zarr(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the event loop in which zarr reads and writes, and return what it gives."""
    from zarr.core.sync import sync

    return sync(work)


def close_gcsfs_in_zarr(fs: Any) -> None:
    """Close the session of a gcsfs file system that zarr has, before Python ends, in the event loop that opened it.

    gcsfs would close it in another, and say so in a traceback after all that a command prints.
    """
    if not _with_sessions:
        atexit.register(_close_sessions)
    _with_sessions.add(fs)


_with_sessions: weakref.WeakSet[Any] = weakref.WeakSet()


def _close_sessions() -> None:
    for fs in list(_with_sessions):
        session = fs._session
        if session is not None and not session.closed:
            wait_for_zarr(session.close())


def workers_here() -> list[Worker]:
    """The dask workers of this process."""
    from distributed import Worker

    return list(Worker._instances)


def memory_limit(worker: Worker) -> int:
    """The bytes at which dask pauses or ends a worker; 0 where it has no limit."""
    return int(worker.memory_manager.memory_limit or 0)


def begin(client: Client, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    """Begin a coroutine in the event loop of a dask client."""
    import asyncio

    loop: Any = client.loop
    return asyncio.run_coroutine_threadsafe(work, loop.asyncio_loop)


def ask_scheduler(client: Client, seconds: float) -> None:
    """Raise whatever dask raises where the scheduler of a client does not answer within so many seconds."""
    assert client.scheduler is not None
    client.sync(client.scheduler.identity, n_workers=0, callback_timeout=seconds)


def ask_address(address: str, seconds: float) -> None:
    """Ask for what only a scheduler answers; raise whatever comes where none does within so many seconds.

    A `Client` of a wrong address would fail, then hang when it is deleted.
    """
    import asyncio

    from distributed import Security, rpc
    from distributed.utils import LoopRunner

    async def ask() -> None:
        async with rpc(address, connection_args=Security().get_connection_args("client")) as remote:
            await remote.identity(n_workers=0)

    LoopRunner().run_sync(lambda: asyncio.wait_for(ask(), seconds))
