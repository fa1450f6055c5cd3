"""Convert a checkpoint to a store: find its embeddings, copy their rows, label the rows with tokens."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from embgeom_dask import tuning, units
from embgeom_dask.checkpoints import existing, hub
from embgeom_dask.checkpoints.bare_files import check_ending, list_file
from embgeom_dask.checkpoints.choosing import choose
from embgeom_dask.checkpoints.files import LocalFolder, cannot_read, check_entries
from embgeom_dask.checkpoints.hub import HubFolder
from embgeom_dask.checkpoints.labelling import Labels, label
from embgeom_dask.checkpoints.name_and_tokenizer import check_name, find_name, find_tokenizer
from embgeom_dask.checkpoints.safetensors import Listing, list_folder
from embgeom_dask.checkpoints.small_files import class_name, read_config, read_license
from embgeom_dask.checkpoints.torch_files import list_local
from embgeom_dask.errors import EmbgeomWarning, InputError, parse_path, refuse_credentials, shorten
from embgeom_dask.storage import model_stores, model_writing, paths
from embgeom_dask.storage.fill import RowSource


def convert(
    source: str | os.PathLike[str],
    stores: str | os.PathLike[str] = "stores",
    *,
    role: Literal["input", "output", "both"] = "both",
    input_key: str | None = None,
    output_key: str | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    name: str | None = None,
    overwrite: bool = False,
    shard: int | str | None = None,
) -> str:
    """Convert a checkpoint to a store.

    If a store of the same commit, or with the same bytes, exists already, it is left as it is. If a store of another
    commit of the model exists, it is kept, and the name of the new store contains the commit. If the user asks for a
    revision, the name contains that revision. From the hub only the small files and the rows of the embedding matrices
    are fetched; a conversion that was interrupted continues when the same call is made again.

    Parameters
    ----------
    source : path, or hub id
        One of three. (1) A Hugging Face model folder with `model.safetensors`, with `pytorch_model.bin`, or with shards
        and their index. (2) A file that ends in `.safetensors`, `.npy`, `.bin`, `.pt`, `.pth` or `.ckpt`. Its only
        matrix is stored as the output embedding, or as the input embedding if `role="input"` or `input_key` is given.
        (3) If no such path exists, a model on the hub: `organisation/name` or `organisation/name@revision`.
    stores : path or URL
        The folder that the store is written into.
    role : {"both", "input", "output"}
        The embeddings to store. With "both", a model without an output embedding gives a store without one.
    input_key, output_key : str, optional
        The names of the embedding tensors. By default they are looked for.
    tokenizer : path, optional
        The folder of the tokenizer that labels the rows. By default it is looked for beside the checkpoint.
    name : str, optional
        The name of the model, `organisation/name`. By default the hub id, or the names of the checkpoint's folders.
    overwrite : bool
        Replace the store of the same model and revision as soon as the new one is complete.
    shard : int or str, optional
        Where many small objects are slow or dear: the most bytes of a matrix, before compression, that make an object,
        like 1GiB, of at least 16MiB. Chunks lie in it together (zarr's sharding), and are still read one by one. While
        a shard is written its chunks are in memory, compressed. By default each chunk, of up to 8 MiB, is an object. A
        store that is there already stays as it is.

    Returns
    -------
    str
        The path of the store.

    Raises
    ------
    InputError
        If there is no checkpoint, a file is broken, the embedding tensors cannot be determined, are not two-dimensional
        or have a dtype other than F64, F32, F16 and BF16, if another store has the same name, or if the hub does not
        let the user read the model. Nothing is written then.
    EmbgeomError
        If a file changes while it is read, the hub fails or the store cannot be written. The rows of a model on the hub
        that were fetched before are kept, for the next call; nothing else is left behind.

    Examples
    --------
    >>> from embgeom_dask.testing import make_checkpoint
    >>> tensors = {"model.embed_tokens.weight": np.eye(4, 2, dtype=np.float32)}
    >>> checkpoint = make_checkpoint("org/tiny", tensors, {"model_type": "llama"})
    >>> convert(checkpoint, "stores")
    'stores/org--tiny.zarr'
    """

    def warn(said: str) -> None:
        warnings.warn(said, EmbgeomWarning, stacklevel=3)

    keys = {"input": input_key, "output": output_key}
    return convert_telling(warn, source, stores, role, keys, tokenizer, name, overwrite=overwrite, shard=shard)


def convert_telling(
    warn: Callable[[str], None],
    source: str | os.PathLike[str],
    stores: str | os.PathLike[str],
    role: Literal["input", "output", "both"],
    keys: dict[str, str | None],
    tokenizer: str | os.PathLike[str] | None,
    name: str | None,
    *,
    overwrite: bool,
    shard: int | str | None = None,
) -> str:
    """Convert a checkpoint as `convert` does, and tell `warn` what it warns of: others may do so in other threads."""
    shard_bytes = parse_shard(shard)
    for each, key in keys.items():
        if key is not None and not isinstance(key, str):
            raise InputError(f"`{each}_key` {key!r:.40}: name a tensor")
    folder = _folder(source)
    vocabulary = find_tokenizer(folder.path, tokenizer)
    named = folder if name is None else replace(folder, model=check_name(name))
    target = existing.target_of(named, parse_path("stores", stores))
    same = not overwrite and existing.has_commit(target, named, role, keys)
    if same and tokenizer is None and existing.has_tokens(target):
        return target
    if isinstance(folder, HubFolder) and not same:
        model_writing.check_writable(target, overwrite=overwrite)
    listing = _list(folder)
    decision, tensors, tied = choose(listing, role, keys)
    if not same and not overwrite and isinstance(folder, LocalFolder):
        same = existing.has_rows(target, tensors, tied=tied)
    if not same:
        model_writing.check_writable(target, overwrite=overwrite)
    labels = label(folder, vocabulary, listing, tensors)
    said = existing.add_labels(target, labels, tensors) if same else (*decision.warnings, *labels.warnings)
    for warning in said:
        warn(f"{folder.name}: {warning}")
    if same:
        return target
    facts = {**_description(folder.path), "tokenizer": labels.tokenizer, "decision": decision.record()}
    return model_writing.write_model(
        target,
        tensors,
        labels=labels.shared,
        own_labels=labels.own,
        attrs={"model": named.model, "revision": named.revision, **facts},
        tied=tied,
        overwrite=overwrite,
        resume=_resumable(named, tensors, labels, shard_bytes) if isinstance(named, HubFolder) else None,
        shard=shard_bytes,
    )


def read_decision(store: str) -> Any:
    """Return how the tensors of a store were chosen, as `stores/README.md` describes it; None if it does not say."""
    return paths.open_group(paths.locate(store)).attrs.get("decision")


def _folder(source: str | os.PathLike[str]) -> LocalFolder | HubFolder:
    refuse_credentials(given := parse_path("source", source))
    path = Path(given)
    shown = shorten(path, 300)
    if model_stores.is_store(source):
        raise InputError(f"{shown} is a store already")
    try:
        there = path.exists()
    except OSError as error:
        raise InputError(cannot_read(path, error)) from error
    if there:
        if path.is_dir():
            check_entries(path)
        else:
            check_ending(path)
        return LocalFolder(path, *find_name(path))
    named = hub.parse(os.fspath(source))
    if named is None:
        raise InputError(f"no checkpoint at {shown}: give a model folder, a .safetensors file, or organisation/name")
    return hub.open_folder(*named)


def _list(folder: LocalFolder | HubFolder) -> Listing:
    if isinstance(folder, HubFolder):
        return list_folder(folder)
    return list_file(folder.path) if folder.path.is_file() else list_local(folder)


def parse_shard(shard: int | str | None) -> int | None:
    """Read `shard` as bytes; None stays None. Raises InputError if it is no size, or too small for two chunks."""
    size = None if shard is None else units.bytes_of(str(shard))
    if shard is not None and (size is None or size < 2 * tuning.CHUNK_BYTES):
        least = units.bytes_text(2 * tuning.CHUNK_BYTES).replace(" ", "")
        raise InputError(f"`shard` {shorten(shard)}: give a size like 1GiB, of at least {least}, two chunks")
    return size


def _resumable(folder: HubFolder, tensors: Mapping[str, RowSource], labels: Labels, shard: int | None) -> str:
    """Return a digest of what is to be written: an interrupted conversion with the same digest can be continued."""
    facts = [
        folder.model,
        folder.revision,
        *((name, rows.tensor, rows.shape, name in labels.own) for name, rows in tensors.items()),
        *([] if shard is None else [shard]),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _description(path: Path) -> dict[str, Any]:
    """Return what the checkpoint says about itself: its architecture, and its licence if its model card names one."""
    try:
        architecture = class_name(read_config(path))
    except InputError:
        architecture = ""
    found = {"architecture": architecture, "license": read_license(path / "README.md")}
    return {name: value for name, value in found.items() if value or name == "architecture"}
