"""Damage checkpoints, stores, results and journals at random, and see what every command says of them.

    python -m tests.fuzz --cases 2000              # all cases of seed 0
    python -m tests.fuzz --seed 0 --only 137       # one of them again, with what the command printed

A case copies a small checkpoint, store, result or journal, damages one to three places in it, and runs one command on
it in a fork of this process, which has imported everything and computed nothing. The rule: exit code 0, 1 or 2 within
10 seconds and 1 GiB; where it is not 0, one line on stderr begins with `error:`, without a traceback, that an own check
of the product gives, not its last resort; and nothing half-written is left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS, BYTES = 10.0, 1 << 30

VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2, 1.5, 1e308, float("nan"), 10**12, 2**63, -(2**80), "", "x", "input", "bfloat16",
    "../../etc", "\x1b[2J\u202e", "x" * 5000, "\ud800", [], {}, [[]], {"a": {"b": []}}, [1, "a", None], ["x"] * 3,
]  # fmt: skip
BYTES_AFTER = [
    b"",
    b"\0",
    b"{",
    b"[]",
    b"null",
    b'"x"',
    b"\xef\xbb\xbf{}",
    b"\xff\xfe\x00",
    b"<html>",
    b"version https",
]


def main() -> None:
    """Run the cases, print what breaks the rule, and exit with 1 where anything does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this one case and show what it prints")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        templates = make_templates(root / "templates")
        load()
        wanted = range(given.cases) if given.only is None else [given.only]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            outcomes = list(pool.map(lambda number: run_case(templates, root, given.seed, number), wanted))
    wrong = [outcome for outcome in outcomes if outcome.problem]
    for outcome in outcomes if given.only is not None else []:
        print(outcome.about, outcome.said, sep="\n")
    for outcome in wrong:
        print(f"case {outcome.number}: {outcome.problem}: {outcome.about}: {outcome.said.strip()[-300:]!r}")
    codes = Counter(outcome.code for outcome in outcomes)
    slowest = max(outcome.seconds for outcome in outcomes)
    print(f"exit codes {dict(sorted(codes.items()))}, slowest {slowest:.1f} s")
    print(f"{len(outcomes) - len(wrong)} passed, {len(wrong)} failed")
    sys.exit(bool(wrong))


