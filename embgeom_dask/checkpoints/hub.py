"""Checkpoints on the Hugging Face hub: a pinned commit, its small files downloaded, its weights read by ranges.

The user's own hub token travels as the hub's library sends it: to the hub alone, not to where the hub redirects to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff, validate_repo_id

from embgeom_dask import tuning
from embgeom_dask.checkpoints.files import LocalFile, LocalFolder
from embgeom_dask.checkpoints.labels import VOCABULARIES
from embgeom_dask.checkpoints.layouts import explain
from embgeom_dask.errors import EmbgeomError, InputError

_ID = re.compile(r"(?P<model>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")
_FILES = (".safetensors", ".zarr", ".bin", ".npy", ".npz", ".pt", ".pth", ".ckpt", ".json", ".gguf", ".txt")
_INDEX = "model.safetensors.index.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_SMALL = frozenset(("config.json", "README.md", _INDEX, *_TOKENIZER))
_MOST_SMALL = 512 << 20  # bytes of a file that is downloaded whole
_RETRIED = (408, 429, 500, 502, 503, 504)

TransportError = hub_errors.HTTPError  # what the library's client raises
_FAILURES = (TransportError, hub_errors.OfflineModeIsEnabled, hub_errors.FileMetadataError, OSError)


def parse(source: str) -> tuple[str, str | None] | None:
    """Return model and revision where `source` looks like `organisation/name[@revision]` or `name[@revision]`."""
    found = _ID.fullmatch(source)
    if found is None or found["model"].lower().endswith(_FILES):
        return None
    try:
        validate_repo_id(found["model"])
    except hub_errors.HFValidationError:
        return None
    return found["model"], found["revision"]


@dataclass(frozen=True)
class RemoteFile:
    """A file of `size` bytes at a URL of the hub, read by ranges; `name` tells it in messages."""

    name: str
    url: str
    size: int
    model: str

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes start..stop-1. Raises EmbgeomError where the hub cannot be had to give them."""
        step = tuning.HUB_REQUEST_BYTES
        parts = ((at, min(at + step, stop)) for at in range(start, stop, step))
        with _explained(self.model):
            return b"".join(self._request(*part) for part in parts)

    def _request(self, start: int, stop: int) -> bytes:
        """One request; the library waits and tries again where there is no answer or one of `_RETRIED`."""
        wanted = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        for _ in range(tuning.HUB_CUTS):
            with http_stream_backoff(
                "GET",
                self.url,
                headers=build_hf_headers(headers=wanted),
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
                max_retries=tuning.HUB_TRIES,
                base_wait_time=tuning.HUB_WAIT,
                retry_on_status_codes=_RETRIED,
            ) as response:
                hf_raise_for_status(response)
                given = response.headers.get("Content-Range")
                if response.status_code != 206 or given != f"bytes {start}-{stop - 1}/{self.size}":
                    host = urlsplit(str(response.url)).hostname
                    raise EmbgeomError(
                        f"{host} was asked for bytes {start}-{stop - 1} of {self.name} and sends "
                        f"{given or 'the whole file'}: download the model, then convert its folder"
                    )
                body = bytearray()
                try:
                    for piece in response.iter_raw():
                        body += piece
                        if len(body) > stop - start:
                            break
                except TransportError:  # the connection broke
                    continue
            if len(body) == stop - start:
                return bytes(body)
        raise EmbgeomError(f"{self.name} was cut off {tuning.HUB_CUTS} times in a row: run the same command again")


@dataclass(frozen=True)
class HubFolder:
    """A model on the hub at one commit, `revision`. `path` is where the hub's library keeps its small files."""

    model: str
    revision: str
    path: Path
    files: frozenset[str]
    asked: str = ""

    @property
    def name(self) -> str:
        """The hub id."""
        return self.model

    def has(self, file: str) -> bool:
        """Whether the model has that file."""
        return file in self.files

    def names(self) -> list[str]:
        """Return all files of the model."""
        return list(self.files)

    def open(self, file: str) -> LocalFile | RemoteFile:
        """Return the bytes of a file: those of the hub's cache where it is there, else those on the hub."""
        cached = try_to_load_from_cache(self.model, file, revision=self.revision)
        if isinstance(cached, str):
            return LocalFile.open(Path(cached))
        url = hf_hub_url(self.model, file, revision=self.revision)
        with _explained(self.model):
            metadata = get_hf_file_metadata(url, retry_on_errors=True)
        if metadata.size is None:
            raise EmbgeomError(f"the hub does not say how long {file} of {self.model} is: download it, then convert it")
        return RemoteFile(f"{self.model}/{file}", url, metadata.size, self.model)


