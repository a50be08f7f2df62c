"""Ports of loopback for servers that are started by a number, or stopped and started again."""

import secrets
import socket

FIRST, COUNT = 20_000, 12_000  # below those that systems give to outgoing connections, which could take a stopped one's


def free_port() -> int:
    """A port that nobody listens on, and that no connection of anybody's is given meanwhile."""
    while True:
        port = FIRST + secrets.randbelow(COUNT)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
