"""What one SQL database does in its own way. A second database is a second one of these."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import sqlalchemy as sa

from relay_app.ledger.stores.schema import Row

__all__ = ["Dialect", "replacing"]


class Dialect(Protocol):
    """A database: its connections, and what is spelled differently there."""

    local: bool
    """Whether the database is a file of this host's own: see ``Store.local``."""

    @property
    def write_options(self) -> Mapping[str, Any]:
        """Execution options of the writing connection."""

    def open(self) -> sa.Engine:
        """A new engine whose pool keeps nothing, with the schema in place behind it."""

    def check(self) -> None:
        """Raise StoreError if what we hold open is no longer the database it was."""

    def insert(self, table: sa.Table) -> Any:
        """The database's own INSERT, which knows ``ON CONFLICT``."""

    def put(self, connection: sa.Connection, statement: Any, rows: Sequence[Row]) -> None:
        """Executes ``statement``, of :func:`replacing` for ``usage_records``, for each of ``rows``
        in one transaction. It is what a session waits for, so it may leave SQLAlchemy aside."""

    def microusd(self, cost_usd: str) -> str:
        """The SQL for whole micro-dollars, given the SQL for USD as decimal text."""

    def relaxed(self, connection: sa.Connection) -> AbstractContextManager[object]:
        """A transaction that may be lost if the machine is, and is the faster for it."""

    def hold(self, connection: sa.Connection, keys: Sequence[str]) -> float:
        """Let nobody else change what belongs to ``keys``, which are sorted, before this
        transaction is over. Returns the time by the clock that all relays share."""

    def blames(self, error: Exception) -> bool:
        """Whether ``error`` may be the fault of a value in the row rather than the database's."""


def replacing(dialect: Dialect, table: sa.Table, **options: Any) -> Any:
    """The statement that inserts a row, or puts it in the place of the one with its primary key
    if the condition ``where`` allows it, which is given the new row's columns."""
    statement = dialect.insert(table)
    new = statement.excluded
    where = options.pop("where", None)
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={column.name: new[column.name] for column in table.c},
        where=None if where is None else where(new),
    )
