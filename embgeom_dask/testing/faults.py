"""Faults of a disk, at any one of the calls that a piece of work makes: a kill, a power cut, an error.

What a process that is killed leaves is what an exception leaves after which no call changes the disk: no process needs
to die for it. `Disk.changed_after_death` checks that there is no way around the calls watched.
"""

from __future__ import annotations

import builtins
import fcntl
import hashlib
import io
import os
import re
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

_RANDOM = re.compile(r"(?<=\.)[0-9a-f]{8,32}(?=\.|/|$)")
_PATHS = {"mkdir": 1, "rmdir": 1, "unlink": 1, "remove": 1, "rename": 2, "replace": 2, "link": 2, "symlink": 2}
"""The functions of `os` that change a folder, and how many of their first arguments are paths."""


_Names = list[tuple[Path | None, Path, Path | None]]
"""Names that were given, in order: the name before (None: it was made), the name, and what had it before."""


class Killed(BaseException):
    """The process is killed here: not an Exception, so that no handler of errors runs on.

    Examples
    --------
    >>> issubclass(Killed, Exception)
    False
    """


class Disk:
    """Watches what this process does below a folder while entered; one call meets a fault.

    Parameters
    ----------
    root : Path
        The folder.
    at : str, optional
        The call that meets the fault, by the name that it had in `calls` when the same work was done before.
    fault : BaseException, optional
        What is raised there: `Killed()`, from which on nothing changes the folder, or an error such as OSError.

    Attributes
    ----------
    calls : list of str
        Every call, in order: what, the path below the folder (random parts of it as `*`) and the how manieth.
    met : bool
        Whether the fault was raised.
    dead : bool
        Whether it was a kill.

    Notes
    -----
    It replaces functions of `os` and `open` of the whole process, and reads /proc: for Linux.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> folder = Path(mkdtemp())
    >>> def work():
    ...     (folder / "new").write_text("new")
    ...     (folder / "new").replace(folder / "old")
    >>> with Disk(folder) as disk:
    ...     work()
    >>> disk.calls
    ['make new 1', 'write new 1', 'replace old 1']

    The same work, killed where it would move the file into place:

    >>> (folder / "old").write_text("old")
    3
    >>> with suppress(Killed), Disk(folder, "replace old 1", Killed()) as disk:
    ...     work()
    >>> disk.met, disk.changed_after_death, (folder / "old").read_text()
    (True, False, 'old')

    And then the power fails: what was never synced is lost.

    >>> disk.cut_power("names")
    >>> sorted(path.name for path in folder.iterdir())
    ['old']
    """

    def __init__(self, root: Path, at: str | None = None, fault: BaseException | None = None) -> None:
        self.root, self.at, self.fault = Path(os.path.realpath(root)), at, fault
        self.calls: list[str] = []
        self.met = self.dead = False
        self._counts: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._real: dict[str, Any] = {}
        self._open: dict[int, Path] = {}  # descriptors of os.open
        self._dirty: set[int] = set()  # inodes of files with contents that are not synced
        self._named: _Names = []  # that are not synced
        self._at_death = ""
        self._unsynced: list[Path] = []

    def __enter__(self) -> Disk:
        self._real = {name: getattr(os, name) for name in (*_PATHS, "open", "close", "fsync")}
        for name, paths in _PATHS.items():
            setattr(os, name, self._changing(name, paths))
        for name, watched in (("open", self._os_open), ("close", self._os_close), ("fsync", self._fsync)):
            setattr(os, name, watched)
        self._real["file"] = builtins.open
        builtins.open = io.open = self._file
        return self

    def __exit__(self, *_: object) -> None:
        builtins.open = io.open = self._real["file"]
        for name in (*_PATHS, "open", "close", "fsync"):
            setattr(os, name, self._real[name])
        for descriptor in list(self._open):  # the end of a process ends its locks
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        files = [file for file in self.root.rglob("*") if file.is_file()]
        self._unsynced = [file for file in files if file.stat().st_ino in self._dirty]

    # What is watched

    def call(self, what: str, path: Path, *, changes: bool) -> None:
        """Name a call; raise the fault where this is the one."""
        with self._lock:
            if self.dead and changes:
                raise Killed
            name = f"{what} {_RANDOM.sub('*', str(path.relative_to(self.root)))}"
            self._counts[name] += 1
            name += f" {self._counts[name]}"
            self.calls.append(name)
            if name != self.at or self.met:
                return
            self.met = True
            assert self.fault is not None
            if isinstance(self.fault, Killed):
                if not changes:
                    return
                self.dead, self._at_death = True, fingerprint(self.root)
            raise self.fault

    def _below(self, path: Any, dir_fd: int | None = None) -> Path | None:
        if isinstance(path, int):
            return self._open.get(path)
        parent = _path_of(dir_fd) if dir_fd is not None else Path.cwd()
        whole = Path(os.path.normpath(parent / os.fsdecode(path)))
        return whole if whole.is_relative_to(self.root) and whole != self.root else None

    def _changing(self, name: str, paths: int) -> Callable[..., Any]:
        real = self._real[name]

        def changing(*args: Any, **how: Any) -> Any:
            below = [self._below(path, how.get("dir_fd")) for path in args[:paths]]
            if below[-1] is None:
                return real(*args, **how)
            with self._lock:
                self.call(name, below[-1], changes=True)
                replaced = self._keep(below[-1]) if name in ("rename", "replace") else None
                answer = real(*args, **how)
                if name in ("mkdir", "rename", "replace", "link", "symlink"):
                    self._name(below[-1], below[0] if name in ("rename", "replace") else None, replaced)
                return answer

        return changing

    def _keep(self, path: Path) -> Path | None:
        """Another name, outside, for the file that is about to be replaced."""
        if not path.is_file():
            return None
        kept = self.root.with_name(f"{self.root.name}.replaced") / uuid.uuid4().hex
        if not kept.parent.exists():
            self._real["mkdir"](kept.parent)
        self._real["link"](path, kept)
        return kept

    def _name(self, path: Path, source: Path | None, replaced: Path | None) -> None:
        if source is not None:  # with what is not synced in it
            self._named = _moved(self._named, source, path)
        self._named.append((source, path, replaced))

    def _os_open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        below, how = self._below(path, dir_fd), {} if dir_fd is None else {"dir_fd": dir_fd}
        if below is None:
            return int(self._real["open"](path, flags, mode, **how))
        with self._lock:
            made = bool(flags & os.O_CREAT) and not below.exists()
            self.call("make" if made else "open", below, changes=made)
            descriptor: int = self._real["open"](path, flags, mode, **how)
            self._open[descriptor] = below
            if made:
                self._name(below, None, None)
            return descriptor

    def _os_close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)
        self._real["close"](descriptor)

    def _fsync(self, descriptor: int) -> None:
        path = _path_of(descriptor)
        if not path.is_relative_to(self.root):
            self._real["fsync"](descriptor)
            return
        with self._lock:
            self.call("fsync", path, changes=True)
            self._named = [each for each in self._named if each[1].parent != path]
            self._dirty.discard(os.fstat(descriptor).st_ino)

    def _file(self, file: Any, mode: str = "r", buffering: int = -1, *args: Any, **how: Any) -> Any:
        below = None if isinstance(file, int) else self._below(file)
        if below is None or "opener" in how:
            return self._real["file"](file, mode, buffering, *args, **how)
        plain = mode.replace("t", "").replace("b", "")
        with self._lock:
            made = plain != "r" and not below.exists()
            self.call("make" if "r" not in plain else "open", below, changes="r" not in plain)
            raw = _Raw(self, below, plain)
            if made:
                self._name(below, None, None)
            if "r" not in plain:
                self._dirty.add(os.fstat(raw.fileno()).st_ino)
        if buffering == 0:
            return raw
        buffered: Any = io.BufferedReader(raw) if plain == "r" else io.BufferedWriter(raw)
        if "+" in plain:
            buffered = io.BufferedRandom(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *args, **how)

    # What is left

    @property
    def changed_after_death(self) -> bool:
        """Whether anything below the folder changed after the kill."""
        return self.dead and fingerprint(self.root) != self._at_death

    def cut_power(self, lost: Literal["contents", "names"], folder: Path | None = None) -> None:
        """Lose what was not synced when it died, in `folder`, a copy of what is left (default: there).

        Parameters
        ----------
        lost : {"contents", "names"}
            `contents`: every name is there, but a file that was not synced, or whose folder was not since it was made,
            is empty. `names`: files and folders that were made, and renames, are undone in folders that were not
            synced since, and files that were not synced are empty; what was removed stays so.
        folder : Path, optional
            The copy.
        """

        def copy(path: Path) -> Path:
            return (folder or self.root) / path.relative_to(self.root)

        named: _Names = [(source and copy(source), copy(path), replaced) for source, path, replaced in self._named]
        empty = [copy(path) for path in self._unsynced]
        if lost == "contents":
            moved = {path for source, path, _ in named if source is not None}
            empty += [path for source, path, _ in named if source is None and path not in moved]
        for file in empty:
            if file.is_file():
                file.unlink()  # it may have other names
                file.touch()
        while named and lost == "names":
            source, path, replaced = named.pop()
            if source is not None and source.parent.is_dir() and not os.path.lexists(source):
                if os.path.lexists(path):
                    path.rename(source)
                named = _moved(named, path, source)
            elif os.path.lexists(path):
                remove(path)
            if replaced is not None and path.parent.is_dir():
                shutil.copyfile(replaced, path)


