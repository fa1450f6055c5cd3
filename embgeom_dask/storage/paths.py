"""Paths and URLs of stores: `s3://`, `gs://`, `hf://buckets/`, and to read also `https://` and other `hf://`."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import zarr
from fsspec import AbstractFileSystem, get_filesystem_class, url_to_fs
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, Store
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from embgeom_dask import private_apis, tuning
from embgeom_dask.errors import EmbgeomError, InputError, parse_path, refuse_credentials, shorten
from embgeom_dask.redaction import redact
from embgeom_dask.storage.url_groups import Collected, Fetched

PathLike = str | os.PathLike[str]

UNFINISHED = "unfinished"
"""The attribute of a group at a URL that is being written, or whose writer died: a name of what it is, or true."""

_DOCUMENT = "zarr.json"

_READERS = 4  # threads that check chunks

_PREFIXES = ("s3://", "s3a://", "gs://", "gcs://")
"""Of file systems that list what begins with a prefix."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "s3", "https": "s3"}

_BUCKETS = "hf://buckets/"
_READ_ONLY = {"http": "https:// is only read", "https": "https:// is only read"}
_READ_ONLY["hf"] = "of hf:// only buckets are written, hf://buckets/OWNER/NAME/"


def is_url(path: PathLike) -> bool:
    """Whether `path` is a URL, and no path on this machine."""
    text = os.fspath(path)
    return ("://" in text or "::" in text) and not text.startswith("file://")


def locate(path: PathLike) -> str:
    """Return the absolute path, or the URL, that `path` is; without a slash at its end, `~` being the home folder.

    Raises
    ------
    InputError
        where it is no path or empty, where no file can be called so, where a URL holds credentials or lacks a package.
    """
    text = parse_path("", path)
    if not is_url(text):
        if text.startswith("file://"):
            refuse_credentials(text)
            text = unquote(urlsplit(text).path)
        if not text:  # it would be the folder at hand
            raise InputError("a path is empty: name a file or a folder")
        try:
            os.lstat(text)
        except ValueError as error:  # a null byte, or half a surrogate pair
            raise InputError(f"no file can be called {shorten(text)}: {explain(error)}") from error
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise InputError(f"no file can be called {shorten(text)}: the name is too long") from error
        return os.path.abspath(text)  # noqa: PTH100
    url = text.rstrip("/")
    refuse_credentials(url)
    for part in url.split("::"):
        protocol = part.partition("://")[0]
        try:
            get_filesystem_class(protocol)
        except ImportError as error:
            extra = _EXTRAS.get(protocol)
            remedy = f": pip install 'embgeom-dask[{extra}]'" if extra else f" ({explain(error)})"
            raise InputError(f"{url} needs a package that is not installed{remedy}") from error
        except ValueError as error:
            raise InputError(f"{url}: no {protocol}:// is known here, only those of fsspec, like s3://") from error
    return url


def join(path: str, *names: str) -> str:
    """Return the path, or URL, of something below `path`."""
    return "/".join([path.rstrip("/"), *names]) if is_url(path) else os.path.join(path, *names)  # noqa: PTH118


def explain(error: BaseException) -> str:
    """Return the first line of the message of an error, without credentials in URLs."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return redact(str(said).strip().partition("\n")[0])


@contextmanager
def explained(what: str, passing: tuple[type[Exception], ...] = (EmbgeomError, FileNotFoundError)) -> Iterator[None]:
    """Raise whatever goes wrong as one line, `cannot <what>: <why>`; let errors of the types `passing` pass."""
    try:
        yield
    except passing:
        raise
    except Exception as error:  # each kind of storage has its own
        raise EmbgeomError(f"cannot {what}: {explain(error)}") from error


def filesystem(path: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a path or URL, with no listing remembered, and the path without the scheme."""
    fs, root = cast(tuple[AbstractFileSystem, str], url_to_fs(path, **_options(path)))
    fs.invalidate_cache()
    return fs, root


def _options(path: str) -> dict[str, Any]:
    """The options of the file system of a URL.

    For the hub, each call makes a new file system: threads must not share its cache of listings. For S3, keys are read
    in one request: to read one in parts, s3fs would first ask for its size.
    """
    if path.startswith(("s3://", "s3a://")):
        return {"max_concurrency": 1}
    if not path.startswith("hf://"):
        return {}
    _hush_the_hub()
    return {"skip_instance_cache": True}


def _hush_the_hub() -> None:
    """Turn off the progress bars of huggingface_hub, three for each file, unless the user has asked for them."""
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not are_progress_bars_disabled():
        disable_progress_bars()


