"""How a database gets the schema, be it empty or of an older relay_app.

The rule: whoever comes first does all of it in one transaction, under a lock that the caller
holds; a database of a newer relay_app is left alone.
"""

from collections.abc import Sequence
from typing import Protocol

import sqlalchemy as sa

from relay_app.ledger.stores.base import StoreError
from relay_app.ledger.stores.schema import SCHEMA_VERSION, metadata, usage_records
from relay_app.ledger.stores.sql_triggers import fillings

__all__ = ["DAY_SECONDS", "Migrated", "is_current", "migrate"]

DAY_SECONDS = 86_400.0

COUNTED_VERSION = 2
"""From this version of the schema on, the records are added up already."""


class Migrated(Protocol):
    """The part of a dialect that a migration needs."""

    def version(self, connection: sa.Connection) -> int:
        """The version of the schema, 0 if there is none."""

    def set_version(self, connection: sa.Connection, version: int) -> None:
        """Note it, in the transaction that brought it about."""

    def triggers(self) -> Sequence[str]:
        """The statements that create the triggers of ``usage_records``, in place of those of an
        older version. Nobody writes to the table from the first of them until the transaction is
        over."""

    def microusd(self, cost_usd: str) -> str:
        """See ``Dialect.microusd``."""


def is_current(connection: sa.Connection, dialect: Migrated) -> bool:
    """Whether there is nothing to do. Raises StoreError if we are too old for this database."""
    version = dialect.version(connection)
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the database was written by a newer relay_app: its schema is version {version}, "
            f"this one knows up to {SCHEMA_VERSION}"
        )
    return version == SCHEMA_VERSION


def migrate(connection: sa.Connection, dialect: Migrated) -> None:
    """Bring the schema up to date, unless somebody did while we waited for the lock."""
    if is_current(connection, dialect):
        return
    counted = dialect.version(connection) >= COUNTED_VERSION
    metadata.create_all(connection)
    for statement in dialect.triggers():
        connection.exec_driver_sql(statement)
    if not counted:
        _fill(connection, dialect)
    dialect.set_version(connection, SCHEMA_VERSION)


def _fill(connection: sa.Connection, dialect: Migrated) -> None:
    """Add up the records of version 1, a day at a time, so that no statement runs for long."""
    statements = [sa.text(each) for each in fillings(dialect.microusd)]
    ended_at = usage_records.c.ended_at
    first = sa.select(sa.func.min(ended_at))
    found = connection.execute(first).scalar_one()
    while found is not None:
        since = found // DAY_SECONDS * DAY_SECONDS
        until = since + DAY_SECONDS
        for statement in statements:
            connection.execute(statement, {"since": since, "until": until})
        found = connection.execute(first.where(ended_at >= until)).scalar_one()