def open_folder(model: str, revision: str | None) -> HubFolder | LocalFolder:
    """Pin the commit of a model and download its small files; offline, take what the hub's cache has.

    Raises
    ------
    InputError
        Where the hub has no such model, revision or safetensors files, or does not let this user read them, or where
        the hub is not to be asked (HF_HUB_OFFLINE) and the model is not in the cache.
    EmbgeomError
        Where the hub cannot be reached, or answers with an error of its own.
    """
    with _explained(model, revision):
        try:
            info = HfApi().model_info(
                model, revision=revision, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, files_metadata=True
            )
        except hub_errors.OfflineModeIsEnabled:
            cached = try_to_load_from_cache(model, "config.json", revision=revision)
            if not isinstance(cached, str):
                raise
            return LocalFolder(Path(cached).parent, model, Path(cached).parent.name, revision or "")
        files = frozenset(sibling.rfilename for sibling in info.siblings or ())
        commit = str(info.sha)
        if not any("/" not in file and file.endswith(".safetensors") for file in files):
            kinds = ", ".join(
                sorted({Path(file).name for file in files if file.endswith((".bin", ".gguf", ".pt"))})[:3]
            )
            remedy = f"download it (hf download {model}), then convert its folder"
            if not kinds:
                remedy = explain(HubFolder(model, commit, Path(), files))
            raise InputError(
                f"{model} has no safetensors weights on the hub{f', only {kinds}' if kinds else ''}: {remedy}"
            )
        for sibling in info.siblings or ():
            if (sibling.size or 0) > _MOST_SMALL and sibling.rfilename in _small(files):
                raise InputError(
                    f"{sibling.rfilename} of {model} has {sibling.size} bytes on the hub, no config or tokenizer: "
                    "download what you trust of it, then convert its folder"
                )
        paths = [hf_hub_download(model, file, revision=commit) for file in sorted(_small(files))]
    if not paths:
        raise InputError(f"{model} has no config on the hub: download its weights, then convert them with `output_key`")
    return HubFolder(model, commit, Path(paths[0]).parent, files, revision or "")


def _small(files: frozenset[str]) -> set[str]:
    """The config, the index, the model card, and what a tokenizer is made of: its one fast file, or the others."""
    small = set(files & _SMALL)
    if "model.safetensors" in files:
        small.discard(_INDEX)
    if "tokenizer.json" not in files:
        patterns = (*VOCABULARIES, "merges.txt")
        small |= {file for file in files if "/" not in file and any(fnmatch(file, pattern) for pattern in patterns)}
    return small


@contextmanager
def _explained(model: str, revision: str | None = None) -> Iterator[None]:
    """Raise what the hub's library raises as one line. Its own messages hold URLs, which may be signed."""
    try:
        yield
    except (EmbgeomError, hub_errors.HFValidationError):
        raise
    except (hub_errors.LocalEntryNotFoundError, *_FAILURES) as error:
        # a download that cannot reach the hub says that a file is not in the cache, and why in its cause
        cause = error.__cause__ if isinstance(error, hub_errors.LocalEntryNotFoundError) else error
        raise _explain(cause or error, model, revision) from error


def _explain(error: BaseException, model: str, revision: str | None) -> EmbgeomError:
    hub = constants.ENDPOINT
    match error:
        case hub_errors.OfflineModeIsEnabled():
            return InputError(f"no checkpoint at {model}, nor in the hub's cache: unset HF_HUB_OFFLINE to ask the hub")
        case hub_errors.GatedRepoError() if get_token():
            return InputError(f"{model} is gated and your token does not open it: ask for access at {hub}/{model}")
        case hub_errors.GatedRepoError():
            return InputError(f"{model} is gated: accept its terms at {hub}/{model}, then log in with hf auth login")
        case hub_errors.RepositoryNotFoundError():
            remedy = "check the name; a private model needs hf auth login"
            return InputError(f"no checkpoint at {model}: neither here nor on {hub}: {remedy}")
        case hub_errors.RevisionNotFoundError():
            return InputError(f"{model} has no revision {revision!r}: see {hub}/{model}/commits/main")
        case hub_errors.DisabledRepoError():
            return InputError(f"the hub has disabled {model}: nobody can download it")
        case hub_errors.RemoteEntryNotFoundError():
            file = urlsplit(str(error.response.url)).path.rpartition("/")[2]
            return InputError(f"{model} has no file {file} on the hub, though its listing or its index says so")
        case hub_errors.HfHubHTTPError():
            status = error.response.status_code
            if status == 401:
                return InputError(f"the hub does not accept your token (401) for {model}: hf auth login")
            if status == 403:
                return InputError(f"the hub does not let you read {model} (403): ask for access at {hub}/{model}")
            return EmbgeomError(f"the hub answers {status} for {model}: run the same command again later")
        case TransportError():
            reason = " ".join(str(error).split()) or type(error).__name__
            remedy = "run the same command again, or set HF_HUB_OFFLINE=1 to use what is in the hub's cache"
            return EmbgeomError(f"cannot reach {hub} for {model} ({reason}): {remedy}")
    reason = str(getattr(error, "strerror", None) or error).split("\n")[0]
    return EmbgeomError(f"cannot get {model} from {hub}: {reason}")