def check_writable(path: str) -> None:
    """Raise InputError where `path` is a URL to which nothing can be written, or a path in a store or a result."""
    if not is_url(path) and (group := next((up for up in Path(path).parents if (up / "zarr.json").is_file()), None)):
        raise InputError(f"cannot write {path}: {group} is a store or a result: name a path outside of it")
    why = _READ_ONLY.get(path.partition("://")[0])
    if path.startswith(_BUCKETS):  # the hub's library comes without it on some machines
        why = "" if find_spec("hf_xet") else "it needs a package that is not installed: pip install hf_xet"
    if why:
        raise InputError(f"cannot write {path}: {why}")


def remove(fs: AbstractFileSystem, files: Sequence[str]) -> None:
    """Remove files, possibly none, from a file system that `filesystem` gave, in as few requests as possible."""
    if not files:
        return
    if fs.protocol != "hf":
        fs.rm(list(files))
        return
    from huggingface_hub import HfApi  # whose file system takes one at a time

    resolved = [fs.resolve_path(file) for file in files]
    hub = HfApi(endpoint=fs.endpoint, token=fs.token)
    hub.batch_bucket_files(resolved[0].bucket_id, delete=[each.path for each in resolved])


def sizes_in(url: str) -> dict[str, int]:
    """The keys below a URL, relative to it, with their sizes in bytes; empty where nothing is there."""
    with explained(f"list {url}"):
        fs, root = filesystem(url)
        folder, _, name = root.rpartition("/")
        try:
            if folder and url.startswith(_PREFIXES):  # then nothing more is asked where nothing is there
                found = fs.find(folder, prefix=f"{name}/", detail=True)
            else:
                found = fs.find(root, detail=True)
        except FileNotFoundError:  # there is no such bucket
            return {}
        return {key[len(root) + 1 :]: info["size"] or 0 for key, info in found.items() if key != root}


def exists(path: str) -> bool:
    """Whether anything is at `path`."""
    if not is_url(path):
        return os.path.lexists(path)
    with explained(f"look at {path}"):
        fs, root = filesystem(path)
        return bool(fs.exists(root))


def groups_in(folder: PathLike) -> list[str]:
    """The paths in `folder` whose names end in .zarr, by name. FileNotFoundError where there is no such folder."""
    with explained(f"list {folder}"):
        fs, root = filesystem(locate(folder))
        if not fs.isdir(root):
            raise FileNotFoundError(folder)
        names = {found.rstrip("/").rpartition("/")[2] for found in fs.ls(root, detail=False)}
        return [join(os.fspath(folder), name) for name in sorted(names) if name.endswith(".zarr")]


def size(path: PathLike) -> int:
    """Bytes of all files at `path`."""
    with explained(f"list {path}"):
        fs, root = filesystem(locate(path))
        return sum(info["size"] or 0 for info in fs.find(root, detail=True).values())


@dataclass(frozen=True)
class Contents:
    """What is at a path. `free`: nothing is there, or, at a URL, only what an interrupted writer left.

    For a URL also: `sizes`, the keys below it, relative to it, with their bytes; `document`, the group's zarr.json; and
    `unfinished`, the mark that an interrupted writer left in it.
    """

    free: bool
    sizes: Mapping[str, int] = field(default_factory=dict)
    document: bytes | None = None
    unfinished: str | bool | None = None


def look(path: str) -> Contents:
    """Return what is at `path`; a URL takes two requests, made at the same time."""
    if not is_url(path):
        return Contents(free=not exists(path))
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(_document, path)
        sizes = sizes_in(path)
    document = reading.result() if _DOCUMENT in sizes else None
    unfinished = _mark(document)
    return Contents(not sizes or unfinished is not None, sizes, document, unfinished)


def _mark(document: bytes | None) -> str | bool | None:
    """The mark of an interrupted writer in a group's document; None if there is none."""
    with suppress(ValueError, KeyError, TypeError):
        return cast(str | bool, json.loads(document or b"")["attributes"][UNFINISHED])
    return None


def _document(url: str) -> bytes | None:
    with explained(f"read {url}"), suppress(FileNotFoundError):
        fs, root = filesystem(url)
        return cast(bytes, fs.cat_file(f"{root}/{_DOCUMENT}"))
    return None


def names_in(path: str) -> set[str]:
    """The files below `path`, relative to it; empty where nothing is there."""
    with explained(f"list {path}"):
        fs, root = filesystem(path)
        return {file[len(root) + 1 :] for file in fs.find(root)}


def status(path: PathLike) -> os.stat_result:
    """The status of what is at a path of this machine.

    Raises OSError where nothing is there, or a pipe or a device: reading may never end.
    """
    found = os.stat(path)  # noqa: PTH116
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise OSError(errno.EINVAL, "it is a pipe or a device")
    return found


class Unfinished(FileNotFoundError):
    """A group at a URL is being written, or its writer was stopped."""


