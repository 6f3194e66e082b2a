"""Upstreams that do what a test tells them, on an implementation that is not ours."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from websockets.sync.server import ServerConnection, serve


@contextmanager
def upstream(handler: Callable[[ServerConnection], None], **options) -> Iterator[str]:
    """A WebSocket server that runs ``handler`` for each connection; yields its base URL."""
    options = {"compression": None, "max_size": None, **options}
    with serve(handler, "127.0.0.1", 0, **options) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        host, port = server.socket.getsockname()
        try:
            yield f"ws://{host}:{port}/v1"
        finally:
            server.shutdown()
            thread.join(10)


def echo(connection: ServerConnection) -> None:
    """Sends every message back."""
    for message in connection:
        connection.send(message)


@contextmanager
def raw_upstream(handler: Callable[[socket.socket], None]) -> Iterator[str]:
    """A TCP server that runs ``handler`` for each connection; yields its base URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connections: list[socket.socket] = []
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connections.append(connection)
                thread = threading.Thread(target=handle, args=(connection,), daemon=True)
                threads.append(thread)
                thread.start()

        def handle(connection: socket.socket) -> None:
            try:
                handler(connection)
            except OSError:
                pass
            finally:
                connection.close()

        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        host, port = listener.getsockname()
        try:
            yield f"ws://{host}:{port}/v1"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join(10)
            for connection in connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            for thread in threads:
                thread.join(10)


def read_head(connection: socket.socket) -> bytes:
    """The request head that came, up to and with the empty line."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(4096)
        if not data:
            break
        head += data
    return head
