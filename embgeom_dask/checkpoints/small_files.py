"""Read the small JSON and YAML files of a checkpoint. They may hold anything: size and depth are limited."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from embgeom_dask.checkpoints.files import ByteSource, LocalFile, cannot_read
from embgeom_dask.errors import InputError, shorten

_MOST_CONFIG = 16 << 20
_MOST_CARD = 1 << 20
_MOST_DEPTH = 16
_MOST_LICENSE = 200
_FRONT_MATTER = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", re.DOTALL)
_NULLS = ("~", "null", "Null", "NULL")  # YAML for no value, if not in quotes
_YAML: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_json(source: ByteSource, what: str, most: int) -> dict[str, Any]:
    """Read a JSON object, with or without a byte order mark.

    NaN and Infinity, which configs contain, are accepted; also as transformers writes them: `{"__float__": "NaN"}`.

    Parameters
    ----------
    source : ByteSource
        The file.
    what : str
        What the file should be, for the message of the error.
    most : int
        The largest size in bytes.

    Raises
    ------
    InputError
        If the file is larger, or is not a JSON object.
    """
    try:
        if source.size > most:
            raise ValueError(f"its {source.size} bytes are more than {most}")
        value = json.loads(source.read(0, source.size), object_hook=_not_finite)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source.name} is not {what}: {shorten(error)}") from error
    if not isinstance(value, dict):
        raise InputError(f"{source.name} is not {what}: it holds a {type(value).__name__}, not an object")
    return value


def _not_finite(read: dict[str, Any]) -> Any:
    """Return the number that a `{"__float__": ...}` object stands for; any other object as it is."""
    named = read.get("__float__") if len(read) == 1 else None
    return float(named) if named in ("Infinity", "-Infinity", "NaN") else read


def read_config(directory: Path) -> dict[str, Any]:
    """Read the `config.json` of a model folder; return an empty dict if there is none.

    Raises InputError if it cannot be read, is not a JSON object, or if its `architectures` is not a list of strings or
    its `model_type` is not a string.
    """
    path = directory / "config.json"
    try:
        path.lstat()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(cannot_read(path, error)) from error
    config = read_json(LocalFile.open(path), "a model's config", _MOST_CONFIG)
    names, kind = config.get("architectures"), config.get("model_type")
    for field, value, fits, kinds in (
        ("architectures", names, isinstance(names, list) and all(isinstance(name, str) for name in names), "names"),
        ("model_type", kind, isinstance(kind, str), "a name"),
    ):
        if value is not None and not fits:
            raise InputError(f"{path} is not a model's config: {field} is {shorten(repr(value), 40)}, not {kinds}")
    return config


def class_name(config: dict[str, Any]) -> str:
    """Return the first model class that a config names; "" if it names none."""
    return next(iter(config.get("architectures") or ()), "")


def read_license(path: Path) -> str:
    """Return the licence that a model card states (its `license_name`, else its `license`); "" if it states none.

    The YAML is read as a stream of events, without building objects: aliases of aliases can describe more than fits in
    memory, and nested lists more than the stack holds.
    """
    try:
        source = LocalFile.open(path)
        text = source.read(0, min(source.size, _MOST_CARD)).decode("utf-8-sig", "replace")
        front = _FRONT_MATTER.match(text)
        fields = _texts(front[1], ("license_name", "license")) if front else {}
    except (InputError, yaml.YAMLError):  # no card, or one that cannot be read
        return ""
    return next((", ".join(found)[:_MOST_LICENSE] for found in fields.values() if found), "")


@contextmanager
def without_marks(directory: Path) -> Iterator[Path]:
    """Yield a folder whose JSON files have no byte order mark, for libraries that fail on the mark.

    It is `directory` itself if no file has the mark. Otherwise it is a temporary folder of links to the files, and of
    copies of those with the mark.
    """
    marked = [path for path in directory.glob("*.json") if path.is_file() and _begins(path, BOM_UTF8)]
    if not marked:
        yield directory
        return
    with TemporaryDirectory() as temporary:
        for path in directory.iterdir():
            beside = Path(temporary) / path.name
            if path in marked:
                beside.write_bytes(path.read_bytes().removeprefix(BOM_UTF8))
            else:
                beside.symlink_to(path.resolve())
        yield Path(temporary)


def _begins(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start


def _texts(text: str, names: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the values of some keys of a YAML mapping: of each the scalar, or the scalars of the list."""
    found: dict[str, list[str]] = {name: [] for name in names}
    depth, nodes, key = 0, 0, ""
    for event in yaml.parse(text, Loader=_YAML):
        scalar = event.value if isinstance(event, yaml.ScalarEvent) else ""
        if scalar in _NULLS and event.implicit[0]:
            scalar = ""
        starts = isinstance(event, yaml.CollectionStartEvent)
        if depth == 1 and (starts or isinstance(event, yaml.NodeEvent)):
            nodes += 1
            if nodes % 2:  # keys and values alternate
                key = scalar
            elif key in found:
                found[key] = [scalar] if scalar else []
        elif depth == 2 and scalar and not nodes % 2 and key in found:
            found[key].append(scalar)
        depth += starts - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MOST_DEPTH:
            raise yaml.YAMLError("nested too deep")
    return found
