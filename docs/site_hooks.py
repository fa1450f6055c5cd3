"""What mkdocs puts into pages from the package itself: the public names, and the variables of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import embgeom_dask
from embgeom_dask.storage.result_names import LONG_NAMES

ROOT = Path(__file__).parents[1]
_ELSEWHERE = {
    "../stores/README.md": "stores.md",
    "stores/README.md": "stores.md",
}
"""Links to pages that lie elsewhere in the repository."""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in the pages whose content stands elsewhere."""
    if page.file.src_path == "stores.md":
        markdown = (ROOT / "stores/README.md").read_text()
    for written, here in _ELSEWHERE.items():
        markdown = markdown.replace(f"]({written}", f"]({here}")
    return markdown.replace("<!-- public names -->", _public_names()).replace("<!-- variables -->", _variables())


def _public_names() -> str:
    return "\n\n".join(f"::: {home(name)}" for name in embgeom_dask.__all__)


def home(name: str) -> str:
    """Where a public name is defined, as a dotted path."""
    public = getattr(embgeom_dask, name)
    return f"{public.__module__}.{public.__qualname__}"


def _variables() -> str:
    lines = [f"| `{name}` | {meaning} |" for name, meaning in sorted(LONG_NAMES.items())]
    return "\n".join(["| variable | meaning |", "| --- | --- |", *lines])
