"""What pages show: commands and Python with their output."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "stores/README.md", *sorted((ROOT / "docs").glob("*.md"))]

_INDENTED = r"((?:    [^\n]*\n|\n(?=    ))*)"
_SHOWN = re.compile(rf"^    \$ (.*)\n{_INDENTED}", re.MULTILINE)
_CONSOLE = re.compile(r"^(?:    )?\$ (embgeom .*)$", re.MULTILINE)
_PYTHON = re.compile(rf"^```python\n(.*?)^```\n\n?{_INDENTED}", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Shown:
    """A command line, or Python, and the output that a page shows of it."""

    source: str
    output: str


def with_output(page: Path) -> list[Shown]:
    """The commands of a page that stand in blocks of their own, with what is said to come out."""
    return [Shown(command, _plain(output)) for command, output in _SHOWN.findall(page.read_text())]


def commands(page: Path) -> list[str]:
    """All command lines `embgeom ...` of a page, without comments."""
    lines = page.read_text().replace("\\\n", " ")
    return [re.sub(r"\s+#.*", "", line) for line in _CONSOLE.findall(lines)]


def python(page: Path) -> list[Shown]:
    """The blocks of Python of a page, and the indented block after each."""
    return [Shown(source, _plain(output)) for source, output in _PYTHON.findall(page.read_text())]


def _plain(block: str) -> str:
    return "\n".join(line.removeprefix("    ").rstrip() for line in block.splitlines()).strip("\n")