def _moved(names: _Names, source: Path, path: Path) -> _Names:
    return [
        (before, path / name.relative_to(source) if name.is_relative_to(source) else name, kept)
        for before, name, kept in names
    ]


class _Raw(io.FileIO):
    """A file whose every read and write is a call."""

    def __init__(self, disk: Disk, path: Path, mode: str) -> None:
        super().__init__(path, mode)
        self._disk, self._path = disk, path

    def write(self, data: Any) -> int:
        if self._disk.dead:
            return len(memoryview(data).cast("B"))
        try:
            self._disk.call("write", self._path, changes=True)
        except Killed:
            if not self._disk.changed_after_death:
                super().write(memoryview(data).cast("B")[: len(data) // 2])  # a kill may come halfway
                self._disk._at_death = fingerprint(self._disk.root)
            raise
        self._disk._dirty.add(os.fstat(self.fileno()).st_ino)
        return super().write(data) or 0

    def readinto(self, buffer: Any) -> int:
        self._disk.call("read", self._path, changes=False)
        return super().readinto(buffer) or 0

    def readall(self) -> bytes:
        self._disk.call("read", self._path, changes=False)
        return super().readall()


def _path_of(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it.

    Parameters
    ----------
    path : Path
        What is removed.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> folder = Path(mkdtemp())
    >>> (folder / "inner").mkdir()
    >>> remove(folder)
    >>> folder.exists()
    False
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def fingerprint(folder: Path, unread: str = "(?!)", varying: str = "(?!)") -> str:
    """Return a digest of all names and contents below a folder; of random names only that they are there.

    Parameters
    ----------
    folder : Path
        What is read.
    unread : str
        A pattern: names that hold it are left out.
    varying : str
        A pattern: of contents below names that hold it only counts whether there are any.

    Returns
    -------
    str
        64 hexadecimal digits.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> folder = Path(mkdtemp())
    >>> empty = fingerprint(folder)
    >>> (folder / "note").write_text("one")
    3
    >>> fingerprint(folder) == empty, fingerprint(folder, unread="note") == empty
    (False, True)
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=lambda path: _RANDOM.sub("*", str(path))):
        name = _RANDOM.sub("*", str(path.relative_to(folder)))
        if re.search(unread, name):
            continue
        digest.update(f"{name}\0".encode())
        if path.is_file() and not path.is_symlink():
            with io.FileIO(path) as file:  # not by `open`, which may be watched
                content = file.readall()
            if re.search(varying, name):
                content = b"any" if content else b""
            digest.update(f"{len(content)}\0".encode() + content)
    return digest.hexdigest()
