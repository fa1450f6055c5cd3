"""Run the notebook `docs/tutorial.ipynb` in a fresh folder; `python -m tests.tutorial` saves it with its outputs."""

from __future__ import annotations

import html
import shutil
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOK = DOCS / "tutorial.ipynb"
BAR = "application/vnd.jupyter.widget-view+json"


def run(folder: Path) -> Any:
    """Run the notebook in `folder`; its outputs name no folder of this machine, and its bars are text."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    shutil.copy(DOCS / "tutorial_models.py", folder)
    client = NotebookClient(notebook, timeout=120, record_timing=False, resources={"metadata": {"path": str(folder)}})
    client.execute()
    notebook.metadata = {name: notebook.metadata[name] for name in ("kernelspec", "language_info")}
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [shown for output in cell.outputs if (shown := _plain(output, client.widget_state, folder))]
    return notebook


def bar_text(model_id: str, states: dict[str, Any]) -> str:
    """What a bar says in the end; nothing of one that is gone."""
    box = states[model_id]
    children = [states[child.removeprefix("IPY_MODEL_")] for child in box["children"]]
    if states[box["layout"].removeprefix("IPY_MODEL_")].get("visibility") == "hidden":
        return ""
    return html.unescape(f"{children[0]['value']} {children[2]['value']}".replace("\u2007", " "))


def _plain(output: Any, states: dict[str, Any], folder: Path) -> Any:
    data = output.get("data", {})
    if BAR in data:
        text = bar_text(data[BAR]["model_id"], states)
        return text and nbformat.v4.new_output("display_data", {"text/plain": text})
    for holder, name in [(data, "text/plain"), (data, "text/html"), (output, "text")]:
        if name in holder:
            holder[name] = holder[name].replace(f"{folder.resolve()}/", "")
    return output


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as fresh:
        nbformat.write(run(Path(fresh)), NOTEBOOK)
