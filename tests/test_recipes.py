"""The recipes for clusters start: what their pages show is run, with stand-ins for what this machine has not."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pytest
import yaml
from distributed import Client, LocalCluster

import embgeom_dask as eg
from embgeom_dask.testing import make_store
from tests import pages, s3

DOCS = pages.ROOT / "docs"

SBATCH = """#!/bin/sh
# Slurm on this machine: it starts a job at once, of an array each, and says the number of the last.
for script; do :; done
copy=$(mktemp "$JOBS/job-XXXXXX")
cat "$script" >"$copy"
last=$(sed -n 's/^#SBATCH --array=1-\\([0-9]*\\)$/\\1/p' "$copy")
for i in $(seq "${last:-1}"); do
  SLURM_ARRAY_TASK_ID=$i setsid bash "$copy" >"$copy-$i.log" 2>&1 </dev/null &
  echo $! >>"$JOBS/started"
done
echo "Submitted batch job $!"
[ "$1" != --wait ] || wait
"""
SCANCEL = """#!/bin/sh
for job; do kill -- "-$job"; done
"""


def block(page: str, language: str, place: int = 0) -> str:
    """A fenced block of a page."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    return found[place]


def manifest(place: int) -> Any:
    return yaml.safe_load(block("kubernetes.md", "yaml", place))


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two stores that `stores.txt` lists; the command is that of this Python."""
    values = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    stores = [make_store(tmp_path / f"{name}.zarr", values, model=f"org/{name}") for name in "ab"]
    (tmp_path / "stores.txt").write_text("\n".join(stores))
    (tmp_path / "bin").mkdir()
    start = f"exec {sys.executable} -c 'from embgeom_dask.cli.app import run; run()' \"$@\""
    executable(tmp_path / "bin/embgeom", f"#!/bin/sh\n{start}\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{Path(sys.executable).parent}", prepend=":")
    monkeypatch.setenv("PYTHONPATH", f"{pages.ROOT}", prepend=":")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def slurm(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Slurm that is this machine, with its logs in the folder yielded."""
    jobs = models / "jobs"
    jobs.mkdir()
    monkeypatch.setenv("JOBS", str(jobs))
    executable(models / "bin/sbatch", SBATCH)
    executable(models / "bin/scancel", SCANCEL)
    yield jobs
    started = jobs / "started"
    for job in started.read_text().split() if started.exists() else ():
        with suppress(ProcessLookupError):
            os.killpg(int(job), signal.SIGKILL)


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def table_is_of_both(out: Path) -> None:
    status, table = eg.status(out), eg.open_result(out / "table.zarr")
    assert (status["state"], status["models_done"], len(status["parts"])) == ("finished", 2, 4)
    assert table["model"].values.tolist() == ["org/a", "org/b"]
    assert eg.open_result(out)["org--b"]["neighbor_distance"].shape == (30, 10)


@pytest.mark.slow
def test_a_job_array_does_all_parts(slurm: Path, models: Path) -> None:
    Path("parts.sh").write_text(block("slurm.md", "bash"))
    subprocess.run(["sbatch", "--wait", "parts.sh"], check=True, capture_output=True)
    said = "".join(log.read_text() for log in slurm.glob("*.log"))
    assert said.count("of these models has none") == 2, said
    table_is_of_both(models / "results")


