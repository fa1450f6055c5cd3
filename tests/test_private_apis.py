"""Each private thing of another library does what `embgeom_dask.private_apis` takes it for.

The tests are named by the versions that they saw (`pytest -v`); a failure says what is gone, and what to do.
"""

from __future__ import annotations

import asyncio
import inspect
import struct
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pytest
import xarray as xr

from embgeom_dask import private_apis

CHECKS: dict[str, list[tuple[str, Callable[[], None]]]] = {}


def of(library: str, what: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """What follows checks that a library has something private, and that it is what it was."""

    def add(check: Callable[[], None]) -> Callable[[], None]:
        CHECKS.setdefault(library, []).append((what, check))
        return check

    return add


def missing(library: str) -> list[str]:
    """What a library has no more, with the version seen and what to do."""
    said = []
    for what, check in CHECKS[library]:
        try:
            check()
        except Exception as error:
            said.append(
                f"{library} {version(library)} has no {what} as it was ({type(error).__name__}: {error}): "
                "mend its function in embgeom_dask, or bound the version in pyproject.toml"
            )
    return said


@of("torch", "_int_mm")
def int8_products_are_summed_in_int32() -> None:
    import torch

    rows, columns = torch.full((32, 40), 127, dtype=torch.int8), torch.full((24, 40), -127, dtype=torch.int8)
    out = torch.empty(32, 24, dtype=torch.int32)
    for found in (private_apis.int8_product(rows, columns.T), private_apis.int8_product(rows, columns.T, out=out)):
        assert found.dtype == torch.int32
        assert (found == -40 * 127 * 127).all()
    assert found.data_ptr() == out.data_ptr()


@of("xarray", "Variable(fastpath=)")
def strings_are_a_variable_as_they_are() -> None:
    strings = np.array([["2001-01-01", "\u2581the"]], np.object_)
    found = private_apis.variable_of(("a", "b"), strings, {"long_name": "token"})
    assert found.data is strings
    assert found.equals(xr.Variable(("a", "b"), strings))
    assert found.attrs == {"long_name": "token"}


@pytest.mark.parametrize("shape", [(1, 1, 16), (16, 8, 8), (17, 65, 33), (40, 24, 40)])
def test_int8_products_of_any_shape_are_made_where_torch_takes_few(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")

    def of_cuda(rows: Any, columns: Any) -> Any:
        assert len(rows) > 16
        assert rows.shape[1] % 8 == columns.shape[1] % 8 == 0
        return rows.int() @ columns.int()

    m, n, width = shape
    rows = torch.randint(-128, 128, (m, width), dtype=torch.int8)
    columns = torch.randint(-128, 128, (n, width), dtype=torch.int8).T
    monkeypatch.setattr(torch, "_int_mm", of_cuda)
    assert torch.equal(private_apis.int8_product_of_few(rows, columns), rows.int() @ columns.int())


@of("transformers", "conversion_mapping and core_model_loading")
def the_tensors_of_a_checkpoint_are_renamed_as_they_are_loaded() -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=16, tie_word_embeddings=True, **sizes))
    find = private_apis.tensor_names(model)
    assert find("model.embed_tokens.weight") == ("model.embed_tokens.weight", 0)
    assert find("embed_tokens.weight") == ("model.embed_tokens.weight", 0)  # of the model without its head
    assert private_apis.tied_parameters(model) == {"lm_head.weight": "model.embed_tokens.weight"}


@of("transformers", "is_sentencepiece_available and is_protobuf_available")
def packages_that_are_there_are_not_lacked() -> None:
    for name, distribution in (("sentencepiece", "sentencepiece"), ("protobuf", "protobuf")):
        lacked = True
        with suppress(ImportError):
            lacked = not version(distribution)
        assert private_apis.lacks_package(name) == lacked


@of("numba", "Dispatcher.enable_caching")
def numba_defines_without_a_folder_to_keep_in() -> None:
    from numba.core.dispatcher import Dispatcher

    before = Dispatcher.enable_caching
    assert list(inspect.signature(before).parameters) == ["self"]
    try:
        private_apis.stop_numba_caching()
        import numba

        double = numba.njit(cache=True)(eval("lambda x: x + x"))  # of no file: it has no place to be kept in
        assert double(2) == 4
    finally:
        Dispatcher.enable_caching = before


@of("zarr", "core.sync.sync")
def zarr_runs_a_coroutine_in_its_own_loop() -> None:
    async def which() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert private_apis.wait_for_zarr(which()) is private_apis.wait_for_zarr(which())


@of("gcsfs", "GCSFileSystem._session")
def a_session_of_gcsfs_is_closed_where_it_was_opened() -> None:
    import gcsfs

    fs = gcsfs.GCSFileSystem(token="anon", asynchronous=True, skip_instance_cache=True)
    private_apis.wait_for_zarr(fs._set_session())
    private_apis.close_gcsfs_in_zarr(fs)
    assert not fs._session.closed
    private_apis._close_sessions()
    assert fs._session.closed


@of("zarr", "HasEndianness and HasItemSize in core.dtype.common")
def a_data_type_has_an_order_of_bytes_and_a_size() -> None:
    from embgeom_dask.bfloat16 import BFloat16

    kind = BFloat16()
    assert (kind.endianness, kind.item_size) == ("little", 2)
    assert struct.unpack("<H", kind.cast_scalar(1.5).tobytes()) == (0x3FC0,)


@of("distributed", "Worker._instances, memory_manager, identity, LoopRunner, Client.loop or close(executor_wait)")
def workers_and_schedulers_are_found_and_asked() -> None:
    from distributed import Client, LocalCluster, Worker

    assert "executor_wait" in inspect.signature(Worker.close).parameters
    how: Any = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": ":0"}
    with LocalCluster(**how, protocol="tcp", memory_limit=1 << 40) as cluster:
        (worker,) = cluster.workers.values()
        assert worker in private_apis.workers_here()
        assert private_apis.memory_limit(worker) == worker.memory_manager.memory_limit > 0
        private_apis.ask_address(cluster.scheduler_address, 5)
        with Client(cluster, set_as_default=False) as client:
            private_apis.ask_scheduler(client, 5)
            assert private_apis.begin(client, asyncio.sleep(0, "begun")).result(5) == "begun"
    with pytest.raises(Exception, match=r".*"):
        private_apis.ask_address("tcp://127.0.0.1:9", 0.2)


@of("huggingface_hub", "utils.http_stream_backoff or errors.HTTPError")
def the_hub_is_asked_again() -> None:
    from huggingface_hub import errors, utils

    wanted = {"method", "url", "max_retries", "base_wait_time", "retry_on_status_codes"}
    assert wanted <= set(inspect.signature(utils.http_stream_backoff).parameters)
    assert issubclass(errors.HfHubHTTPError, errors.HTTPError)


def seen(library: str) -> str:
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return f"no {library}"


@pytest.mark.parametrize("library", sorted(CHECKS), ids=seen)
def test_what_is_private_is_what_it_was(library: str) -> None:
    pytest.importorskip(library)
    assert not missing(library)


def test_what_is_gone_is_named_with_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.delattr(torch, "_int_mm")
    (said,) = missing("torch")
    assert said.startswith(f"torch {version('torch')} has no _int_mm as it was (AttributeError: ")
