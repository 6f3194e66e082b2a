"""The store in a SQL database, through SQLAlchemy Core; ``sqlite:///path`` as it stands.

The rule: what differs between databases lives in the dialects beside this file; here is only
SQL that all of them speak. What has a table of its own has a module of its own, too.
"""

from collections.abc import Iterator, Sequence
from operator import itemgetter

import sqlalchemy as sa

from relay_app.ledger.stores.base import Store
from relay_app.ledger.stores.edge import check_rejected, prepared
from relay_app.ledger.stores.keys import StoredKey
from relay_app.ledger.stores.leases import Ask, Lease
from relay_app.ledger.stores.schema import COLUMNS, Row, from_row, to_row, usage_records
from relay_app.ledger.stores.sql_connections import Connections, describe
from relay_app.ledger.stores.sql_dialect import Dialect, replacing
from relay_app.ledger.stores.sql_keys import all_keys, put_key
from relay_app.ledger.stores.sql_leases import SQLLeases
from relay_app.ledger.stores.sql_retention import forget_step
from relay_app.ledger.stores.sql_totals import to_totals, totals_query
from relay_app.ledger.stores.sqlite import SQLite
from relay_app.ledger.stores.totals import By, Total, check_by, check_day
from relay_app.meter.usage import UsageRecord

__all__ = ["SQLStore"]

READ_ROWS = 500
"""Rows fetched at once while streaming: about 1 MB at the 4 kB limit of ``usage_raw``."""


class SQLStore(Store):
    """Usage records, what is counted of them, and keys, in tables of a SQL database."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self.local = dialect.local
        table = usage_records.c
        self._upsert = replacing(
            dialect, usage_records, where=lambda new: table.source_rank <= new.source_rank
        )
        self._leases = SQLLeases(dialect)
        self._connections = Connections(dialect)

    @classmethod
    def from_url(cls, url: str) -> "SQLStore":
        return cls(SQLite.from_url(url))

    def write(self, records: Sequence[UsageRecord]) -> None:
        rows, rejected = prepared(records, to_row)
        if rows:
            # In one order for all, or two transactions with keys in common could each wait for
            # the other. What has the same id keeps its order.
            rows.sort(key=_order)
            self._connections.write(lambda writer: self._insert(writer, rows, rejected))
        check_rejected(rejected)

    def _insert(self, writer: sa.Connection, rows: list[Row], rejected: dict[str, str]) -> None:
        """Write ``rows`` in one transaction, or, if one of them is bad, in a few."""
        try:
            self._dialect.put(writer, self._upsert, rows)
        except Exception as error:
            if not self._dialect.blames(error):
                raise
            if len(rows) == 1:
                # Blame the record only while the database itself answers.
                with writer.begin():
                    writer.execute(_PROBE)
                rejected[rows[0][_ID]] = describe(error)
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
        query = sa.select(usage_records).order_by(table.ended_at, table.id)
        if session_id is not None:
            query = query.where(table.session_id == session_id)
        if key is not None:
            query = query.where(table.key == key)
        if since is not None:
            query = query.where(table.ended_at >= since)
        if until is not None:
            query = query.where(table.ended_at < until)
        with (
            self._connections.reading() as connection,
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
        query = totals_query(self._dialect, by, key, since, until)
        with self._connections.reading() as connection:
            return to_totals(connection.execute(query))

    def lease(self, asks: Sequence[Ask], *, seconds: float) -> list[Lease]:
        return self._connections.write(
            lambda writer: self._leases.give(writer, asks, seconds=seconds)
        )

    def keys(self) -> list[StoredKey]:
        with self._connections.reading() as reader:
            return all_keys(reader)

    def put_key(self, key: StoredKey, *, instead_of: StoredKey | None) -> None:
        refusal = self._connections.write(
            lambda writer: put_key(writer, self._dialect, key, instead_of)
        )
        if refusal is not None:
            raise refusal

    def forget(self, day: str) -> int:
        check_day(day)

        def step() -> int | None:
            return self._connections.write(lambda writer: forget_step(writer, self._dialect, day))

        return sum(deleted for deleted in iter(step, None) if deleted is not None)

    def ping(self) -> None:
        with self._connections.reading() as connection:
            connection.execute(_PROBE).all()

    def close(self) -> None:
        self._connections.close()


_ID = COLUMNS.index("id")
_order = itemgetter(COLUMNS.index("key"), _ID)
_PROBE = sa.select(usage_records.c.id).limit(1)
_STREAMED = {"yield_per": READ_ROWS}
