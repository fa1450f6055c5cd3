from __future__ import annotations

import json
import math
import sys
import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import distributed
import ml_dtypes
import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster

from embgeom_dask import devices, versions
from embgeom_dask.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture
def four_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def test_auto_takes_the_best_device_there_is():
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert devices.choose("auto").type == devices.choose().type == expected
    assert devices.choose("cpu") == CPU


def test_a_device_that_is_not_there_is_refused_with_those_that_are(four_gpus):
    with pytest.raises(InputError, match=r"no device 'cuda:4' here: .* cuda, cuda:0, cuda:1, .* cpu$"):
        devices.choose("cuda:4")
    with pytest.raises(InputError, match="no device 'tpu'"):
        devices.choose("tpu")


@pytest.mark.parametrize(
    ("name", "index"),
    [(2, 2), (5, 1), ("gpu-3", 3), ("gpu-6", 2), ("tcp://10.0.0.7:40133", 0), ("node7", 0), ("1", 1)],
)
def test_a_worker_takes_the_cuda_device_of_its_place(four_gpus, monkeypatch, name, index):
    monkeypatch.setattr(devices, "get_worker", lambda: SimpleNamespace(name=name))
    assert devices.choose("auto") == devices.choose("cuda") == torch.device("cuda", index)
    assert devices.choose("cuda:3") == torch.device("cuda", 3)


def test_under_dask_cuda_the_first_device_is_the_workers_own(four_gpus, monkeypatch):
    monkeypatch.setattr(devices, "get_worker", lambda: SimpleNamespace(name=2))
    monkeypatch.setitem(sys.modules, "dask_cuda", SimpleNamespace())
    assert devices.choose() == torch.device("cuda", 0)


def test_workers_of_a_local_cluster_share_the_devices_out(four_gpus):
    with local(n_workers=4, processes=False) as client:
        chosen = [
            client.submit(devices.choose, pure=False, workers=[worker]).result()
            for worker in client.scheduler_info(n_workers=-1)["workers"]
        ]
    assert sorted(device.index for device in chosen) == [0, 1, 2, 3]


@contextmanager
def local(threads_per_worker=1, **options):
    with (
        LocalCluster(
            dashboard_address=":0", memory_limit=0, threads_per_worker=threads_per_worker, silence_logs=50, **options
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def threads_in_session() -> tuple[int, int]:
    with devices.session(CPU):
        return devices.compute_threads(), torch.get_num_threads()


@pytest.mark.parametrize("threads", [1, 2, 64])
def test_the_threads_of_a_worker_share_the_cores_of_its_process(threads):
    with local(n_workers=1, threads_per_worker=threads, processes=False) as client:
        share = max(1, devices._INITIAL_THREADS // threads)
        assert client.submit(threads_in_session, pure=False).result() == (share, share)


def test_a_worker_process_uses_the_one_thread_that_its_nanny_grants():
    with local(n_workers=1, processes=True) as client:
        assert client.submit(threads_in_session).result() == (1, 1)


def test_a_session_puts_thread_counts_back_and_pins_precision(monkeypatch):
    monkeypatch.setattr(devices, "compute_threads", lambda: 1)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    torch.backends.cudnn.allow_tf32 = True
    before = torch.get_num_threads()
    with pytest.raises(KeyError), devices.session(CPU) as device:
        assert device == CPU
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    assert not torch.backends.cudnn.allow_tf32


TYPES = {
    np.float64: torch.float64,
    np.float32: torch.float32,
    np.float16: torch.float16,
    ml_dtypes.bfloat16: torch.bfloat16,
    np.int64: torch.int64,
}


@pytest.mark.parametrize(("given", "wanted"), TYPES.items())
def test_to_tensor_shares_memory_and_keeps_every_bit(given, wanted):
    array = np.random.default_rng(0).integers(0, 256, (6, 8 * 4), dtype=np.uint8).view(given)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = devices.to_tensor(array, CPU)
    assert tensor.dtype == wanted
    assert tensor.shape == array.shape
    assert tensor.data_ptr() == array.__array_interface__["data"][0]
    assert tensor.view(torch.uint8).numpy().tobytes() == array.tobytes()


def test_to_tensor_keeps_its_memory_alive():
    tensor = devices.to_tensor(np.arange(1_000_000.0), CPU)
    np.full(1_000_000, -1.0)
    assert tensor.sum().item() == 499999500000.0


@pytest.mark.parametrize("given", TYPES)
def test_to_tensor_takes_any_layout_and_shape(given):
    array = np.arange(24).astype(given).reshape(4, 6)
    for view in (array[::-1, ::2], array.T, array[:0], array[2, 3:4].reshape(())):
        tensor = devices.to_tensor(view, CPU)
        assert tensor.shape == view.shape
        assert np.array_equal(tensor.double().numpy(), view.astype(np.float64))


def test_memory_keeps_to_the_limit_of_a_container(monkeypatch):
    total, free = devices.memory(CPU)
    assert 0 < free < total
    monkeypatch.setattr(distributed.system, "memory_limit", lambda: total // 2)
    assert devices.memory(CPU)[0] == total // 2
    assert devices.memory(CPU)[1] < total // 2


def test_products_are_made_of_what_is_measured_to_be_fastest(monkeypatch):
    taken = {torch.float32: 2.0, torch.bfloat16: 3.0, torch.int8: 1.0}
    assert devices.by_time(lambda points: taken[points.dtype]) == ["int8", "float32", "bfloat16"]
    taken[torch.int8] = math.inf
    assert devices.by_time(lambda points: taken[points.dtype]) == ["float32", "bfloat16", "int8"]
    first = devices.fastest("cpu")
    assert sorted(first) == ["bfloat16", "float32", "int8"]
    monkeypatch.delattr(devices, "multiplied")
    assert devices.fastest("cpu") == first  # measured once


def test_describe_is_plain_json_with_devices_and_versions():
    found = json.loads(json.dumps(devices.describe()))
    assert found["devices"][-1]["device"] == "cpu"
    assert all(0 < each["memory_free"] <= each["memory_total"] for each in found["devices"])
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert set(found["versions"]) == {"python", *versions.PACKAGES}
    assert found["cores"] >= found["threads"] >= 1


@pytest.mark.cuda
def test_cuda_products_are_full_float32():
    device = devices.choose("cuda")
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 512, 512)).astype(np.float32)
    with devices.session(device):
        product = (devices.to_tensor(a, device) @ devices.to_tensor(b, device)).cpu().numpy()
    exact = a.astype(np.float64) @ b.astype(np.float64)
    bound = 512 * 2.0**-24 * (np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64))
    assert (np.abs(product - exact) <= bound).all()
    assert devices.describe()["devices"][0]["name"] == torch.cuda.get_device_name(0)


@pytest.mark.cuda
@pytest.mark.parametrize("given", TYPES)
def test_to_tensor_on_cuda_keeps_every_bit(given):
    array = np.random.default_rng(0).integers(0, 256, (6, 8 * 4), dtype=np.uint8).view(given)
    assert devices.to_tensor(array, devices.choose("cuda")).cpu().view(torch.uint8).numpy().tobytes() == array.tobytes()


@pytest.mark.mps
def test_to_tensor_on_mps_keeps_every_bit():
    array = np.random.default_rng(0).integers(0, 256, (6, 8 * 4), dtype=np.uint8).view(ml_dtypes.bfloat16)
    assert devices.to_tensor(array, devices.choose("mps")).cpu().view(torch.uint8).numpy().tobytes() == array.tobytes()
