"""A server that is down on demand: what stands between a client and a real one, and lets through or does not."""

import socket
from contextlib import suppress
from threading import Lock, Thread
from typing import Literal, Self

from tests.ports import free_port

Mode = Literal["pass", "refuse", "hang", "error"]
ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndown"


class Outage:
    """An address on loopback that leads to a server at `port`, or, by its mode, to trouble.

    `refuse` takes no connection, `hang` takes it and answers nothing, `error` answers 500; with `only`, to requests
    that hold these bytes. A new mode ends the connections that are open.
    """

    def __init__(self, port: int) -> None:
        self._behind = port
        self._mode: Mode = "pass"
        self._only = b""
        self._open = set[socket.socket]()
        self._lock = Lock()
        self.port = free_port()
        self._listener: socket.socket | None = socket.create_server(("127.0.0.1", self.port))
        self._threads = list[Thread]()
        self._listen(self._listener)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.set("refuse")
        for thread in list(self._threads):
            thread.join(10)

    @property
    def url(self) -> str:
        """Its address for HTTP."""
        return f"http://127.0.0.1:{self.port}"

    def set(self, mode: Mode, only: bytes = b"") -> None:
        """From now on, like this."""
        self._mode, self._only = mode, only
        if mode == "refuse" and self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
            self._listener.close()
            self._listener = None
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        if mode != "refuse" and self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._listen(self._listener)

    def _listen(self, listener: socket.socket) -> None:
        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    self._start(self._serve, client)

        self._start(accept)

    def _start(self, run: object, *arguments: object) -> None:
        thread = Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]  # whatever is called
        self._threads.append(thread)
        thread.start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self._behind), 10) as server:
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
            back = Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            self._forward(client, server)
            for each in (client, server):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            back.join(10)
            with self._lock:
                self._open -= {client, server}

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while sent := client.recv(65536):
                troubled = self._mode != "pass" and self._only in sent
                if troubled and self._mode == "error":
                    client.sendall(ERROR)
                    return
                if not troubled:
                    server.sendall(sent)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while got := source.recv(65536):
            target.sendall(got)
        target.shutdown(socket.SHUT_WR)  # some clients wait for the server's end before they end
