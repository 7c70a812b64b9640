"""The socket on which a command serves something."""

from __future__ import annotations

import socket

from batchgen.errors import SettingsError


def listen(host: str, port: int, free_port: str = "--port 0") -> socket.socket:
    """Listen on a port. free_port: the option that takes any port. Raises SettingsError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        hint = f"; {free_port} takes any that is free" if port else ""
        raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror or error}{hint}") from None