@pytest.mark.slow
def test_workers_are_jobs_of_slurm(slurm: Path, models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    with dask.config.set({"jobqueue.slurm.scheduler-options": {"dashboard_address": ":0"}}):  # others' ports are taken
        exec(compile(block("slurm.md", "python"), "slurm.md", "exec"), {})
    assert capfd.readouterr().out.startswith("tcp://")
    scripts = [path.read_text() for path in slurm.glob("job-??????")]
    assert len(scripts) == 2
    for script in scripts:
        assert {"#SBATCH --cpus-per-task=16", "#SBATCH --mem=64G", "#SBATCH -t 04:00:00"} <= set(script.splitlines())
        assert " --nthreads 2 " in script
    history = Path("scans/org--a.zarr.journal/history.csv").read_text()
    assert "tcp://" in history  # panels are of worker processes
    assert eg.open_result("scans/table.zarr")["model"].values.tolist() == ["org/a", "org/b"]


def test_the_manifest_of_a_cluster_is_what_dask_kubernetes_makes() -> None:
    shown = manifest(1)
    containers = {name: shown["spec"][name]["spec"]["containers"][0] for name in ("worker", "scheduler")}
    assert {each["image"] for each in containers.values()} == {
        manifest(0)["spec"]["template"]["spec"]["containers"][0]["image"]
    }
    operator = pytest.importorskip("dask_kubernetes.operator", reason="dask-kubernetes is not installed")
    worker = containers["worker"]
    made = operator.make_cluster_spec(
        shown["metadata"]["name"],
        image=worker["image"],
        n_workers=4,
        resources=worker["resources"],
        env=worker["env"],
        worker_command=["dask", "worker", "--nthreads", "2"],
    )
    scheduler = made["spec"]["scheduler"]["spec"]["containers"][0]
    assert scheduler["args"][0] == "dask-scheduler"  # which distributed has no longer
    scheduler["args"][:1] = ["dask", "scheduler"]
    scheduler["resources"] = containers["scheduler"]["resources"]
    assert shown == made


@pytest.mark.slow
def test_the_pods_of_the_job_do_all_parts(models: Path) -> None:
    job = manifest(0)["spec"]
    (container,) = job["template"]["spec"]["containers"]
    (shell,) = container["args"]
    for given, here in (("/models/", f"{models}/"), ("s3://bucket/", f"{models}/")):
        assert given in shell
        shell = shell.replace(given, here)
    for index in range(job["completions"]):
        env = {**os.environ, "JOB_COMPLETION_INDEX": str(index)}
        subprocess.run([*container["command"], shell], check=True, capture_output=True, env=env)
    table_is_of_both(models / "results")


@pytest.mark.slow
def test_the_pods_of_the_cluster_scan(models: Path) -> None:
    spec = manifest(1)["spec"]
    commands = {name: spec[name]["spec"]["containers"][0] for name in ("scheduler", "worker")}
    env = {each["name"]: each["value"] for each in commands["worker"]["env"] if "value" in each}
    names = ("embgeom-worker-1", "embgeom-worker-2")
    with ExitStack() as running:
        free = [*commands["scheduler"]["args"], "--port", "0", "--dashboard-address", ":0"]
        announces = r"Scheduler at:\s+tcp://[^:]+:(\d+)"
        port = running.enter_context(s3.process(free, models / "scheduler", announces, **env))
        address = f"tcp://127.0.0.1:{port}"
        for name in names:
            args = [name if each == "$(DASK_WORKER_NAME)" else each for each in commands["worker"]["args"]]
            args[args.index("8788")] = ":0"  # two of them are on this machine
            # as the operator says it to each pod
            given = {**env, "DASK_SCHEDULER_ADDRESS": address, "DASK_WORKER_NAME": name}
            running.enter_context(s3.process(args, models / name, "(Starting established connection)", **given))
        store = str(models / "a.zarr")
        found = eg.scan(store, neighbors=10, out=models / "scan.zarr", client=address)
        with Client(address, set_as_default=False) as client:
            workers = client.scheduler_info(n_workers=-1)["workers"].values()
            assert {(each["name"], each["nthreads"]) for each in workers} == {
                ("embgeom-worker-1", 2),
                ("embgeom-worker-2", 2),
            }
    assert found.sizes["neighbor"] == 10


def test_a_cluster_of_gpus_is_given_like_any_other(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def cpus(CUDA_VISIBLE_DEVICES: list[int], **options: Any) -> LocalCluster:
        given.update(options, CUDA_VISIBLE_DEVICES=CUDA_VISIBLE_DEVICES)
        return LocalCluster(len(CUDA_VISIBLE_DEVICES), processes=False, dashboard_address=":0", **options)

    with suppress(ImportError):
        from dask_cuda import LocalCUDACluster  # type: ignore[import-not-found]

        inspect.signature(LocalCUDACluster).bind(CUDA_VISIBLE_DEVICES=[0], threads_per_worker=1, protocol="tcp")
    Path("model.zarr").symlink_to("a.zarr")
    monkeypatch.setitem(sys.modules, "dask_cuda", SimpleNamespace(LocalCUDACluster=cpus))
    exec(compile(block("gpus.md", "python"), "gpus.md", "exec"), {})
    assert given == {"CUDA_VISIBLE_DEVICES": [0, 1], "threads_per_worker": 1, "protocol": "tcp"}
    assert eg.open_result("scan.zarr").sizes["nearest"] == 10


@pytest.mark.cuda
def test_a_cluster_of_gpus_starts(models: Path) -> None:
    pytest.importorskip("dask_cuda", reason="dask-cuda is not installed")
    Path("model.zarr").symlink_to("a.zarr")
    exec(compile(block("gpus.md", "python").replace("[0, 1]", "[0]"), "gpus.md", "exec"), {})
    assert eg.open_result("scan.zarr").sizes["nearest"] == 10
