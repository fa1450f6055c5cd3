"""A hub on the loopback: models of local folders, with the headers, redirects and faults of the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import close_session, constants

from embgeom_dask import tuning
from tests import loopback

SECRET = "hf_secretsecretsecret"


@dataclass
class Hub:
    """What it serves, how it misbehaves, and what it was asked for.

    `models` maps ids to folders. A range request is answered 503 as often as `busy` says, its body cut as often as
    `cut` says; with `deaf` ranges are ignored; a large range waits until `company` have been asked for at once. `gated`
    models are read with the token SECRET only. `sizes` are what it says of files instead of their own. Weights are sent
    from another host name, whose requests must not carry a token.
    """

    models: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    busy: int = 0
    cut: int = 0
    company: int = 0
    deaf: bool = False
    fail_after: int | None = None  # range requests that are answered before all are answered 503
    address: str = ""
    commits: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    lock: threading.Condition = field(default_factory=threading.Condition)

    def commit(self, model: str) -> str:
        """The commit of a model: of its files' names and bytes."""
        if model not in self.commits:
            digest = hashlib.sha1()
            for path in sorted(self.models[model].iterdir()):
                digest.update(path.name.encode() + path.read_bytes())
            self.commits[model] = digest.hexdigest()
        return self.commits[model]

    @property
    def weight_bytes(self) -> int:
        """Bytes of bodies that were sent of .safetensors files."""
        return sum(count for file, count in self.sent.items() if file.endswith(".safetensors"))

    def take(self, fault: str) -> bool:
        """Use up one of a number of faults."""
        with self.lock:
            left = getattr(self, fault)
            setattr(self, fault, max(0, left - 1))
            return left > 0


class Handler(loopback.Handler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {path}")
        if found := re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+))?", path):
            self.info(*found.groups())
        elif found := re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", path):
            self.resolve(*found.groups())
        elif found := re.fullmatch(r"/blobs/(.+)/([^/]+)", path):
            self.blob(*found.groups())
        else:
            self.answer(404)

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def refused(self, model: str, revision: str | None, *, reading: bool) -> bool:
        """Answer as the hub does where a model or revision is not there or not to be read."""
        if model not in self.hub.models:
            self.answer(401, X_Error_Code="RepoNotFound")
        elif revision not in (None, "main", "v1", self.hub.commit(model)):
            self.answer(404, X_Error_Code="RevisionNotFound")
        elif reading and model in self.hub.gated and self.headers["Authorization"] != f"Bearer {SECRET}":
            self.answer(403 if self.headers["Authorization"] else 401, X_Error_Code="GatedRepo")
        else:
            return False
        return True

    def info(self, model: str, revision: str | None) -> None:
        if not self.refused(model, revision, reading=False):
            files = [
                {"rfilename": path.name, "size": self.hub.sizes.get(path.name, path.stat().st_size)}
                for path in sorted(self.hub.models[model].iterdir())
            ]
            answer = {"id": model, "modelId": model, "sha": self.hub.commit(model), "siblings": files, "tags": []}
            self.answer(200, json.dumps(answer).encode(), Content_Type="application/json")

    def resolve(self, model: str, revision: str, file: str) -> None:
        if self.refused(model, revision, reading=True):
            return
        path = self.hub.models[model] / file
        commit = self.hub.commit(model)
        if not path.exists():
            self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            return
        data = path.read_bytes()
        etag = f'"{hashlib.sha1(data).hexdigest()}"'
        if not file.endswith(".safetensors"):
            self.count(file, data)
            self.answer(200, data, ETag=etag, X_Repo_Commit=commit)
            return
        other = self.hub.address.replace("127.0.0.1", "localhost")
        facts = {"X_Linked_Size": str(len(data)), "X_Linked_ETag": etag, "X_Repo_Commit": commit}
        self.answer(302, Location=f"{other}/blobs/{model}/{file}?signature={SECRET[::-1]}", **facts)

    def blob(self, model: str, file: str) -> None:
        hub, data = self.hub, (self.hub.models[model] / file).read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        if self.headers["Authorization"] or not self.headers["Host"].startswith("localhost"):
            hub.leaks.append(self.path)
        if asked is None or hub.deaf:
            self.count(file, data)
            self.answer(200, data)
            return
        with hub.lock:
            answered = len(hub.ranges)
        if hub.take("busy") or (hub.fail_after is not None and answered >= hub.fail_after):
            self.answer(503)
            return
        start, stop = int(asked[1]), int(asked[2]) + 1
        body = data[start:stop]
        with hub.lock:
            hub.ranges.append((file, start, stop))
            hub.in_flight += 1
            hub.most_in_flight = max(hub.in_flight, hub.most_in_flight)
            hub.lock.notify_all()
            if stop - start > 1 << 20:
                hub.lock.wait_for(lambda: hub.most_in_flight >= hub.company, timeout=20)
        if hub.take("cut"):
            body = body[: len(body) // 2]
        self.count(file, body)
        length = str(stop - start)
        self.answer(206, body, Content_Range=f"bytes {start}-{stop - 1}/{len(data)}", Content_Length=length)
        self.close_connection = len(body) < stop - start
        with hub.lock:
            hub.in_flight -= 1

    def count(self, file: str, body: bytes) -> None:
        if self.command == "GET":
            with self.hub.lock:
                self.hub.sent[file] = self.hub.sent.get(file, 0) + len(body)


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub on a free port of the loopback."""
    hub = Hub()
    server = loopback.Server(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def taken_for_the_real_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve a hub that the hub's library takes for the real one; its cache, in `folder`, is empty."""
    with serve() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        template = served.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        close_session()
        with tuning.override(HUB_WAIT=0.01):
            yield served
        close_session()
