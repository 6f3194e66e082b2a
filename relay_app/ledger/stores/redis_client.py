"""A client of one Redis or Valkey server: its URL, and a connection for native threads.

The rule: redis-py speaks the protocol; sockets and waiting are native, every wait is bounded,
and nothing is tried twice behind the back of the accountant, who has a back-off of its own.
"""

import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from relay_app.ledger.stores.native_socket import TLSSocket, dial

__all__ = ["Address", "connect"]

PREFIX = "relay_app"
CONNECT_SECONDS = 5.0
"""All addresses together, TLS aside, which may take as long again."""

ANSWER_SECONDS = 10.0
"""For one command. The longest is a batch of records: milliseconds on a server that is well."""

_ACCEPTED = (
    "accepted: redis://user:password@host:6379/0, or rediss:// for TLS, with whatever is special "
    "in the password %-encoded; after a ?, prefix=NAME, wait_aof=yes, ca_file=PATH, and "
    "connect_timeout=SECONDS and timeout=SECONDS, both at most 3600"
)


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL says. ``ca_file`` is the authority to trust instead of the system's."""

    host: str
    port: int = 6379
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca_file: str | None = None
    prefix: str = PREFIX
    wait_aof: bool = False
    connect_seconds: float = CONNECT_SECONDS
    answer_seconds: float = ANSWER_SECONDS

    @classmethod
    def from_url(cls, url: str) -> "Address":
        """Raises ValueError for whatever is not the accepted form; repeats nothing of the URL."""
        try:
            return cls._from_url(url)
        except ValueError:
            raise ValueError(_ACCEPTED) from None

    @classmethod
    def _from_url(cls, url: str) -> "Address":
        parts = urlsplit(url)
        query = parse_qsl(parts.query, strict_parsing=True) if parts.query else []
        options = dict(query)
        prefix = options.pop("prefix", PREFIX)
        wait_aof = options.pop("wait_aof", "no")
        tls = parts.scheme == "rediss"
        ca_file = options.pop("ca_file", None)
        connect_seconds = float(options.pop("connect_timeout", CONNECT_SECONDS))
        answer_seconds = float(options.pop("timeout", ANSWER_SECONDS))
        wrong = (
            parts.scheme not in ("redis", "rediss")
            or not parts.hostname
            or parts.fragment
            or options
            or wait_aof not in ("yes", "no")
            or (ca_file and not tls)
            or not set("{}").isdisjoint(prefix)
            or not 0 < connect_seconds <= 3600
            or not 0 < answer_seconds <= 3600
        )
        if wrong:
            raise ValueError
        return cls(
            host=parts.hostname or "",
            port=parts.port or 6379,
            db=int(parts.path.removeprefix("/") or 0),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            tls=tls,
            ca_file=ca_file,
            prefix=prefix,
            wait_aof=wait_aof == "yes",
            connect_seconds=connect_seconds,
            answer_seconds=answer_seconds,
        )


def connect(address: Address) -> Any:
    """A ``redis.Redis`` with one connection, which it opens when first used.

    One connection, so that nobody ever waits for the pool's lock, which gevent may have patched.
    """
    context = ssl.create_default_context(cafile=address.ca_file) if address.tls else None
    pool = redis.ConnectionPool(
        connection_class=_NativeConnection,
        max_connections=1,
        host=address.host,
        port=address.port,
        db=address.db,
        username=address.username,
        password=address.password,
        socket_connect_timeout=address.connect_seconds,
        socket_timeout=address.answer_seconds,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        tls_context=context,
    )
    return redis.Redis(connection_pool=pool)


class _NativeConnection(redis.Connection):
    """``redis.Connection`` on a socket of ours. It asks of it no more than TLSSocket has.

    It connects once. redis-py would do so again whenever it finds the socket closed, and then
    WAITAOF would be answered for a connection that has written nothing.
    """

    def __init__(self, *, tls_context: ssl.SSLContext | None, **options: Any) -> None:
        self._tls_context = tls_context
        self._used = False
        super().__init__(**options)  # type: ignore[no-untyped-call]

    def _connect(self) -> Any:
        if self._used:
            raise ConnectionResetError("the connection was lost")
        self._used = True
        connection = dial(self.host, self.port, self.socket_connect_timeout or CONNECT_SECONDS)
        try:
            if self._tls_context is None:
                connection.settimeout(self.socket_timeout)
                return connection
            secured = TLSSocket(connection, self._tls_context, self.host)
            secured.settimeout(self.socket_timeout)
        except BaseException:
            connection.close()
            raise
        return secured