def make_templates(root: Path) -> Path:
    """A checkpoint in two shards, a store, a result, and a scan that was stopped, each in a folder of its own."""
    code = f"""
import numpy as np, ml_dtypes, pathlib
from tokenizers import Tokenizer, models
from embgeom_dask import scan, survey
from embgeom_dask.execution import journal
from embgeom_dask.testing import make_checkpoint, make_store
root = pathlib.Path({str(root)!r})
root.mkdir(parents=True)
rows = np.random.default_rng(0).normal(size=(60, 8)).astype(ml_dtypes.bfloat16)
tensors = {{"model.embed_tokens.weight": rows, "lm_head.weight": rows[::-1].copy()}}
config = {{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 60, "hidden_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "tie_word_embeddings": False}}
folder = pathlib.Path(make_checkpoint(root / "checkpoint/acme/model", tensors, config, shards=2))
Tokenizer(models.WordLevel({{f"w{{i}}": i for i in range(58)}}, unk_token="w0")).save(str(folder / "tokenizer.json"))
(folder / "tokenizer_config.json").write_text('{{"tokenizer_class": "PreTrainedTokenizerFast"}}')
(folder / "README.md").write_text("---\\nlicense: mit\\nbase_model: acme/base\\n---\\n# A model\\n")
np.save(root / "checkpoint/w.npy", rows.astype(np.float32))
for name in ("store", "result", "journal"):
    make_store(root / name / "s.zarr", output=rows, tokens=[f"t{{i}}" for i in range(60)])
survey(root / "result/s.zarr", out=root / "result/survey.zarr")
scan(root / "result/s.zarr", nearest=2, neighbors=2, out=root / "result/r.zarr")
journal.Journal.finish = lambda self, *_: None  # as if it was stopped before its result was in place
scan(root / "journal/s.zarr", nearest=2, neighbors=2, out=root / "journal/r.zarr")
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    shutil.rmtree(root / "journal/r.zarr")
    return root


COMMANDS: dict[str, list[list[str]]] = {
    "checkpoint": [["convert", "acme/model", "w.npy"], ["convert", "acme/model"], ["convert", "acme/model", "--json"]],
    "store": [
        ["list", "--stores", "."],
        ["survey", "s.zarr"],
        ["duplicates", "s.zarr"],
        ["scan", "s.zarr", "--nearest", "2"],
        ["scan", "s.zarr", "--metric", "dot", "--largest", "2", "--bottom", "2"],
        ["scan", "s.zarr", "--against", "s.zarr", "--metric", "dot", "--top", "2", "--json"],
        ["outliers", "s.zarr", "--tokens", "0:20"],
        ["export", "s.zarr", "-o", "W.safetensors"],
    ],
    "result": [
        ["scan", "s.zarr", "--nearest", "2", "--neighbors", "2", "--out", "r.zarr"],
        ["survey", "s.zarr", "--out", "survey.zarr"],
        ["status", "r.zarr"],
    ],
    "journal": [
        ["status", "r.zarr"],
        ["scan", "s.zarr", "--nearest", "2", "--neighbors", "2", "--out", "r.zarr"],
    ],
}
DAMAGED = {"checkpoint": "", "store": "s.zarr", "result": "", "journal": "r.zarr.journal"}


def load() -> None:
    """Import all that the commands import, so that a fork need not; nothing is computed: threads do not survive."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers.models.auto.modeling_auto
    import transformers.models.llama.modeling_llama  # noqa: F401

    from embgeom_dask.analyses import duplicates, outliers, scan, survey  # noqa: F401
    from embgeom_dask.batches import many  # noqa: F401
    from embgeom_dask.cli import app, text  # noqa: F401
    from embgeom_dask.storage import export  # noqa: F401


@dataclass
class Outcome:
    """What came of one case; `problem` says which part of the rule it breaks."""

    number: int
    about: str
    code: int
    seconds: float
    said: str
    problem: str


def run_case(templates: Path, root: Path, seed: int, number: int) -> Outcome:
    """Copy, damage, run and judge."""
    chance = random.Random(f"{seed} {number}")
    kind = chance.choice(list(COMMANDS))
    command = chance.choice(COMMANDS[kind])
    here = root / str(number)
    shutil.copytree(templates / kind, here)
    damage = [damage_one(here / DAMAGED[kind], chance) for _ in range(chance.choice([1, 1, 1, 2, 3]))]
    before = {path.name for path in here.iterdir()}
    code, seconds, peak = run_fork(here, command)
    said = (here / "stderr").read_text(errors="replace")
    problem = judge(code, seconds, peak, said) or half_written(here, before, code, command)
    shutil.rmtree(here)
    return Outcome(number, f"{' '.join(command)} after {'; '.join(damage)}", code, seconds, said, problem)


def judge(code: int, seconds: float, peak: int, said: str) -> str:
    """Which part of the rule on what a command says is broken, in a few words; nothing where none is."""
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    if seconds > SECONDS:
        return f"took over {SECONDS:g} s"
    if code not in (0, 1, 2):
        return f"exit {code}"
    if "Traceback" in said:
        return "a traceback"
    if len(errors) != (code != 0):
        return f"{len(errors)} error lines with exit {code}"
    if any("EMBGEOM_TRACEBACK" in line for line in errors):
        return "the last resort"
    if not all(line.isprintable() for line in said.splitlines()):
        return "control characters"
    return f"{peak >> 20} MiB" if peak > BYTES else ""


