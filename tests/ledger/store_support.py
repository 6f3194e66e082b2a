"""What the tests of stores share: a script for writers, a wire that can be cut, and time."""

import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import psycopg
import redis

POSTGRES = "RELAY_TEST_POSTGRES_URL"
REDIS = "RELAY_TEST_REDIS_URL"
"""Where to find servers to test against, instead of starting some."""

WRITER = """
import itertools
from ledger_support import make_record
from relay_app.ledger.stores import open_store
url, name, count = sys.argv[1:]
store = open_store(url)
sources = itertools.cycle(["reported", "unknown", "estimated"])
for n in range(int(count)):
    # All writers fight for the same ids, in different orders.
    shared = [make_record(f"shared-{m}", source=next(sources), usage_raw=name) for m in range(8)]
    if int(name) % 2:
        shared.reverse()
    store.write([*shared, make_record(f"{name}-{n}", name)])
    print(f"{name}-{n}", flush=True)
store.close()
"""


class Wire:
    """A TCP proxy that can hold everything back, silently, or be cut."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.dials = 0
        self._open = threading.Event()
        self._open.set()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def hold(self) -> None:
        """From now on what is sent is taken and goes nowhere."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def cut(self) -> None:
        """Every connection that is open ends."""
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.release()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join(10)
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.dials += 1
            self._sockets.append(client)
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.shutdown(socket.SHUT_RDWR)
                continue
            self._sockets.append(server)
            for ends in ((client, server), (server, client)):
                thread = threading.Thread(target=self._carry, args=ends, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        how = socket.SHUT_RDWR  # for a reset, which has to arrive as more than an end of data
        with suppress(OSError):
            while data := source.recv(65_536):
                self._open.wait()
                target.sendall(data)
            how = socket.SHUT_WR
        self._open.wait()
        with suppress(OSError):
            target.shutdown(how)


@contextmanager
def wire(port: int) -> Iterator[Wire]:
    proxy = Wire(port)
    try:
        yield proxy
    finally:
        proxy.close()


def redis_key(redis_url: str, name: str) -> str:
    return f"{{{redis_url.rpartition('prefix=')[2]}}}:{name}"


def pass_in_redis(operator: redis.Redis, url: str, seconds: float) -> None:
    pattern = redis_key(url, "*").replace("{", "[{]").replace("}", "[}]")
    for name in operator.keys(pattern):
        if ":lapses:" in name:
            for session, lapses_at in operator.zrange(name, 0, -1, withscores=True):
                operator.zadd(name, {session: round(lapses_at - seconds, 6)})
        elif ":sums:" in name:
            as_of = float(operator.hget(name, "as_of") or 0)
            operator.hset(name, "as_of", f"{as_of - seconds:.6f}")
        elif ":tokens:" in name:
            older = {int(at) - int(seconds): n for at, n in operator.hgetall(name).items()}
            operator.delete(name)
            operator.hset(name, mapping=older)  # type: ignore[arg-type]


def pass_in(url: str, seconds: float) -> None:
    """Make all that a store keeps of leases ``seconds`` older, as if so much time had passed or its
    clock had been set forward; with a negative number, as if it had been set back."""
    if url.startswith("redis:"):
        with redis.Redis.from_url(url.partition("?")[0], decode_responses=True) as operator:
            pass_in_redis(operator, url, seconds)
        return
    statements = (
        f"UPDATE usage_leases SET lapses_at = lapses_at - ({seconds})",
        f"UPDATE usage_tokens SET second = second - ({int(seconds)})",
    )
    if url.startswith("sqlite:"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file, file:
            for statement in statements:
                file.execute(statement)
        return
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as server:
        for statement in statements:
            server.execute(statement)
