"""The connections of one SQL store: one that writes, and for every read its own.

The rule: a long report never stands in front of a commit, no connection crosses a fork, and
whatever a driver raises leaves here as a StoreError.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc

from relay_app.ledger.stores.base import StoreError
from relay_app.ledger.stores.edge import mapped, once_more
from relay_app.ledger.stores.native import make_lock
from relay_app.ledger.stores.sql_dialect import Dialect

__all__ = ["Connections", "describe"]

T = TypeVar("T")


@dataclass(slots=True)
class _Opened:
    """What one process has open: a writer, and ``readers`` connections for as long as they read."""

    lock: Any = field(default_factory=make_lock)
    engine: sa.Engine | None = None
    writer: sa.Connection | None = None
    readers: int = 0


class Connections:
    """Nothing is opened before it is needed; any thread may call any method."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        # By process id, so that a forked child neither uses nor closes what its parent has open.
        self._opened: dict[int, _Opened] = {}
        self._closed = False

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """What ``work`` returns, given the writing connection, which it has to itself and on
        which it begins and ends its own transactions.

        If the connection we had was lost meanwhile, ``work`` is done at once again over a new
        one.
        """
        opened = self._mine()
        with opened.lock, mapped(describe):
            return once_more(
                lambda: work(self._writer(opened)),
                kept=opened.writer is not None,
                let_go=lambda: _let_go(opened),
                lost=lambda error: (
                    isinstance(error, exc.DBAPIError) and error.connection_invalidated
                ),
            )

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection of its own, inside one read transaction."""
        opened = self._mine()
        with mapped(describe):
            with opened.lock:
                engine = self._engine(opened)
                opened.readers += 1
            try:
                with engine.connect() as connection, connection.begin():
                    yield connection
            finally:
                with opened.lock:
                    opened.readers -= 1

    def close(self) -> None:
        """Idempotent; every other method then raises StoreError."""
        with suppress(StoreError):
            opened = self._mine()
            self._closed = True
            with opened.lock:
                _let_go(opened)

    def _mine(self) -> _Opened:
        if self._closed:
            raise StoreError("the SQL store is closed")
        pid = os.getpid()
        if any(other != pid and (o.writer or o.readers) for other, o in self._opened.items()):
            # SQLite keeps locks in memory, and a child that inherits those takes none of its
            # own: parent and child then overwrite each other's commits (seen). Refuse instead.
            raise StoreError("the store was in use when this process was forked")
        # setdefault is atomic: threads that meet here in a new child agree on one.
        return self._opened.setdefault(pid, _Opened())

    def _engine(self, opened: _Opened) -> sa.Engine:
        if self._closed:  # while we waited for the lock
            raise StoreError("the SQL store is closed")
        if opened.engine is None:
            opened.engine = self._dialect.open()
        return opened.engine

    def _writer(self, opened: _Opened) -> sa.Connection:
        if opened.writer is None:
            connection = self._engine(opened).connect()
            opened.writer = connection.execution_options(**self._dialect.write_options)
        self._dialect.check()
        return opened.writer


def _let_go(opened: _Opened) -> None:
    writer, engine = opened.writer, opened.engine
    opened.writer = opened.engine = None
    with suppress(exc.SQLAlchemyError):  # it is being thrown away, perhaps for being broken
        if writer is not None:
            writer.close()
    if engine is not None:
        engine.dispose()


def describe(error: Exception) -> str:
    """One line without the statement and its parameters, which SQLAlchemy would add.

    It begins with the ``in_words`` of the error, if it has some, instead of its class.
    """
    cause = getattr(error, "orig", None) or error
    # PostgreSQL's details quote the row.
    text = getattr(getattr(cause, "diag", None), "message_primary", None) or str(cause)
    kind = getattr(cause, "in_words", type(cause).__name__)
    return f"{kind}: {text}".replace("\n", " ")
