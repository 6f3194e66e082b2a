"""Records in a table of a SQL database, through SQLAlchemy Core; ``sqlite:///path`` as it stands.

The rule: what differs between databases lives in the dialect beside this file; here is only
SQL that all of them speak. One connection writes, and every read has its own, so that a long
report never stands in front of a commit.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import exc

from relay_app.ledger.stores.base import Store, StoreError
from relay_app.ledger.stores.keys import StoredKey
from relay_app.ledger.stores.leases import Ask, Lease
from relay_app.ledger.stores.native import make_lock
from relay_app.ledger.stores.schema import from_row, to_row, usage_records
from relay_app.ledger.stores.sqlite import SQLite
from relay_app.ledger.stores.totals import By, Total, add_money, check_by
from relay_app.meter.usage import Usage, UsageRecord

__all__ = ["Dialect", "SQLStore"]

READ_ROWS = 500
"""Rows fetched at once while streaming: about 1 MB at the 4 kB limit of ``usage_raw``."""


class Dialect(Protocol):
    """What one database does in its own way. A second database is a second one of these."""

    local: bool
    """Whether the database is a file of this host's own: see ``Store.local``."""

    @property
    def write_options(self) -> Mapping[str, Any]:
        """Execution options of the writing connection."""

    def open(self) -> sa.Engine:
        """A new engine whose pool keeps nothing, with the schema in place behind it."""

    def check(self) -> None:
        """Raise StoreError if what we hold open is no longer the database it was."""

    def upsert(self) -> sa.Executable:
        """The statement that inserts a row or, rank permitting, replaces it."""

    def blames(self, error: Exception) -> bool:
        """Whether ``error`` may be the fault of a value in the row rather than the database's."""


@dataclass(slots=True)
class _Opened:
    """What one process has open: a writer, and ``readers`` connections for as long as they read."""

    lock: Any = field(default_factory=make_lock)
    engine: sa.Engine | None = None
    writer: sa.Connection | None = None
    readers: int = 0


