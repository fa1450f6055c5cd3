"""What status says as text: of one command over pairs, of one over many models, or of one over steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embgeom_dask.cli.text_tables import align


def status_text(found: Mapping[str, Any]) -> str:
    """What `status` found: of one scan, of a command over many models, or of one over steps."""
    if "models_total" in found:
        return _batch_text(found)
    if "steps_total" in found:
        return _steps_text(found)
    rate, left = found["panels_per_second"], found["seconds_left"]
    facts = {
        "result": found["result"],
        "state": found["state"],
        "panels": _of(found, "panels"),
        "panels/s": "" if rate is None else f"{rate:.3g}",
        "seconds left": "" if left is None else f"{left:.0f}",
        "last commit": found["last_commit"] or "",
        "goes on with": found["resume"] or f"the same call of embgeom_dask.{found['command']}",
    }
    if found["state"] == "finished":
        facts = {name: facts[name] for name in ("result", "state")}
    parts = [align([found["command"], ""], ([name, value] for name, value in facts.items()))]
    if found["failures"]:
        rows = ([each["pass"], each["panel"], each["cause"]] for each in found["failures"])
        parts.append(align(["pass", "panel that failed", "cause"], rows))
    return "\n\n".join(parts)


def _batch_text(found: Mapping[str, Any]) -> str:
    left = found["seconds_left"]
    facts = {
        "results": found["result"],
        "state": found["state"],
        "models": _of(found, "models"),
        "seconds left": "" if left is None else f"{left:.0f}",
        "goes on with": found["resume"] or "the same command",
    }
    if found["state"] == "finished":
        facts = {name: facts[name] for name in ("results", "state", "models")}
    parts = [align([found["command"], ""], ([name, value] for name, value in facts.items()))]
    if found["questions"]:
        rows = ([each["question"], each["state"], _of(each, "models")] for each in found["questions"])
        parts.append(align(["question", "state", "models"], rows))
    if found["parts"]:
        rows = ([each["part"], each["state"], _of(each, "models")] for each in found["parts"])
        parts.append(align(["part", "state", "models"], rows))
    if found["running"]:
        rows = ([each["result"], _of(each, "panels")] for each in found["running"])
        parts.append(align(["begun", "panels"], rows))
    if found["failures"]:
        parts.append(align(["failed"], ([each] for each in found["failures"])))
    return "\n\n".join(parts)


def _steps_text(found: Mapping[str, Any]) -> str:
    left = found["seconds_left"]
    facts = {"result": found["result"], "state": found["state"], "steps": _of(found, "steps")}
    if found["state"] != "finished":
        facts["seconds left"] = "" if left is None else f"{left:.0f}"
        facts["goes on with"] = found["resume"] or "the same command"
    parts = [align([found["command"], ""], ([name, value] for name, value in facts.items()))]
    if found["questions"]:
        rows = ([each["question"], each["state"], _of(each, "steps")] for each in found["questions"])
        parts.append(align(["of every step", "state", "steps"], rows))
    return "\n\n".join(parts)


def _of(found: Mapping[str, Any], what: str) -> str:
    return f"{found[f'{what}_done']:,} of {found[f'{what}_total']:,}"
