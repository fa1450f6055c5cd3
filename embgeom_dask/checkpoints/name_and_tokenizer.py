"""Find the name and the tokenizer of a checkpoint from the folders around its weights."""

from __future__ import annotations

import os
import re
from pathlib import Path

from embgeom_dask.checkpoints.tokenizer_labels import has_vocabulary
from embgeom_dask.errors import InputError, parse_path, shorten

_OWNER = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9]+(-[A-Za-z0-9]+)*")  # an organisation, as the hub allows it
_PLACES = re.compile(  # names of folders that are neither an organisation nor a model
    "cache|checkpoints?|content|data|desktop|dist-packages|documents|downloads|export|final|hf|home|hub|huggingface"
    "|latest|llms?|main|media|mnt|models?|opt|outputs?|root|runs|scratch|shared|site-packages|snapshots?|src|srv"
    "|temp|tmp|users|var|weights|work|workspace",
    re.IGNORECASE,
)
_MODULE = re.compile(r"\d_[A-Z]\w*")  # sentence-transformers: 0_Transformer
_ENCODER = re.compile(r"text_encoder(_\d)?")  # diffusers, beside tokenizer and tokenizer_2
STEP = re.compile(r"(?:checkpoint|ckpt|global_?step|step|iter|epoch)[-_]?(?P<number>\d{1,18})")
"""The name of a step of a training run, in a folder with the tokenizer."""

_GIVEN = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("tekken.json", "vocab.json", "vocab.txt"),
)


def find_tokenizer(path: Path, given: str | os.PathLike[str] | None = None) -> Path:
    """Find the folder of a checkpoint's tokenizer.

    It is the checkpoint's own folder; or the folder beside it, for a text encoder of diffusers; or the folder above it,
    for a module of sentence-transformers and for a step of a training run.

    Parameters
    ----------
    path : Path
        The checkpoint: a folder or a file.
    given : path, optional
        The tokenizer that the user gives: its folder, or a file in it.

    Returns
    -------
    Path
        The folder; `path` if there is no tokenizer.

    Raises
    ------
    InputError
        If there is no tokenizer in `given`.
    """
    if given is not None:
        folder = Path(parse_path("tokenizer", given))
        folder = folder.parent if folder.is_file() else folder
        if not _has_tokenizer(folder) and not has_vocabulary(folder):
            raise InputError(f"no tokenizer in {shorten(given)}: give a folder that has tokenizer.json")
        return folder
    folder = Path(os.path.abspath(path))  # noqa: PTH100 (resolve would follow the hub cache's links)
    if folder.is_file():
        folder = folder.parent
    elif has_vocabulary(folder):
        return path
    if _has_tokenizer(folder):
        return folder
    encoder = _ENCODER.fullmatch(folder.name)
    beside = folder.parent / f"tokenizer{encoder[1] or ''}" if encoder else folder.parent
    if (encoder or _MODULE.fullmatch(folder.name) or STEP.fullmatch(folder.name)) and _has_tokenizer(beside):
        return beside
    return path


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / file).is_file() for file in _TOKENIZER_FILES)


def find_name(path: Path) -> tuple[str, str]:
    """Return the name of a checkpoint and its revision, as the folders above it tell.

    The name is `organisation/name` or `name`; the revision is the commit in the hub's cache, else "". A file beside a
    tokenizer is named after its folder, a text encoder of diffusers after its pipeline and itself, a module of
    sentence-transformers after its model.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 (resolve would follow the hub cache's links)
    if path.is_file():
        return (path.stem if find_tokenizer(path) == path else find_name(path.parent)[0]), ""
    if path.parent.name == "snapshots" and path.parents[1].name.startswith("models--"):  # the hub's cache
        return path.parents[1].name.removeprefix("models--").replace("--", "/", 1), path.name
    if _ENCODER.fullmatch(path.name):
        name, revision = find_name(path.parent)
        return f"{name}/{path.name}", revision
    if _MODULE.fullmatch(path.name):
        return find_name(path.parent)
    if _PLACES.fullmatch(path.name):
        path = path.parent
    owner = path.parent
    owned = _OWNER.fullmatch(owner.name) and not _PLACES.fullmatch(owner.name) and owner != Path.home()
    return (f"{owner.name}/{path.name}" if owned else path.name or "model"), ""


def check_name(name: str) -> str:
    """Return the name that a user gives a model. Raises InputError if it is not `organisation/name` or `name`."""
    if not isinstance(name, str) or not _GIVEN.fullmatch(name):
        raise InputError(
            f"{shorten(name)} names no model: give `name` as ORGANISATION/NAME, of letters, digits, -, _ and ."
        )
    return name