class SQLStore(Store):
    """Usage records in one table of a SQL database."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.local = dialect.local
        self._upsert = dialect.upsert()
        # By process id, so that a forked child neither uses nor closes what its parent has open.
        self._opened: dict[int, _Opened] = {}
        self._closed = False

    @classmethod
    def from_url(cls, url: str) -> "SQLStore":
        return cls(SQLite.from_url(url))

    def write(self, records: Sequence[UsageRecord]) -> None:
        rows: list[dict[str, Any]] = []
        rejected: dict[str, str] = {}
        for record in records:
            try:
                rows.append(to_row(record))
            except (OverflowError, TypeError, ValueError) as error:
                rejected[record.id] = _describe(error)
        if rows:
            # In one order for all, or two transactions with rows in common could each wait for
            # the other. What has the same id keeps its order.
            rows.sort(key=lambda row: str(row["id"]))
            with self._mine() as opened, opened.lock, _mapped():
                self._insert_once_more(opened, rows, rejected)
        if rejected:
            raise StoreError(f"{len(rejected)} records cannot be stored", rejected=rejected)

    def _insert_once_more(
        self, opened: _Opened, rows: list[dict[str, Any]], rejected: dict[str, str]
    ) -> None:
        """Write ``rows``; if the connection we had was lost meanwhile, at once over a new one.

        A server that closed an idle connection is no failure that anybody need hear of.
        """
        for fresh in (opened.writer is None, True):
            try:
                return self._insert(self._writer(opened), rows, rejected)
            except BaseException as error:
                _let_go(opened)  # the next write starts from a fresh connection
                if fresh or not (
                    isinstance(error, exc.DBAPIError) and error.connection_invalidated
                ):
                    raise
        return None

    def _insert(
        self, writer: sa.Connection, rows: list[dict[str, Any]], rejected: dict[str, str]
    ) -> None:
        """Write ``rows`` in one transaction, or, if one of them is bad, in a few."""
        try:
            with writer.begin():
                writer.execute(self._upsert, rows)
        except Exception as error:
            if not self._dialect.blames(error):
                raise
            if len(rows) == 1:
                # Blame the record only while the database itself answers.
                with writer.begin():
                    writer.execute(_PROBE)
                rejected[rows[0]["id"]] = _describe(error)
                return
            middle = len(rows) // 2
            self._insert(writer, rows[:middle], rejected)
            self._insert(writer, rows[middle:], rejected)

    def records(
        self,
        *,
        session_id: str | None = None,
        key: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Iterator[UsageRecord]:
        table = usage_records.c
        query = _chosen(sa.select(usage_records), key, since, until)
        if session_id is not None:
            query = query.where(table.session_id == session_id)
        query = query.order_by(table.ended_at, table.id)
        with (
            self._reading() as connection,
            connection.execute(query, execution_options=_STREAMED) as rows,
        ):
            for row in rows.mappings():
                yield from_row(row)

    def totals(
        self,
        by: By,
        *,
        key: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> list[Total]:
        check_by(by)
        table = usage_records.c
        group = table["session_id" if by == "session" else by]
        known = table.source != "unknown"
        counts = _chosen(
            sa.select(
                group,
                sa.func.count(),
                sa.func.count(table.session_id.distinct()),
                sa.func.count(table.cost_usd),
                sa.func.sum(sa.case((known, 0), else_=1)),
                *(
                    sa.func.sum(sa.case((known, table[name]), else_=0))
                    for name in Usage.__dataclass_fields__
                ),
            ),
            key,
            since,
            until,
        ).group_by(group)
        money = _chosen(sa.select(group, table.cost_usd), key, since, until)
        with self._reading() as connection:  # one snapshot for both
            rows = connection.execute(counts).all()
            costs: dict[str, Decimal | None] = {}
            # In Python, because no database adds decimals of any length exactly.
            money = money.where(table.cost_usd.is_not(None))
            for name, cost in connection.execute(money, execution_options=_STREAMED):
                costs[name] = add_money(costs.get(name), Decimal(cost))
        totals = [
            Total(
                name, records, sessions, _usage(usage), costs.get(name), records - priced, unknown
            )
            for name, records, sessions, priced, unknown, *usage in rows
        ]
        return sorted(totals, key=lambda total: total.group)

    def lease(self, asks: Sequence[Ask], *, seconds: float) -> list[Lease]:
        raise StoreError("leases are not supported yet")

    def keys(self) -> list[StoredKey]:
        raise StoreError("keys are not supported yet")

    def put_key(self, key: StoredKey) -> None:
        raise StoreError("keys are not supported yet")

    def forget(self, day: str) -> int:
        raise StoreError("forgetting is not supported yet")

    def ping(self) -> None:
        with self._reading() as connection:
            connection.execute(_PROBE).all()

    def close(self) -> None:
        with suppress(StoreError), self._mine() as opened:
            self._closed = True
            with opened.lock:
                _let_go(opened)

    @contextmanager
    def _mine(self) -> Iterator[_Opened]:
        if self._closed:
            raise StoreError("the SQL store is closed")
        pid = os.getpid()
        if any(other != pid and (o.writer or o.readers) for other, o in self._opened.items()):
            # SQLite keeps locks in memory, and a child that inherits those takes none of its
            # own: parent and child then overwrite each other's commits (seen). Refuse instead.
            raise StoreError("the store was in use when this process was forked")
        # setdefault is atomic: threads that meet here in a new child agree on one.
        yield self._opened.setdefault(pid, _Opened())

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

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """A connection of its own, inside one read transaction."""
        with self._mine() as opened, _mapped():
            with opened.lock:
                engine = self._engine(opened)
                opened.readers += 1
            try:
                with engine.connect() as connection, connection.begin():
                    yield connection
            finally:
                with opened.lock:
                    opened.readers -= 1


_PROBE = sa.select(usage_records.c.id).limit(1)
_STREAMED = {"yield_per": READ_ROWS}


def _usage(sums: Iterable[Any]) -> Usage:
    """Sums as the types they were: PostgreSQL's sum of integers is a decimal."""
    *tokens, seconds = sums
    values: list[Any] = [*map(int, tokens), float(seconds)]
    return Usage(*values)


def _chosen(
    query: sa.Select[Any], key: str | None, since: float | None, until: float | None
) -> sa.Select[Any]:
    ended_at = usage_records.c.ended_at
    if key is not None:
        query = query.where(usage_records.c.key == key)
    if since is not None:
        query = query.where(ended_at >= since)
    if until is not None:
        query = query.where(ended_at < until)
    return query


def _let_go(opened: _Opened) -> None:
    writer, engine = opened.writer, opened.engine
    opened.writer = opened.engine = None
    with suppress(exc.SQLAlchemyError):  # it is being thrown away, perhaps for being broken
        if writer is not None:
            writer.close()
    if engine is not None:
        engine.dispose()


@contextmanager
def _mapped() -> Iterator[None]:
    """The one edge where what a driver raises becomes a StoreError."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # noqa: BLE001 - a driver raises what it likes, and this is the edge
        raise StoreError(_describe(error)) from None


def _describe(error: Exception) -> str:
    """One line without the statement and its parameters, which SQLAlchemy would add."""
    cause = getattr(error, "orig", None) or error
    # PostgreSQL's details quote the row.
    text = getattr(getattr(cause, "diag", None), "message_primary", None) or str(cause)
    return f"{type(cause).__name__}: {text}".replace("\n", " ")
