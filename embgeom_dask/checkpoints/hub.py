"""Checkpoints on the Hugging Face hub: the commit is pinned, small files are downloaded, weights are read by ranges.

`huggingface_hub` sends the user's token to the hub only, not to the hosts that the hub redirects to.
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
from embgeom_dask.checkpoints.folder_advice import explain
from embgeom_dask.checkpoints.tokenizer_labels import VOCABULARIES
from embgeom_dask.errors import EmbgeomError, InputError

_ID = re.compile(r"(?P<model>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")
_FILES = (".safetensors", ".zarr", ".bin", ".npy", ".npz", ".pt", ".pth", ".ckpt", ".json", ".gguf", ".txt")
_INDEX = "model.safetensors.index.json"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_SMALL = frozenset(("config.json", "README.md", _INDEX, *_TOKENIZER))
_MOST_SMALL = 512 << 20  # bytes of a file that is downloaded whole
_RETRIED = (408, 429, 500, 502, 503, 504)

TransportError = hub_errors.HTTPError  # raised by the HTTP client of huggingface_hub
_FAILURES = (TransportError, hub_errors.OfflineModeIsEnabled, hub_errors.FileMetadataError, OSError)


def parse(source: str) -> tuple[str, str | None] | None:
    """Split `organisation/name[@revision]` or `name[@revision]` into model and revision; None if it is neither."""
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
    """A file on the hub, read by byte ranges: `name` is for messages, `size` is in bytes."""

    name: str
    url: str
    size: int
    model: str

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes start..stop-1. Raises EmbgeomError if the hub does not deliver them."""
        step = tuning.HUB_REQUEST_BYTES
        parts = ((at, min(at + step, stop)) for at in range(start, stop, step))
        with _explained(self.model):
            return b"".join(self._request(*part) for part in parts)

    def _request(self, start: int, stop: int) -> bytes:
        """Request bytes start..stop-1; huggingface_hub repeats it after no answer and after a status of `_RETRIED`."""
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
                except TransportError:  # the connection broke: request again
                    continue
            if len(body) == stop - start:
                return bytes(body)
        raise EmbgeomError(f"{self.name} was cut off {tuning.HUB_CUTS} times in a row: run the same command again")


@dataclass(frozen=True)
class HubFolder:
    """A model on the hub at the commit `revision`. `path` is the folder of its small files in the hub's cache."""

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
        """Return the names of all files of the model."""
        return list(self.files)

    def open(self, file: str) -> LocalFile | RemoteFile:
        """Open a file: from the hub's cache if it is there, else on the hub. Raises EmbgeomError as `read` does."""
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
    """Pin the commit of a model and download its small files; with HF_HUB_OFFLINE, use the hub's cache instead.

    Parameters
    ----------
    model : str
        `organisation/name`, or `name`.
    revision : str, optional
        A commit, branch or tag; by default the main branch.

    Returns
    -------
    HubFolder or LocalFolder
        The model at that commit, or its folder in the cache.

    Raises
    ------
    InputError
        If the hub has no such model or revision, if the model has no safetensors files, if the user may not read it, or
        if HF_HUB_OFFLINE is set and the model is not in the cache.
    EmbgeomError
        If the hub cannot be reached, or answers with an error of its own.
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
    """Return the files to download: config, index, model card, and `tokenizer.json` or else the vocabulary files."""
    small = set(files & _SMALL)
    if "model.safetensors" in files:
        small.discard(_INDEX)
    if "tokenizer.json" not in files:
        patterns = (*VOCABULARIES, "merges.txt")
        small |= {file for file in files if "/" not in file and any(fnmatch(file, pattern) for pattern in patterns)}
    return small


@contextmanager
def _explained(model: str, revision: str | None = None) -> Iterator[None]:
    """Turn the errors of huggingface_hub into one line each; their own messages contain URLs, which may be signed."""
    try:
        yield
    except (EmbgeomError, hub_errors.HFValidationError):
        raise
    except (hub_errors.LocalEntryNotFoundError, *_FAILURES) as error:
        # If the hub cannot be reached, the error says that a file is not in the cache; its cause says why.
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