def half_written(here: Path, before: set[str], code: int, command: list[str]) -> str:
    """What a command that failed left behind, but for what it may: the stores of other sources, and a journal."""
    allowed = {"stdout", "stderr", "stores"} | {f"{name}.journal" for name in command}
    left = {path.name for path in here.iterdir()} - before - allowed
    hidden = {path.name for path in here.rglob(".*") if path.name.startswith(".")} if code else set()
    left = (left if code else set()) | {name for name in hidden if not name.endswith(".lock")}
    return f"left {sorted(left)}" if left else ""


def run_fork(here: Path, command: list[str]) -> tuple[int, float, int]:
    """Run a command in a fork: its exit code (negative for a signal), seconds, and the most bytes that it held."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setsid()
            os.chdir(here)
            for number, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
            from embgeom_dask.cli import app

            code = app.main(command)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() - started > SECONDS:
            os.killpg(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            break
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(status), time.monotonic() - started, usage.ru_maxrss << 10


def damage_one(root: Path, chance: random.Random) -> str:
    """Damage one file below a folder, structured ones more often than others; returns what was done."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    structured = [path for path in files if path.suffix in (".json", ".md")]
    if not files:
        return "nothing left to damage"
    path = chance.choice(structured if structured and chance.random() < 0.7 else files)
    ways: list[Callable[[Path, random.Random], str]] = [change_bytes, replace_whole]
    if path.suffix == ".json":
        ways += [change_value] * 6
    return f"{path.relative_to(root)} {chance.choice(ways)(path, chance)}"


def change_value(path: Path, chance: random.Random) -> str:
    """Replace, remove or add a value somewhere in a JSON file."""
    try:
        document = json.loads(path.read_text())
    except ValueError:
        return change_bytes(path, chance)
    spots = list(places(document))
    value = chance.choice(VALUES)
    if not spots:
        path.write_text(json.dumps(value))
        return f"is {value!r:.40}"
    holder, key = chance.choice(spots)
    what = chance.choice(["replaced", "replaced", "replaced", "removed", "added"])
    if what == "replaced":
        holder[key] = value
    elif what == "removed":
        del holder[key]
    elif isinstance(holder, dict):
        holder[chance.choice(["x", "", "shape", "attributes", "model", "__metadata__"])] = value
    else:
        holder.append(value)
    path.write_text(json.dumps(document))
    return f"{key!r:.30} {what} ({value!r:.40})"


def places(document: Any) -> Any:
    """Yield every container of a JSON document with each of its keys or indexes."""
    if isinstance(document, dict | list):
        for key in list(document) if isinstance(document, dict) else range(len(document)):
            yield document, key
            yield from places(document[key])


def change_bytes(path: Path, chance: random.Random) -> str:
    """Flip, cut or insert bytes."""
    data = bytearray(path.read_bytes())
    place = chance.randrange(len(data)) if data else 0
    match chance.choice(["flip", "flip", "cut", "insert", "repeat"]):
        case "flip" if data:
            data[place] ^= 1 << chance.randrange(8)
            said = f"bit of byte {place} flipped"
        case "cut":
            del data[place:]
            said = f"cut to {place} bytes"
        case "repeat":
            data += bytes(data)
            said = "twice over"
        case _:
            data[place:place] = b"\xff\x00{}"
            said = f"four bytes more at {place}"
    path.write_bytes(data)
    return said


def replace_whole(path: Path, chance: random.Random) -> str:
    """Put something else in place of a file."""
    path.unlink()
    match chance.choice(["gone", "folder", "fifo", "dangling", "loop", "endless", "other"]):
        case "gone":
            return "gone"
        case "folder":
            path.mkdir()
            return "is a folder"
        case "fifo":
            os.mkfifo(path)
            return "is a fifo"
        case "dangling":
            path.symlink_to("nowhere")
            return "is a link to nothing"
        case "loop":
            path.symlink_to(path.name)
            return "is a link to itself"
        case "endless":
            path.symlink_to("/dev/zero")
            return "is a link to /dev/zero"
        case _:
            content = chance.choice(BYTES_AFTER)
            path.write_bytes(content)
            return f"is {content!r}"


if __name__ == "__main__":
    main()
