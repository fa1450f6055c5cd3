"""A headless Chromium for tests, driven through a pair of pipes by its DevTools protocol."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PROGRAM = next((found for name in NAMES if (found := shutil.which(name))), None)
MISSING = (
    "no Chromium here: apt-get install chromium"
    if PROGRAM is None
    else "Chromium is driven through pipes, which Windows has others of"
    if sys.platform == "win32"
    else ""
)
SECONDS = 60.0
"""How long the browser may take to answer: a machine may be busy."""

_FLAGS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-default-browser-check", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--mute-audio"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--force-device-scale-factor=1", "--disable-features=Translate"),
    "--enable-unsafe-swiftshader",  # WebGL without a graphics card
)


class Browser:
    """A page of Chromium: what it is told, and what it says of itself."""

    def __init__(self, told: int, said: int) -> None:
        self._told, self._said = told, said
        self._buffer = b""
        self._last = 0
        self._session = ""
        self.events: list[dict[str, Any]] = []
        page = self._ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._ask("Target.attachToTarget", {"targetId": page, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is there."""
        self.events.clear()
        self._ask("Page.navigate", {"url": url})
        self.run("new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))")
        self.run("new Promise(done => requestAnimationFrame(done))")

    def run(self, code: str) -> Any:
        """Return what an expression of JavaScript gives, a promise what it ends in."""
        how = {"expression": code, "awaitPromise": True, "returnByValue": True}
        found = self._ask("Runtime.evaluate", how)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str) -> Any:
        """Return what an expression gives once that is true."""
        end = time.monotonic() + SECONDS
        while not (found := self.run(condition)):
            assert time.monotonic() < end, f"never true: {condition}"
            self.run("new Promise(done => setTimeout(done, 50))")
        return found

    def size(self, width: int, height: int) -> None:
        """Make the window so many pixels wide and high."""
        how = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", how)

    def theme(self, name: str) -> None:
        """Be a browser whose user prefers pages that are "light" or "dark"; with "", says nothing of it."""
        how = {"features": [{"name": "prefers-color-scheme", "value": name}]}
        self._ask("Emulation.setEmulatedMedia", how)

    def move(self, x: float, y: float) -> None:
        """Move the pointer to a place of the window."""
        self._ask("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})

    def middle(self, selector: str) -> tuple[float, float]:
        """Scroll to what a selector finds, and return where the middle of it is."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{found}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        x, y, width, height = self.run(f"(b => [b.x, b.y, b.width, b.height])({found}.getBoundingClientRect())")
        return x + width / 2, y + height / 2

    def click(self, selector: str) -> None:
        """Click what a selector finds, as a pointer does."""
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            how = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
            self._ask("Input.dispatchMouseEvent", how)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self._ask("Input.insertText", {"text": text})

    def screenshot(self, path: Path, *, whole: bool = False, clip: dict[str, float] | None = None) -> None:
        """Write what is seen as a PNG; `whole`, the page from top to bottom."""
        how: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole or clip is not None}
        if clip is not None:
            how["clip"] = {"scale": 1, **clip}
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", how)["data"]))

    def of(self, *methods: str) -> list[dict[str, Any]]:
        """The events of some kinds since the page was opened."""
        self.run("0")  # what came before it has come
        return [event["params"] for event in self.events if event["method"] in methods]

    def _ask(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": params or {}}
        message |= {"sessionId": self._session} if self._session else {}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._told, data) :]
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer["error"])
                found: dict[str, Any] = answer["result"]
                return found
            if "method" in answer:
                self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._said], [], [], max(0, end - time.monotonic()))
            assert ready, f"the browser says nothing for {SECONDS:g} s"
            data = os.read(self._said, 1 << 16)
            assert data, "the browser is gone"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Start Chromium with its profile in `folder`; it and all its processes end with this."""
    assert PROGRAM is not None
    flags = [*_FLAGS, f"--user-data-dir={folder}", *(["--no-sandbox"] if os.getuid() == 0 else [])]
    own, ours = os.pipe(), os.pipe()
    # The shell gives the ends of the pipes the numbers that Chromium reads and writes, 3 and 4.
    reads, writes = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (own[0], ours[1]))
    start = f'exec "$0" "$@" 3<&{reads} 4>&{writes} {reads}<&- {writes}>&-'
    environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    process = subprocess.Popen(
        ["bash", "-c", start, PROGRAM, *flags, "about:blank"],
        pass_fds=(reads, writes),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    for end in (own[0], ours[1], reads, writes):
        os.close(end)
    try:
        yield Browser(own[1], ours[0])
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(own[1])
        os.close(ours[0])
