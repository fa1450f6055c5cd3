"""From a checkpoint to a store: find the embeddings, stream their rows, label them with the tokenizer's tokens."""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path
from typing import Any, Literal

from embgeom_dask import places
from embgeom_dask import stores as model_stores
from embgeom_dask.checkpoints.choosing import choose
from embgeom_dask.checkpoints.files import LocalFolder
from embgeom_dask.checkpoints.labels import token_labels
from embgeom_dask.checkpoints.safetensors import Listing, list_file, list_folder
from embgeom_dask.errors import EmbgeomWarning, InputError

_OWNER = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9]+(-[A-Za-z0-9]+)*")  # what the hub allows as the name of an organisation
_PLACES = re.compile(  # folders that say where a checkpoint lies, not whose or which it is
    "cache|checkpoints?|content|data|desktop|dist-packages|documents|downloads|export|final|hf|home|hub|huggingface"
    "|latest|llms?|main|media|mnt|models?|opt|outputs?|root|runs|scratch|shared|site-packages|snapshots?|src|srv"
    "|temp|tmp|users|var|weights|work|workspace",
    re.IGNORECASE,
)


def convert(
    source: str | os.PathLike[str],
    stores: str | os.PathLike[str] = "stores",
    *,
    matrix: Literal["input", "output", "both"] = "both",
    input_key: str | None = None,
    output_key: str | None = None,
    overwrite: bool = False,
) -> str:
    """Convert a checkpoint to a store in the folder `stores`, and return the store's path.

    Parameters
    ----------
    source : path
        A Hugging Face model folder (`model.safetensors`, or shards with their index), or a bare safetensors file, whose
        one matrix is stored as the output embedding (as the input embedding with `matrix="input"` or `input_key`).
    matrix : {"both", "input", "output"}
        What to store. With "both", a model without an output embedding gives a store without one.
    input_key, output_key : str, optional
        Names of the tensors, where they are not to be looked for.
    overwrite : bool
        Replace a store of the same name, once the new one is complete.

    Raises
    ------
    InputError
        Where there is no checkpoint, a file is broken, the tensors cannot be told, are not two-dimensional or have a
        dtype other than F64, F32, F16 and BF16, or where the store exists. Nothing is written then.
    EmbgeomError
        Where a file changes meanwhile or the store cannot be written; nothing is left behind.
    """
    path = Path(source)
    name, revision = _name(path)
    target = places.join(os.fspath(stores), f"{name.replace('/', '--')}.zarr")
    listing = _list(path)
    model_stores.check_writable(target, overwrite=overwrite)
    decision, tensors, tied = choose(listing, matrix, {"input": input_key, "output": output_key})
    for warning in decision.warnings:
        warnings.warn(f"{path}: {warning}", EmbgeomWarning, stacklevel=2)
    rows = max(source.shape[0] for source in tensors.values())
    labels, tokenizer = token_labels(path, rows) if path.is_dir() else (None, "none: a bare file has no tokenizer")
    facts = {**_description(path), "tokenizer": tokenizer, "decision": decision.record()}
    attrs = {"model": name, "revision": revision, **facts}
    return model_stores.write_model(target, tensors, labels=labels, attrs=attrs, tied=tied, overwrite=overwrite)


def _list(path: Path) -> Listing:
    if model_stores.is_store(path):
        raise InputError(f"{path} is a store already")
    if path.is_dir():
        return list_folder(LocalFolder(path, *_name(path)))
    if not path.exists():
        raise InputError(f"no checkpoint at {path}: give a model folder or a .safetensors file")
    if path.suffix != ".safetensors":
        raise InputError(f"{path} is not a checkpoint: give a model folder or a .safetensors file")
    return list_file(path)


def _name(path: Path) -> tuple[str, str]:
    """Return a checkpoint's name (`organisation/name` where its folders tell) and revision ("" where they do not)."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 (resolve would follow the hub cache's links)
    if path.is_file():
        return path.stem, ""
    if path.parent.name == "snapshots" and path.parents[1].name.startswith("models--"):  # the hub's cache
        return path.parents[1].name.removeprefix("models--").replace("--", "/", 1), path.name
    if _PLACES.fullmatch(path.name):
        path = path.parent
    owner = path.parent
    owned = _OWNER.fullmatch(owner.name) and not _PLACES.fullmatch(owner.name) and owner != Path.home()
    return (f"{owner.name}/{path.name}" if owned else path.name or "model"), ""


def _description(path: Path) -> dict[str, Any]:
    """Return what the checkpoint says of itself: the architecture, and the licence where its model card has one."""
    from huggingface_hub import metadata_load

    try:
        config = json.loads((path / "config.json").read_text())
        description = {"architecture": str((config.get("architectures") or [""])[0])}
    except (OSError, ValueError, AttributeError):
        description = {"architecture": ""}
    try:
        card = metadata_load(path / "README.md") or {}
        licence = card.get("license_name") or card.get("license")
    except Exception:  # no card, or none that can be read
        licence = None
    return {**description, "license": str(licence)} if licence else description
