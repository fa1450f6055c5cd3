"""Object stores on the loopback: Google's, by its JSON API, and the buckets of a Hugging Face hub, by xet's protocol.

Both keep what they are given in this process, as moto keeps what S3 is given.
"""

from __future__ import annotations

import json
import re
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.loopback import Handler, Server

SECRET = "hf_secretsecretsecret"

GS_ENVIRONMENT = {"NO_GCE_CHECK": "true", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
"""What keeps gcsfs from asking Google itself: who it is, and of what kind a bucket is. Read when it is imported."""

HF_ENVIRONMENT = {
    "HF_TOKEN": SECRET,
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_XET_CLIENT_LEGACY_DIRECT_XORB_UPLOAD": "1",
    "HF_XET_CLIENT_SHARD_API_VERSION": "1",
    "HF_XET_XORB_COMPRESSION_POLICY": "none",
}
"""What lets the hub's client speak the part of its protocol that is served here."""


@dataclass
class Buckets:
    """What is stored: of each bucket, by key, the bytes and when they came. `requests` are all that were asked."""

    objects: dict[str, dict[str, tuple[bytes, str]]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    xorbs: dict[bytes, list[bytes]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def put(self, bucket: str, key: str, data: bytes) -> None:
        when = datetime.now(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
        self.objects[bucket][key] = data, when


class _Handler(Handler):
    buckets: Buckets

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        body = self._body()
        with self.buckets.lock:
            self.buckets.requests.append(f"{self.command} {unquote(parts.path)}")
            self.serve(parts.path, body)

    do_HEAD = do_POST = do_DELETE = do_GET

    def serve(self, path: str, body: bytes) -> None:
        raise NotImplementedError

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, found: Any, **headers: str) -> None:
        self.answer(200, json.dumps(found).encode(), Content_Type="application/json", **headers)

    def answer_range(self, data: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            self.answer(200, data)
            return
        start = int(asked[1]) if asked[1] else max(0, len(data) - int(asked[2]))
        stop = min(int(asked[2]) + 1, len(data)) if asked[1] and asked[2] else len(data)
        if start >= len(data):
            self.answer(416)
        else:
            self.answer(206, data[start:stop], Content_Range=f"bytes {start}-{stop - 1}/{len(data)}")


class Google(_Handler):
    """Google Cloud Storage: https://cloud.google.com/storage/docs/json_api/v1."""

    def serve(self, path: str, body: bytes) -> None:
        path = path.removeprefix("/download")
        if path == "/batch/storage/v1":
            self.delete_many(body.decode())
        elif path == "/storage/v1/b" and self.command == "POST":
            self.buckets.objects.setdefault(json.loads(body)["name"], {})
            self.answer_json({})
        elif found := re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", path):
            self.upload(found[1], body)
        elif (found := re.fullmatch(r"/storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?", path)) is None:
            self.answer(501)
        elif (objects := self.buckets.objects.get(found[1])) is None:
            self.answer(404, b"no such bucket")
        elif path == f"/storage/v1/b/{found[1]}":
            self.answer_json({"name": found[1]})
        elif not found[2]:
            self.list(objects)
        elif (key := unquote(found[2])) not in objects:
            self.answer(404, b"no such object")
        elif self.command == "DELETE":
            del objects[key]
            self.answer(204)
        elif self.query.get("alt") == "media":
            self.answer_range(objects[key][0])
        else:
            self.answer_json(self.facts(key, *objects[key]))

    def facts(self, key: str, data: bytes, when: str) -> dict[str, Any]:
        return {"name": key, "size": str(len(data)), "updated": when, "timeCreated": when, "generation": "1"}

    def upload(self, bucket: str, body: bytes) -> None:
        assert self.query["uploadType"] == "multipart"
        (boundary,) = re.findall(r'boundary="(.*)"', self.headers["Content-Type"])
        _, about, rest = body.split(f"--{boundary}".encode(), 2)
        key = json.loads(about.partition(b"\n\n")[2])["name"]
        data = rest.removesuffix(f"\n--{boundary}--".encode()).partition(b"\n\n")[2]
        objects = self.buckets.objects.get(bucket)
        if objects is None:
            self.answer(404, b"no such bucket")
        elif self.query.get("ifGenerationMatch") == "0" and key in objects:
            self.answer(412, b"it is there")
        else:
            self.buckets.put(bucket, key, data)
            self.answer_json(self.facts(key, *objects[key]))

    def list(self, objects: Mapping[str, tuple[bytes, str]]) -> None:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter")
        items, prefixes = [], set()
        for key in sorted(each for each in objects if each.startswith(prefix)):
            if delimiter and delimiter in key[len(prefix) :]:
                prefixes.add(prefix + key[len(prefix) :].partition(delimiter)[0] + delimiter)
            else:
                items.append(self.facts(key, *objects[key]))
        self.answer_json({"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def delete_many(self, body: str) -> None:
        answers = []
        for bucket, key in re.findall(r"DELETE /storage/v1/b/([^/]+)/o/(\S+) HTTP", body):
            gone = self.buckets.objects.get(unquote(bucket), {}).pop(unquote(key), None)
            answers.append("HTTP/1.1 204 No Content" if gone else 'HTTP/1.1 404 Not Found\n\n{"error": {"code": 404}}')
        text = "".join(f"--batch\nContent-Type: application/http\n\n{each}\n\n" for each in answers) + "--batch--"
        self.answer(200, text.encode(), Content_Type="multipart/mixed; boundary=batch")


class HuggingFace(_Handler):
    """Buckets of a hub: https://huggingface.co/docs/hub/storage-buckets and https://huggingface.co/docs/xet."""

    def serve(self, path: str, body: bytes) -> None:
        if found := re.fullmatch(r"/v1/(chunks|xorbs)/[\w-]+/([0-9a-f]{64})", path):
            self.answer(404) if found[1] == "chunks" else self.take_xorb(found[2], body)
        elif path == "/v1/shards":
            self.take_shard(body)
        elif (found := re.fullmatch(r"(?:/api)?/buckets/([^/]+/[^/]+)(?:/([\w-]+)(?:/(.+))?)?", path)) is None:
            self.answer(501)
        elif self.headers["Authorization"] != f"Bearer {SECRET}":
            self.answer(401, X_Error_Code="RepoNotFound")
        elif (objects := self.buckets.objects.get(found[1])) is None:
            self.answer(404, X_Error_Code="RepoNotFound")
        else:
            self.serve_bucket(found[1], objects, found[2] or "", unquote(found[3] or ""), body)

    def serve_bucket(
        self, bucket: str, objects: dict[str, tuple[bytes, str]], what: str, key: str, body: bytes
    ) -> None:
        if not what:
            sizes = {"size": sum(len(data) for data, _ in objects.values()), "totalFiles": len(objects)}
            self.answer_json({"id": bucket, "private": True, "createdAt": "2026-01-01T00:00:00.000Z", **sizes})
        elif what.startswith("xet-"):
            here = f"http://{self.headers['Host']}"
            facts = {"casUrl": here, "accessToken": "xet", "exp": int(time.time()) + 3600}
            more = {"X_Xet_Cas_Url": here, "X_Xet_Access_Token": "xet", "X_Xet_Token_Expiration": str(facts["exp"])}
            self.answer_json(facts, **more)
        elif what == "tree":
            self.list(objects, key)
        elif what == "batch":
            for line in body.splitlines():
                self.change(bucket, objects, json.loads(line))
            self.answer_json({"success": True, "failed": []})
        elif what == "resolve" and key in objects:
            self.answer_range(objects[key][0])
        else:
            self.answer(404, X_Error_Code="EntryNotFound")

    def change(self, bucket: str, objects: dict[str, tuple[bytes, str]], asked: Mapping[str, str]) -> None:
        if asked["type"] == "deleteFile":
            objects.pop(asked["path"], None)
        else:
            self.buckets.put(bucket, asked["path"], self.buckets.files[asked["xetHash"]])

    def list(self, objects: Mapping[str, tuple[bytes, str]], prefix: str) -> None:
        """Answer what is in a folder, or all that is below: names, of any folder, that begin with `prefix`."""
        found: dict[str, dict[str, Any]] = {}
        for key, (data, when) in sorted(objects.items()):
            rest = key.removeprefix(f"{prefix}/" if prefix and key != prefix else "")
            if not key.startswith(prefix):
                continue
            if "/" in rest and self.query.get("recursive") != "true" and key.startswith(f"{prefix}/" if prefix else ""):
                folder = key[: len(key) - len(rest)] + rest.partition("/")[0]
                found[folder] = {"type": "directory", "path": folder, "uploadedAt": when}
            else:
                facts = {"size": len(data), "xetHash": "0" * 64, "mtime": when, "uploadedAt": when}
                found[key] = {"type": "file", "path": key, **facts}
        self.answer_json(list(found.values()))

    def take_xorb(self, name: str, body: bytes) -> None:
        """Keep the chunks of a xorb: each has 8 bytes before it, its lengths compressed and plain in 24 bits each."""
        chunks, at = [], 0
        while at < len(body) and body[at] == 0:
            length = int.from_bytes(body[at + 1 : at + 4], "little")
            assert body[at + 4] == 0, "a chunk is compressed"
            chunks.append(body[at + 8 : at + 8 + length])
            at += 8 + length
        self.buckets.xorbs[_raw(name)] = chunks
        self.answer_json({"was_inserted": True})

    def take_shard(self, body: bytes) -> None:
        """Put files together: after a header come, of each, its hash and the ranges of chunks that it is made of."""
        at = 48
        while (name := body[at : at + 32]) != b"\xff" * 32:
            flags, count = struct.unpack_from("<II", body, at + 32)
            whole = b""
            for entry in range(at + 48, at + 48 * (1 + count), 48):
                start, stop = struct.unpack_from("<II", body, entry + 40)
                whole += b"".join(self.buckets.xorbs[body[entry : entry + 32]][start:stop])
            self.buckets.files[_hexadecimal(name)] = whole
            at += 48 * (1 + count * (1 + (flags >> 31)) + (flags >> 30 & 1))
        self.answer_json({"result": 1})


def _raw(name: str) -> bytes:
    """The bytes of a hash of xet, which is written as four numbers of 64 bits."""
    return struct.pack("<4Q", *(int(name[i : i + 16], 16) for i in range(0, 64, 16)))


def _hexadecimal(raw: bytes) -> str:
    return "".join(f"{part:016x}" for part in struct.unpack("<4Q", raw))


@contextmanager
def serve(kind: type[_Handler], address: str = "127.0.0.1") -> Iterator[tuple[str, Buckets]]:
    """Serve `Google` or `HuggingFace` until left; yield the address and what is stored."""
    buckets = Buckets()
    handler = type(kind.__name__, (kind,), {"buckets": buckets})
    with Server((address, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{address}:{server.server_port}", buckets
        server.shutdown()
