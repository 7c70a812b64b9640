"""A wire between a client and PostgreSQL that a test can cut at a chosen moment."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Literal

Cut = Literal["before the commit", "after the commit", "before, and the server does not hear of it"]
COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"  # the protocol's simple query


class Proxy:
    """Hands everything on. `cut` ends one connection: instead of the next commit, or in place of the answer to it."""

    def __init__(self, port: int) -> None:
        self.cut: Cut | None = None
        self.replace: tuple[bytes, bytes] | None = None  # in what the server says
        self.refusing = False
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, url: str) -> str:
        """The same server, seen through this."""
        return url.replace(f":{self._target[1]}/", f":{self.port}/")

    def hang_up(self) -> None:
        """On everybody who is connected now."""
        for pair in self._pairs:
            _close(*pair)

    def forget_client(self) -> None:
        """Clients hear that they are alone; the server hears nothing."""
        for client, _ in self._pairs:
            _close(client)

    def close(self) -> None:
        _close(self._listener)
        self.hang_up()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.refusing:
                    client.close()
                    continue
                server = socket.create_connection(self._target)
                self._pairs.append((client, server))
                threading.Thread(target=self._to_server, args=(client, server), daemon=True).start()
                threading.Thread(target=self._to_client, args=(client, server), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self.cut and data.endswith(COMMIT):
                    if self.cut.startswith("before"):
                        heard, self.cut = self.cut == "before the commit", None
                        _close(client, *([server] if heard else []))
                        return
                    server.sendall(data)
                    continue
                server.sendall(data)

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if self.cut == "after the commit" and b"COMMIT\x00" in data:
                    self.cut = None
                    break
                client.sendall(data.replace(*self.replace) if self.replace else data)
        _close(client, server)


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            each.close()
