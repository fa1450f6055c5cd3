"""A way to a server that can be cut for a while."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Proxy:
    """A way to a server that can be cut: connections through it are closed then, and new ones at once."""

    def __init__(self, server: str) -> None:
        host, _, port = server.removeprefix("http://").partition(":")
        self._server = host, int(port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        self.cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            caller, _ = self._listening.accept()
            if self.cut:
                caller.close()
                continue
            try:
                server = socket.create_connection(self._server)
            except OSError:  # the server has ended: who calls is told at once
                caller.close()
                continue
            self._open |= {caller, server}
            for one, other in ((caller, server), (server, caller)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while received := one.recv(1 << 16):
                other.sendall(received)
        for each in (one, other):
            each.close()

    def cut_for(self, seconds: float) -> None:
        """Let nothing through for so long."""
        self.cut = True
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._open.clear()
        again = threading.Timer(seconds, lambda: setattr(self, "cut", False))
        again.daemon = True
        again.start()
