"""Totals by SQL: over the days that triggers have added up, or else over the records themselves.

The rule: money is added in whole micro-dollars by the database, sessions are counted and not
added, and both ways give the same answer.
"""

from collections.abc import Iterable
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from relay_app.ledger.stores.schema import usage_days, usage_records
from relay_app.ledger.stores.sql_dialect import Dialect
from relay_app.ledger.stores.sql_migration import DAY_SECONDS
from relay_app.ledger.stores.sql_triggers import row_of_day
from relay_app.ledger.stores.totals import By, Total, day_of
from relay_app.meter.usage import Usage

__all__ = ["to_totals", "totals_query"]

_SUMS = ("records", "unpriced", "unknown", *(each.name for each in fields(Usage)), "microusd")


def totals_query(
    dialect: Dialect, by: By, key: str | None, since: float | None, until: float | None
) -> sa.Select[Any]:
    """The question whose answer :func:`to_totals` understands."""
    bounds: list[Any] = []
    if _is_midnight(since) and _is_midnight(until):
        rows: Any = usage_days
        if since is not None:
            bounds.append(rows.c.day >= day_of(since))
        if until is not None:
            bounds.append(rows.c.day < day_of(until))
    else:
        of_one = row_of_day("usage_records", dialect.microusd)
        columns: list[Any] = [sa.literal_column(sql).label(name) for name, sql in of_one.items()]
        ended_at = usage_records.c.ended_at
        picked = sa.select(*columns).select_from(usage_records)
        if since is not None:
            picked = picked.where(ended_at >= since)
        if until is not None:
            picked = picked.where(ended_at < until)
        rows = picked.subquery()
    group = rows.c["session_id" if by == "session" else by]
    query = sa.select(
        group,
        sa.func.count(rows.c.session_id.distinct()),
        *(sa.func.sum(rows.c[name]) for name in _SUMS),
    )
    if key is not None:
        query = query.where(rows.c.key == key)
    return query.where(*bounds).group_by(group)


def to_totals(rows: Iterable[Any]) -> list[Total]:
    """The answer to :func:`totals_query`, in order of the group's name."""
    totals = []
    for group, sessions, records, unpriced, unknown, *usage, microusd in rows:
        *tokens, seconds = usage
        # The types they were: PostgreSQL's sum of integers is a decimal.
        values: list[Any] = [*map(int, tokens), float(seconds)]
        cost = None if unpriced == records else Decimal(int(microusd)).scaleb(-6)
        totals.append(
            Total(group, int(records), sessions, Usage(*values), cost, int(unpriced), int(unknown))
        )
    return sorted(totals, key=lambda total: total.group)


def _is_midnight(moment: float | None) -> bool:
    if moment is None:
        return True
    return moment % DAY_SECONDS == 0 and _FIRST <= moment <= _LAST


_FIRST, _LAST = (datetime(*day, tzinfo=UTC).timestamp() for day in ((1, 1, 1), (9999, 12, 31)))
