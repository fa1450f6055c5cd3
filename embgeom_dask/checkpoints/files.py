"""Files that are read by byte ranges, and the folders of checkpoints, on this machine.

`hub` has the same two for checkpoints on the hub.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Protocol

from embgeom_dask.errors import EmbgeomError, InputError, shorten

_NO_FILE = "is a pipe or a device, not a file: move it away"
_TOKENIZER = re.compile("tokenizer|vocab|merges|added_tokens|special_tokens|chat_template|tekken|spiece|sentencepiece")
_MOST_TOKENIZER = 1 << 29  # bytes
_MOST_NAMES, _MOST_DEPTH = 4096, 3  # that `names` lists


class ByteSource(Protocol):
    """A file that any thread may read, by byte ranges: `name` is for messages, `size` is in bytes."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102
    def read(self, start: int, stop: int) -> bytes:
        """Return bytes start..stop-1, never fewer. Raises EmbgeomError if they cannot be read."""
        ...


class Folder(Protocol):
    """The files of one checkpoint.

    `name` is for messages. `path` is the folder of the small files (config, index, tokenizer). `model`
    (`organisation/name`) and `revision` (a commit) are recorded in the store; each is "" if it is not known. `asked` is
    the revision that the user asked for, a commit or the name of a branch or tag, else "".
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def model(self) -> str: ...  # noqa: D102
    @property
    def revision(self) -> str: ...  # noqa: D102
    @property
    def asked(self) -> str: ...  # noqa: D102
    def has(self, file: str) -> bool:
        """Whether the checkpoint has a file of that name."""
        ...

    def names(self) -> list[str]:
        """Return the names of the files, `folder/file` for those in subfolders; some thousands at most."""
        ...

    def open(self, file: str) -> ByteSource:
        """Open a file. Raises InputError if it cannot be read."""
        ...


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine.

    It is read with `os.pread`, not through a memory map: if a mapped file shrinks, the process is killed. `stamp` is
    its inode, size and modification time when it was opened; a read fails if they have changed since.
    """

    path: Path
    stamp: tuple[int, int, int]

    @classmethod
    def open(cls, path: Path) -> LocalFile:
        """Open a file. Raises InputError if it cannot be read, or is a pipe or a device."""
        try:
            with _open(path) as file:
                regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
                found = cls(path, _stamp(file.fileno()))
        except OSError as error:
            raise InputError(cannot_read(path, error)) from error
        if not regular:
            raise InputError(f"{path} {_NO_FILE}")
        return found

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.stamp[1]

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes start..stop-1. Raises EmbgeomError if the file has changed or has fewer bytes."""
        try:
            with _open(self.path) as file:
                data = b"" if _stamp(file.fileno()) != self.stamp else os.pread(file.fileno(), stop - start, start)
                while 0 < len(data) < stop - start:  # Linux gives at most 2 GiB at once
                    more = os.pread(file.fileno(), stop - start - len(data), start + len(data))
                    if not more:
                        break
                    data += more
        except OSError as error:
            raise EmbgeomError(f"cannot read {self.path}: {error.strerror}") from error
        if len(data) != stop - start:
            raise EmbgeomError(f"{self.path} changed while it was read: convert again")
        return data


@dataclass(frozen=True)
class LocalFolder:
    """A model folder on this machine."""

    path: Path
    model: str
    revision: str
    asked: str = ""

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def has(self, file: str) -> bool:
        """Whether the folder has that file. Raises InputError if it cannot be looked at."""
        try:
            return (self.path / file).exists()
        except OSError as error:
            raise InputError(cannot_read(self.path / file, error)) from error

    def names(self) -> list[str]:
        """Return the files down to three folders deep, broken links included. Raises InputError as `has` does."""
        found: list[str] = []
        left = [(self.path, "")]
        while left and len(found) < _MOST_NAMES:
            directory, prefix = left.pop()
            try:
                entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
            except OSError as error:
                if prefix:  # a subfolder that cannot be read is left out
                    continue
                raise InputError(cannot_read(directory, error)) from error
            folders = {entry.name for entry in entries if _is_folder(entry)}
            found += [f"{prefix}{entry.name}" for entry in entries if entry.name not in folders]
            if prefix.count("/") < _MOST_DEPTH:
                left += [(directory / name, f"{prefix}{name}/") for name in sorted(folders)]
        return found

    def open(self, file: str) -> LocalFile:
        """Open a file of the folder. Raises InputError if it cannot be read."""
        return LocalFile.open(self.path / file)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder; a link that leads to itself is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def check_entries(directory: Path) -> None:
    """Check the entries of a folder before other libraries, which set no limits, read its files.

    Raises InputError if the folder cannot be listed, or contains a pipe, a device or a tokenizer file above 512 MiB.
    """
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    status = Path(entry).stat()
                except OSError:  # a broken link: an error only if that file is needed
                    continue
                if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                    raise InputError(f"{entry.path} {_NO_FILE}")
                if status.st_size > _MOST_TOKENIZER and _TOKENIZER.match(entry.name):
                    raise InputError(f"{entry.path} has {status.st_size} bytes, no tokenizer's file: move it away")
    except NotADirectoryError:  # a checkpoint that is one file
        return
    except OSError as error:
        raise InputError(cannot_read(directory, error)) from error


def cannot_read(path: Path, error: OSError) -> str:
    """Say in one line why a file or a folder cannot be read."""
    with suppress(OSError):
        target = path.readlink()
        if isinstance(error, FileNotFoundError):
            return f"{path} is a link to {target}, which is not there: download the file again"
    return f"cannot read {shorten(path, 300)}: {error.strerror}"


def _open(path: Path) -> FileIO:
    """Open a file for reading; O_NONBLOCK, because opening a pipe would wait for a writer."""
    return FileIO(path, opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))


def _stamp(descriptor: int) -> tuple[int, int, int]:
    status = os.fstat(descriptor)
    return status.st_ino, status.st_size, status.st_mtime_ns
