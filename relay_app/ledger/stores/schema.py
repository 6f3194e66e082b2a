"""The tables behind every SQL store, and a record's way into a row and back.

The rule: a row holds the public field names of the record, so anyone may query it; money is
the decimal's own text or whole micro-dollars, never a float; and what does not fit a row is
refused before it is sent.
"""

from collections.abc import Mapping
from dataclasses import fields
from itertools import takewhile
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from relay_app import codec
from relay_app.ledger.stores.base import check_record
from relay_app.ledger.stores.totals import day_of
from relay_app.meter.usage import Usage, UsageRecord

__all__ = [
    "COLUMNS",
    "SCHEMA_VERSION",
    "Row",
    "from_row",
    "metadata",
    "relay_keys",
    "to_row",
    "usage_days",
    "usage_leases",
    "usage_records",
    "usage_spending",
    "usage_tokens",
]

Row = tuple[Any, ...]

SCHEMA_VERSION = 3
"""Raised by one with every change of the tables; a store refuses a file newer than itself.

1: ``usage_records``. 2: all others, which are filled from it, and its triggers. 3: a trigger of
its own for a record that stays on its day.
"""

_JSON = ("price", "estimate")
_USAGE = tuple(f.name for f in fields(Usage))
_usage = attrgetter(*_USAGE)
_head = attrgetter(*(f.name for f in takewhile(lambda f: f.name != "usage", fields(UsageRecord))))
_DERIVED = ("source_rank", "day")


# Compared by bytes everywhere: the order of records and groups is that of Python's strings.
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


metadata = sa.MetaData()


def _text(name: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, _TEXT, nullable=False, **options)


def _count(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _time(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Double, nullable=False)


usage_records = sa.Table(
    "usage_records",
    metadata,
    _text("id", primary_key=True),
    _text("session_id", index=True),
    _text("kind"),
    _text("source"),
    _text("status"),
    _text("key"),
    _text("upstream"),
    _text("model"),
    _text("upstream_model"),
    _text("unit_id"),
    _time("started_at"),
    _time("ended_at"),
    _count("input_text_tokens"),
    _count("input_audio_tokens"),
    _count("input_image_tokens"),
    _count("cached_text_tokens"),
    _count("cached_audio_tokens"),
    _count("cached_image_tokens"),
    _count("output_text_tokens"),
    _count("output_audio_tokens"),
    _count("reasoning_tokens"),
    _time("transcription_seconds"),
    sa.Column("cost_usd", sa.Text),
    sa.Column("price", sa.Text),
    sa.Column("usage_raw", sa.Text),
    sa.Column("estimate", sa.Text),
    # Derived, so that the rule of replacement and the grouping by day need nothing a dialect
    # would spell in its own way.
    sa.Column("source_rank", sa.SmallInteger, nullable=False),
    _text("day"),
    sa.Index("ix_usage_records_ended_at", "ended_at", "id"),
)

COLUMNS = tuple(column.name for column in usage_records.c)


# What the triggers of usage_records keep up to date (sql_triggers.py). No table but the records
# needs a row number: SQLite then keeps rows in their primary key.

usage_days = sa.Table(
    "usage_days",
    metadata,
    _text("day", primary_key=True),
    _text("key", primary_key=True),
    _text("model", primary_key=True),
    _text("session_id", primary_key=True),
    _count("records"),
    _count("unpriced"),
    _count("unknown"),
    *(_time(f.name) if f.type is float else _count(f.name) for f in fields(Usage)),
    _count("microusd"),
    sqlite_with_rowid=False,
)
"""What one session used on one day, of each key and model: totals are added up from these."""

usage_spending = sa.Table(
    "usage_spending",
    metadata,
    _text("key", primary_key=True),
    _text("day", primary_key=True),
    _count("microusd"),
    sqlite_with_rowid=False,
)
"""What the records of a key cost, by day; still when they have been forgotten."""

usage_leases = sa.Table(
    "usage_leases",
    metadata,
    _text("key", primary_key=True),
    _text("session_id", primary_key=True),
    _text("since"),
    _count("microusd"),
    _count("recorded"),
    _time("lapses_at"),
    sa.Column("is_open", sa.Boolean, nullable=False),
    sa.Index("ix_usage_leases_lapses_at", "key", "lapses_at"),
    sqlite_with_rowid=False,
)
"""One :class:`~relay_app.ledger.stores.accounts.Held` a row."""

usage_tokens = sa.Table(
    "usage_tokens",
    metadata,
    _text("key", primary_key=True),
    sa.Column("second", sa.BigInteger, primary_key=True, autoincrement=False),
    _count("tokens"),
    sqlite_with_rowid=False,
)
"""What the sessions of a key used, by second, of the last minute."""

relay_keys = sa.Table(
    "relay_keys",
    metadata,
    _text("name", primary_key=True),
    _text("key_sha256", unique=True),
    _text("models"),
    sa.Column("budget_usd", sa.Text),
    _text("budget_period"),
    sa.Column("max_sessions", sa.BigInteger),
    sa.Column("max_tokens_per_minute", sa.BigInteger),
    _time("created_at"),
    sa.Column("revoked_at", sa.Double),
    sqlite_with_rowid=False,
)


def to_row(record: UsageRecord) -> Row:
    """The row of ``record``: its values in the order of ``COLUMNS``.

    Raises TypeError, ValueError or OverflowError for a record that no row can hold.
    """
    check_record(record)
    cost, price, estimate = record.cost_usd, record.price, record.estimate
    # Not by way of as_dict(), whose asdict() copies deeply and takes longer than the insert.
    return (
        *_head(record),
        *_usage(record.usage),
        None if cost is None else format(cost, "f"),
        None if price is None else codec.dumps(price),
        record.usage_raw,
        None if estimate is None else codec.dumps(estimate),
        record.rank,
        day_of(record.ended_at),
    )


def from_row(row: Mapping[Any, Any]) -> UsageRecord:
    """The record that :func:`to_row` made a row of."""
    values = {name: value for name, value in row.items() if name not in _DERIVED}
    for name in _JSON:
        values[name] = None if values[name] is None else codec.loads(values[name])
    return UsageRecord.from_dict(values)