class _NoPipes(WrapperStore[Store]):
    """A zarr store that refuses to read pipes."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if isinstance(self._store, LocalStore):
            with suppress(FileNotFoundError, NotADirectoryError):
                status(self._store.root / key)
        return await super().get(key, prototype, byte_range)


class _Strict(_NoPipes):
    """One that also refuses to read a chunk that is not there, which zarr takes for its fill value."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        found = await super().get(key, prototype, byte_range)
        if found is None and "c" in key.split("/"):
            raise OSError(errno.EIO, f"chunk {key} is missing")
        return found


def reader(path: str, *, whole: bool = False, there: Contents | None = None, complete: bool = True) -> Store:
    """A zarr store to read the group at `path`, in which every chunk must be there if it is `complete`.

    If the `whole` group is to be read from a URL, its small keys are read now, in one go. `there` is what `look` has
    just returned for `path`.
    """
    store, checked = _open(path, read_only=True), _Strict if complete else _NoPipes
    if not is_url(path) or not (whole or there):
        return checked(store)
    there = there or look(path)
    contents = {} if there.document is None else {_DOCUMENT: there.document}
    while whole and (contents := _contents(path, there.sizes)).get(_DOCUMENT) != there.document:
        there = look(path)  # it was replaced meanwhile: new chunks must not be read with the old document
    return checked(Fetched(store, there.sizes, contents))


def _contents(url: str, sizes: Mapping[str, int]) -> dict[str, bytes]:
    """The contents of the group's document and of the small keys at a URL.

    The document is read last. A writer that replaces a group writes a new document before any chunk, so the chunks that
    were read before the document belong to it.
    """
    wanted, left = {_DOCUMENT} & sizes.keys(), tuning.FETCHED_BYTES
    for name in sorted(sizes, key=sizes.__getitem__):
        if (left := left - sizes[name]) < 0:
            break
        wanted.add(name)
    fs, root = url_to_fs(url, **_options(url))  # as it has just listed it
    found = fs.cat([f"{root}/{name}" for name in wanted], on_error="omit") if wanted else {}  # in the order of names
    return {key[len(root) + 1 :]: content for key, content in found.items()}


def writer(path: str, *, fresh: bool = False) -> Store:
    """A zarr store to write the group at `path`. A `fresh` one at a URL collects small keys, which `flush` writes."""
    store = _open(path, read_only=False)
    return Collected(store) if fresh and is_url(path) else store


def flush(path: str, store: Store) -> None:
    """Write the keys that a `fresh` writer collected, in one go, except for the group's document, which comes last."""
    if isinstance(store, Collected):
        fs, root = filesystem(path)
        fs.pipe({f"{root}/{key}": content for key, content in store.contents() if key != "zarr.json"})


def _open(path: str, *, read_only: bool) -> Store:
    if not is_url(path):
        return LocalStore(path, read_only=read_only)
    missing: tuple[type[Exception], ...] = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
    if path.startswith("hf://"):
        from huggingface_hub.errors import EntryNotFoundError  # of a file that was listed, and is removed

        missing += (EntryNotFoundError,)
    options = _options(path)
    store = FsspecStore.from_url(path, storage_options=options, read_only=read_only, allowed_exceptions=missing)
    store.fs.invalidate_cache()
    if "gs" in store.fs.protocol:
        private_apis.close_gcsfs_in_zarr(store.fs)
    return store


def open_group(path: str, *, whole: bool = False, there: Contents | None = None, complete: bool = True) -> zarr.Group:
    """Open the finished zarr group at `path`, as `reader` reads it.

    Raises FileNotFoundError where there is none (Unfinished where it is begun), ValueError where it is something else,
    and EmbgeomError where `path` cannot be reached.
    """
    try:
        with explained(f"read {path}"):
            store = reader(path, whole=whole, there=there, complete=complete)
            group = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=complete or None)
    except EmbgeomError as error:
        if not is_url(path) or isinstance(error.__cause__, ValueError | KeyError | TypeError):
            if is_url(path) and _mark(_document(path)) is not None:  # and nothing else is there yet
                raise Unfinished(path) from None
            raise ValueError(f"{path} is no zarr group") from error
        raise
    if UNFINISHED in group.attrs:
        raise Unfinished(path)
    return group


def check_chunks(group: zarr.Group) -> None:
    """Read every chunk of a group's arrays, which `open_group` gave.

    Raises
    ------
    EmbgeomError
        where one is missing, cannot be read, or does not hold its checksum.
    """

    def check(part: tuple[zarr.Array[Any], Any]) -> None:
        array, rows = part
        where = str(array.store_path).removeprefix("wrapping-").removeprefix("file://")
        with explained(f"read {where}", passing=()):
            array[rows]

    arrays = [array for _, array in group.arrays()]
    parts = [
        (array, slice(start, start + array.chunks[0]) if array.ndim else ())
        for array in arrays
        for start in range(0, array.shape[0] if array.ndim else 1, array.chunks[0] if array.ndim else 1)
    ]
    with ThreadPoolExecutor(_READERS) as threads:
        for _ in threads.map(check, parts):
            pass
