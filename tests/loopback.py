"""The server of the stand-ins on the loopback."""

from __future__ import annotations

import sys
from http.server import ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """A server that many clients may connect to side by side."""

    request_queue_size = 128  # of the usual five that wait the others would be turned away

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that ends and leaves its connections; what this server does wrong is said."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)
