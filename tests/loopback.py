"""The server and the handler of the stand-ins on the loopback."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """What answers at such a server: it keeps connections, says nothing of requests, and sends at once."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a body would wait 40 ms until its headers are acknowledged

    def log_message(self, *_: Any) -> None: ...


class Server(ThreadingHTTPServer):
    """A server that many clients may connect to side by side."""

    request_queue_size = 128  # of the usual five that wait the others would be turned away

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that ends and leaves its connections; what this server does wrong is said."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)
