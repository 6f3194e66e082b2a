"""A connection to PostgreSQL that waits on its native thread, and never for ever.

The rule: no wait is without a deadline, and none goes through what gevent has patched. psycopg's
generators do the talking; what it waits with would, in a patched process, be a hub a thread.
"""

import ipaddress
import select
from collections.abc import Mapping
from contextlib import suppress
from socket import IPPROTO_TCP, SOCK_STREAM
from time import monotonic
from typing import Any, Self

import psycopg
from psycopg import generators
from psycopg.abc import RV, PQGen
from psycopg.conninfo import make_conninfo
from psycopg.waiting import Ready, Wait

from relay_app.ledger.stores.native import getaddrinfo, make_poll

__all__ = ["NativeConnection", "Silence", "Unreachable"]

CONNECT_SECONDS = 5.0
"""All addresses of all hosts together; ``connect_timeout`` in the URL replaces it."""

STATEMENT_SECONDS = 30
"""When the server is told to give a statement up, unless somebody set ``statement_timeout``."""

GRACE_SECONDS = 2.0
"""How much longer we wait to hear that it did, before we give the server up."""

_EVENTS = {
    Wait.R: select.POLLIN,
    Wait.W: select.POLLOUT,
    Wait.RW: select.POLLIN | select.POLLOUT,
}

# Settings of the session, in one statement. Whoever set a time-out keeps it; a role or database
# that commits asynchronously would break the store's promise, and stronger than "on" may stay.
_SETTLE = f"""
SELECT set_config('statement_timeout', '{STATEMENT_SECONDS}s', false)
  FROM pg_settings WHERE name = 'statement_timeout' AND setting = '0'
UNION ALL SELECT set_config('lock_timeout', '10s', false)
  FROM pg_settings WHERE name = 'lock_timeout' AND setting = '0'
UNION ALL SELECT set_config('synchronous_commit', 'on', false)
  FROM pg_settings WHERE name = 'synchronous_commit' AND setting = 'off'
"""
_STATEMENT_MS = "SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'"


class NativeConnection(psycopg.Connection[Any]):
    """``psycopg.Connection`` with waits of its own, each bounded by ``answer_seconds``."""

    answer_seconds = STATEMENT_SECONDS + GRACE_SECONDS

    @classmethod
    def dial(cls, params: Mapping[str, Any]) -> Self:
        """A connection for libpq's ``params``, with its session settled.

        Raises psycopg.Error within ``connect_timeout``, the system's own bound on
        resolving names aside.
        """
        params = dict(params)
        seconds = float(params.pop("connect_timeout", 0) or CONNECT_SECONDS)
        deadline = monotonic() + seconds
        try:
            connecting = generators.connect(make_conninfo("", **_resolved(params)))
            fileno, wants = next(connecting)
            while True:
                fileno, wants = connecting.send(_ready(fileno, wants, deadline))
        except StopIteration as done:
            connection = cls(done.value)
        except Silence:
            raise
        except (psycopg.OperationalError, OSError) as error:
            raise Unreachable(str(error)) from error
        try:
            connection.autocommit = True
            connection.answer_seconds = seconds
            connection.execute(_SETTLE)
            (milliseconds,) = connection.execute(_STATEMENT_MS).fetchone() or (0,)
            connection.answer_seconds = milliseconds / 1000 + GRACE_SECONDS
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        return connection

    def wait(self, gen: PQGen[RV], *_: object, **__: object) -> RV:
        """Consume ``gen``. A server that keeps silent for ``answer_seconds`` is given up."""
        deadline = monotonic() + self.answer_seconds
        try:
            wants = next(gen)
            while True:
                # Asked each time: libpq closes a broken socket, and its number is soon another's.
                wants = gen.send(_ready(self.pgconn.socket, wants, deadline))
        except StopIteration as done:
            result: RV = done.value
            return result
        except psycopg.Error as error:
            if isinstance(error, Silence):
                # Broken now, or each step of closing would wait for the server once more.
                self.pgconn.finish()
            with suppress(psycopg.Error, RuntimeError):
                gen.close()
            raise


class Silence(psycopg.OperationalError):
    """The deadline passed; the connection is in no known state."""

    in_words = "the store does not answer"


class Unreachable(psycopg.OperationalError):
    """There is no connection."""

    in_words = "the store cannot be reached"


def _ready(fileno: int, wants: Wait, deadline: float) -> Ready:
    poll = make_poll()
    poll.register(fileno, _EVENTS[wants])
    events = poll.poll(max(0.0, deadline - monotonic()) * 1000)
    if not events:
        raise Silence("nothing came from the server in time")
    event = events[0][1]
    # An error or a hang-up is for reading: libpq finds out what it is.
    readable = Ready.R if event & ~select.POLLOUT else Ready.NONE
    return Ready(readable | (Ready.W if event & select.POLLOUT else Ready.NONE))


def _resolved(params: Mapping[str, Any]) -> dict[str, Any]:
    """``params`` with an address for every host, for libpq would look names up under the GIL."""
    if "hostaddr" in params or not params.get("host"):
        return dict(params)
    hosts = str(params["host"]).split(",")
    ports = str(params.get("port", "")).split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    found = [
        (host, address, port)
        for host, port in zip(hosts, ports, strict=True)
        for address in _addresses(host, port or "5432")
    ]
    names, addresses, ports = (",".join(each) for each in zip(*found, strict=True))  # type: ignore[assignment]
    return {**params, "host": names, "hostaddr": addresses, "port": ports}


def _addresses(host: str, port: str) -> list[str]:
    if not host or host.startswith("/"):
        return [""]  # a folder with the server's socket in it
    try:
        ipaddress.ip_address(host)
    except ValueError:
        found = getaddrinfo(host, port, type=SOCK_STREAM, proto=IPPROTO_TCP)
        return list(dict.fromkeys(each[4][0] for each in found))
    return [host]
