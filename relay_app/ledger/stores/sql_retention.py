"""Forgetting records in a SQL database, a few at a time.

The rule: one step is one transaction, and no writer waits for more than one.
"""

from datetime import UTC, datetime

import sqlalchemy as sa

from relay_app.ledger.stores.schema import usage_records
from relay_app.ledger.stores.sql_dialect import Dialect

__all__ = ["forget_step"]

STEP_ROWS = 2_000


def forget_step(writer: sa.Connection, dialect: Dialect, day: str) -> int | None:
    """Delete some of the records that ended before ``day``, the oldest first; returns how many
    we deleted, or None if none is left."""
    before = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
    table = usage_records.c
    oldest = sa.select(table.id, table.key).where(table.ended_at < before)
    with writer.begin():
        found = writer.execute(oldest.order_by(table.ended_at, table.id).limit(STEP_ROWS)).all()
        if not found:
            return None
        dialect.hold(writer, sorted({row.key for row in found}))
        # The time once more: somebody may have replaced one meanwhile.
        these = usage_records.delete().where(table.id.in_([row.id for row in found]))
        return writer.execute(these.where(table.ended_at < before)).rowcount
