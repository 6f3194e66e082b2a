"""An HTTP proxy that knows CONNECT and nothing else, on an implementation that is not ours."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from support.upstreams import raw_upstream, read_head

__all__ = ["ConnectProxy", "connect_proxy"]


@dataclass
class ConnectProxy:
    """Where it listens, and the heads of the requests it got."""

    host: str
    port: int
    heads: list[bytes] = field(default_factory=list)

    def url(self, user: str = "") -> str:
        return f"http://{user and user + '@'}{self.host}:{self.port}"


@contextmanager
def connect_proxy(
    *,
    names: dict[str, str] | None = None,
    answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n",
    then: Callable[[socket.socket], None] | None = None,
) -> Iterator[ConnectProxy]:
    """Connects its clients with the hosts they ask for, as ``names`` resolves them, and says
    ``answer``; with ``then`` it does that instead of connecting anybody."""

    def handler(client: socket.socket) -> None:
        head = read_head(client)
        proxy.heads.append(head)
        host, _, port = head.split(b" ", 2)[1].decode().rpartition(":")
        if then is not None:
            client.sendall(answer)
            then(client)
            return
        with socket.create_connection(((names or {}).get(host, host), int(port))) as target:
            client.sendall(answer)
            back = threading.Thread(target=_carry, args=(target, client))
            back.start()
            _carry(client, target)
            back.join(10)

    with raw_upstream(handler) as base_url:
        host, port = base_url.removeprefix("ws://").removesuffix("/v1").split(":")
        proxy = ConnectProxy(host, int(port))
        yield proxy


def _carry(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one of the two has gone
