"""The store of a checkpoint: its path, and whether the checkpoint has been converted to it already."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embgeom_dask import progress, tuning
from embgeom_dask.checkpoints.files import Folder
from embgeom_dask.checkpoints.labelling import Labels
from embgeom_dask.errors import EmbgeomError, InputError, shorten
from embgeom_dask.storage import model_stores, model_writing, paths, replacement
from embgeom_dask.storage.fill import RowSource
from embgeom_dask.storage.model_stores import ROLES, Matrix
from embgeom_dask.storage.validation import forget, read_metadata, shard_bytes

_MOST_NAME = 200  # bytes; file systems allow 255, and temporary names beside the store are longer
_READERS = 4  # threads that verify chunks


def target_of(folder: Folder, directory: str) -> str:
    """Return the path of a checkpoint's store in `directory`.

    The store is named after the model and the revision that the user asked for. If that name belongs to a store of
    another commit of the same model, the name contains the commit instead. Raises InputError if the name is longer than
    file systems allow.
    """
    named, committed = (model_stores.file_name(folder.model, revision) for revision in (folder.asked, folder.revision))
    if (length := max(len(os.fsencode(name)) for name in (named, committed))) > _MOST_NAME:
        raise InputError(
            f"{shorten(folder.name, 300)} would give a store of a name of {length} bytes: rename its folder"
        )
    there = _facts(paths.join(directory, named))
    same = not there or there["model"] != folder.model or there.get("revision", "") in ("", folder.revision)
    return paths.join(directory, named if same or not folder.revision else committed)


def has_commit(target: str, folder: Folder, role: str, keys: Mapping[str, str | None]) -> bool:
    """Whether the store at `target` was made from this commit of this model, with the tensors asked for."""
    facts = _facts(target)
    if not facts or not folder.revision or (facts["model"], facts.get("revision")) != (folder.model, folder.revision):
        return False
    decision = facts.get("decision", {})
    for each in ("input", "output") if role == "both" else (role,):
        if decision.get(each) is None and each not in decision.get("roles", ()):
            return False
        if not _fits(facts["matrices"].get(f"{each}_embedding"), decision[each], keys[each]):
            return False
    return _is_whole(target)


def has_rows(target: str, matrices: Mapping[str, RowSource], *, tied: bool) -> bool:
    """Whether the store at `target` holds these matrices bit for bit; reads all their rows."""
    facts = _facts(target)
    if not facts or (tied and not facts["tied"]):
        return False
    if any(not _equal(facts["matrices"].get(name), source) for name, source in matrices.items()):
        return False
    return _is_whole(target)


def has_tokens(target: str) -> bool:
    """Whether any row of the store at `target` has a token."""
    return bool(model_stores.labels(target)["has_token"].any())


def add_labels(target: str, labels: Labels, matrices: Mapping[str, RowSource]) -> tuple[str, ...]:
    """Add token labels to a store that has these matrices but no tokens, and return the warnings for the user.

    So are those added that say which tokens can be reached, where a store has all others.

    The store is written again from its own rows. A store that has other labels is left as it is. So is a store at a
    URL, because there the old one is deleted before the new one is written.
    """
    facts = model_stores.attributes(target)
    there = {name: facts["matrices"][name] for name in matrices}
    digests = {name: labels.digest(name, source.shape[0]) for name, source in matrices.items()}
    if labels.shared is None or all(there[name].get("labels_sha256") == digests[name] for name in there):
        return () if has_tokens(target) else labels.warnings
    stored = [
        model_stores.find_matrix(target, role)
        for role in ("input", "output")
        if f"{role}_embedding" in facts["matrices"]
    ]
    rows = {matrix.name: _Stored(matrix, facts["matrices"][matrix.name]["source_tensor"]) for matrix in stored}
    named, lacks = has_tokens(target), "has no tokens: `overwrite` adds them"
    if named:
        without = {name: labels.digest(name, each.shape[0], reachability=False) for name, each in matrices.items()}
        if any(there[name].get("labels_sha256") != without[name] for name in there):
            said = "its store has other labels than its tokenizer gives now: `overwrite` takes these"
            return (*labels.warnings, said)
        lacks = "does not say which tokens its tokenizer can write: `overwrite` adds it"
    if paths.is_url(target) or not rows.keys() <= matrices.keys():
        return (*labels.warnings, f"its store {lacks}")
    attrs = {name: value for name, value in facts.items() if name not in ("matrices", "tied", "format_version")}
    model_writing.write_model(
        target,
        rows,
        labels=labels.shared,
        own_labels={name: own for name, own in labels.own.items() if name in rows},
        attrs={**attrs, "tokenizer": labels.tokenizer},
        tied=facts["tied"],
        overwrite=True,
        shard=shard_bytes(read_metadata(target)),
    )
    progress.note(f"{target} {'says which tokens can be reached' if named else 'has its tokens'} now")
    return labels.warnings


@dataclass(frozen=True)
class _Stored:
    """The rows of a stored matrix, with the name of the tensor that they came from: a `RowSource`."""

    matrix: model_stores.Matrix
    tensor: str

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.vocab_size, self.matrix.hidden_size

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.matrix.read(0, 0).dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.matrix.read(start, stop)


def _facts(target: str) -> dict[str, Any] | None:
    """Return the attributes of a store, with those of its matrices by name in `matrices`; None if there is no store."""
    try:
        return model_stores.attributes(target)
    except InputError:
        return None


def _fits(stored: Mapping[str, Any] | None, decided: Mapping[str, Any] | None, key: str | None) -> bool:
    """Whether a stored matrix (or none) is the one in the store's decision, and the decision fits the key asked for."""
    if (stored is None) != (decided is None):
        return False
    if key:
        return decided is not None and decided["tensor"] == key
    return decided is None or decided["how"] != "key"


def _equal(stored: Mapping[str, Any] | None, source: RowSource) -> bool:
    if stored is None or (stored["source_tensor"], stored["dtype"]) != (source.tensor, source.dtype.name):
        return False
    digest, rows = hashlib.sha256(), source.shape[0]
    step = max(1, tuning.COMPARED_BYTES // (source.shape[1] * source.dtype.itemsize))
    for start in range(0, rows, step):
        digest.update(source.read(start, min(start + step, rows)).view(np.uint8).data)
    return bool(stored["sha256"] == digest.hexdigest())


def _is_whole(target: str) -> bool:
    """Read a whole store, note that it exists, and return True. Raises InputError if it is damaged.

    Temporary files that a killed writer left beside it are removed.
    """
    try:
        _verify(target)
    except EmbgeomError as error:
        raise InputError(f"{target} is damaged, `overwrite` replaces it: {error}") from error
    if not paths.is_url(target):
        replacement.sweep(Path(paths.locate(target)))
    progress.note(f"{target} is there already")
    return True


def _verify(target: str) -> None:
    """Read all chunks of a store, which checks their digests. Raises EmbgeomError if one does not match."""
    forget()
    names = model_stores.attributes(target)["matrices"]
    model_stores.labels(target)

    def read(part: tuple[Matrix, int]) -> None:
        matrix, start = part
        matrix.read(start, min(start + matrix.chunk_rows, matrix.vocab_size))

    stored = {model_stores.find_matrix(target, role) for role in ROLES if f"{role}_embedding" in names}
    parts = [(matrix, start) for matrix in stored for start in range(0, matrix.vocab_size, matrix.chunk_rows)]
    with ThreadPoolExecutor(_READERS) as pool:
        for _ in pool.map(read, parts):
            pass
