"""docs/design.md: what it names is there."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import embgeom_dask

PACKAGE = Path(embgeom_dask.__file__).parent
ROOT = PACKAGE.parent
PAGE = (ROOT / "docs/design.md").read_text()
ROOMS = dict(re.findall(r"^\| (`\w+/`|ground) \| (.*)", PAGE, re.MULTILINE))
QUOTED = re.compile(r"`([^`\n]+)`")


def modules(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.py")} - {"__init__"}


def test_every_room_has_its_line_and_names_all_its_modules() -> None:
    folders = {f"`{path.parent.name}/`" for path in PACKAGE.glob("*/__init__.py")}
    assert ROOMS.keys() == folders | {"ground"}
    parts = dict(re.findall(r"^### (`\w+/`|ground)\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL))
    assert [*parts] == [*ROOMS]
    for room, part in parts.items():
        named = {name for name in QUOTED.findall(part) if name.isidentifier()}
        assert named == modules(PACKAGE / ("" if room == "ground" else room.strip("`/"))), room


def test_every_other_name_is_there() -> None:
    folders = set(re.findall(r"(?<![\w/])(\w+)/(?![\w/])", PAGE))
    assert folders == {name.strip("`/") for name in ROOMS} - {"ground"}
    source = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    words = set(re.findall(r"\w+", source)) | set().union(*(modules(folder) for folder in PACKAGE.iterdir()))
    for name in set(QUOTED.findall(PAGE)):
        assert name.rpartition(".")[2] in words or (PACKAGE / name).exists() or (ROOT / name).exists(), name


def test_no_two_classes_but_private_ones_have_one_name() -> None:
    counts = Counter(
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r"^class ([A-Z]\w*)", path.read_text(), re.MULTILINE)
    )
    assert [name for name, count in counts.items() if count > 1] == []
