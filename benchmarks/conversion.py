"""Time the conversion of a generated full-size checkpoint beside `cp` of the same bytes; print one markdown table.

scripts/bench --conversion [--data DIR] [--rounds N] [--write FILE]
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from time import perf_counter

import ml_dtypes
import numpy as np

ROWS, WIDTH, INNER = 151_936, 2560, 9728
SHARDS: tuple[Mapping[str, tuple[int, ...]], ...] = (
    {"model.embed_tokens.weight": (ROWS, WIDTH), "model.layers.0.mlp.up_proj.weight": (INNER, WIDTH)},
    {
        "model.layers.0.mlp.down_proj.weight": (WIDTH, INNER),
        "lm_head.weight": (ROWS, WIDTH),
        "model.norm.weight": (WIDTH,),
    },
)
CONFIG = {
    **{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": ROWS, "hidden_size": WIDTH},
    **{"intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": 32, "num_key_value_heads": 8},
}
_BLOCK = 1 << 20  # values


def prepare(folder: Path) -> Path:
    """Make the checkpoint, two shards of normal bfloat16 values of 0.02, where it is not there yet."""
    source = folder / "bench/checkpoint"
    if not (source / "config.json").exists():
        source.mkdir(parents=True, exist_ok=True)
        files: dict[str, str] = {}
        for number, shapes in enumerate(SHARDS):
            name = f"model-{number + 1:05}-of-{len(SHARDS):05}.safetensors"
            _write(source / name, shapes, np.random.default_rng(number))
            files.update(dict.fromkeys(shapes, name))
        (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
        (source / "config.json").write_text(json.dumps(CONFIG))
    return source


def _write(path: Path, shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, end // 2, _BLOCK):
            values = rng.standard_normal(min(_BLOCK, end // 2 - start), np.float32) * np.float32(0.02)
            file.write(values.astype(ml_dtypes.bfloat16).tobytes())


_CONVERT = """
import shutil, sys, time
from embgeom_dask import convert
source, stores = sys.argv[1:]
convert(source, stores)
shutil.rmtree(stores)
started = time.perf_counter()
convert(source, stores)
print(time.perf_counter() - started)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def convert(source: Path, stores: Path) -> tuple[float, float]:
    """Seconds and peak MB of a process of its own that converts, for the second time; the first store is removed."""
    command = [sys.executable, "-W", "ignore", "-c", _CONVERT, str(source), str(stores)]
    seconds, peak = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return float(seconds), int(peak) * 1024 / 1e6


def measure(folder: Path, rounds: int) -> list[dict[str, float]]:
    """Measure `cp` and the conversion in turn, from the page cache; `sync` is what the disk takes afterwards."""
    source, stores, copy = prepare(folder), folder / "stores", folder / "copy"
    matrices = folder / "matrices"
    if not matrices.exists():  # as many bytes as the two matrices have, which are all that is converted
        with matrices.open("wb") as file:
            for shard in sorted(source.glob("*.safetensors")):
                subprocess.run(["head", "-c", str(2 * ROWS * WIDTH), shard], check=True, stdout=file)
    found = []
    for turn in range(rounds):
        for path in (matrices, *source.glob("*.safetensors")):
            subprocess.run(["cat", path], check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(stores, ignore_errors=True)
        subprocess.run(["cp", matrices, copy], check=True)
        copy.unlink()
        started = perf_counter()
        subprocess.run(["cp", matrices, copy], check=True)
        copied = perf_counter() - started
        os.sync()
        synced = perf_counter() - started
        copy.unlink()
        os.sync()
        seconds, peak = convert(source, stores)
        started = perf_counter()
        os.sync()
        found.append({"cp": copied, "cp_sync": synced, "convert": seconds, "peak": peak})
        found[-1]["convert_sync"] = seconds + perf_counter() - started
        print(f"round {turn + 1} of {rounds}: {found[-1]}", file=sys.stderr)
    return found


def table(found: list[dict[str, float]]) -> str:
    """A markdown table of the medians."""
    size = 4 * ROWS * WIDTH / 1e6
    mid = {name: median(turn[name] for turn in found) for name in found[0]}
    text = "| 2 matrices of 151,936 x 2,560 bfloat16 | cp | convert | speed of convert to cp | target | met |\n"
    text += "| --- | --- | --- | --- | --- | --- |\n"
    for what, suffix in (("to the page cache", ""), ("to the disk, with `sync`", "_sync")):
        ours, other = mid[f"convert{suffix}"], mid[f"cp{suffix}"]
        beside = f"{other:.2f} s, {size / other:,.0f} MB/s | {ours:.2f} s, {size / ours:,.0f} MB/s"
        text += f"| {what} | {beside} | {other / ours:.2f} | at least 0.5 | {'yes' if other >= ours / 2 else 'no'} |\n"
    met = "yes" if mid["peak"] < 700 else "no"
    return text + f"| peak memory of the process | | {mid['peak']:,.0f} MB | | under 700 MB | {met} |\n"
