"""What the database itself keeps up to date whenever a record is written, replaced or deleted.

The rule: it happens in the transaction that writes the record, whichever relay's or operator's
that is, so at every moment ``usage_days`` is what adding up the records says, and what a key has
spent, and what of a lease is recorded, is what the ledger shows.

The statements are SQL that all databases speak; how triggers are made of them is each dialect's.
"""

from collections.abc import Callable
from dataclasses import fields

from relay_app.ledger.stores.schema import usage_days
from relay_app.meter.usage import Usage

__all__ = ["added", "changed", "fillings", "row_of_day", "same_group", "spent", "subtracted"]

_GROUP = [column.name for column in usage_days.primary_key]
_SUMS = [column.name for column in usage_days.c if not column.primary_key]

same_group = " AND ".join(f"OLD.{name} = NEW.{name}" for name in _GROUP)
"""Whether the record in ``NEW`` belongs where ``OLD`` did, which it replaces: then
:func:`changed` says all there is to say. So it is with the end of what was checkpointed."""

MicroUSD = Callable[[str], str]
"""``Dialect.microusd``."""


def row_of_day(row: str, microusd: MicroUSD) -> dict[str, str]:
    """The columns of ``usage_days`` for the one record in ``row``."""
    known = f"CASE WHEN {row}.source = 'unknown' THEN 0 ELSE {row}."
    return {
        **{name: f"{row}.{name}" for name in _GROUP},
        "records": "1",
        "unpriced": f"CASE WHEN {row}.cost_usd IS NULL THEN 1 ELSE 0 END",
        "unknown": f"CASE WHEN {row}.source = 'unknown' THEN 1 ELSE 0 END",
        **{each.name: f"{known}{each.name} END" for each in fields(Usage)},
        "microusd": _cost(row, microusd),
    }


def added(row: str, microusd: MicroUSD) -> list[str]:
    """Add the record in ``row`` to its day."""
    values = row_of_day(row, microusd)
    sums = ", ".join(f"{name} = usage_days.{name} + excluded.{name}" for name in _SUMS)
    return [
        f"INSERT INTO usage_days ({', '.join(values)}) VALUES ({', '.join(values.values())})"
        f" ON CONFLICT ({', '.join(_GROUP)}) DO UPDATE SET {sums}"
    ]


def subtracted(row: str, microusd: MicroUSD) -> list[str]:
    """Take the record in ``row`` from its day, and the day away if that was all of it."""
    values = row_of_day(row, microusd)
    sums = ", ".join(f"{name} = {name} - {values[name]}" for name in _SUMS)
    where = " AND ".join(f"{name} = {values[name]}" for name in _GROUP)
    return [
        f"UPDATE usage_days SET {sums} WHERE {where}",
        f"DELETE FROM usage_days WHERE {where} AND records = 0",
    ]


def spent(row: str, microusd: MicroUSD, sign: str = "") -> list[str]:
    """Let the key and the lease of the record in ``row`` know what it costs."""
    cost = f"{sign}{_cost(row, microusd)}"
    return [
        f"INSERT INTO usage_spending (key, day, microusd) VALUES ({row}.key, {row}.day, {cost})"
        " ON CONFLICT (key, day) DO UPDATE"
        " SET microusd = usage_spending.microusd + excluded.microusd",
        _recorded(row, cost),
    ]


def changed(microusd: MicroUSD) -> list[str]:
    """Count the record in ``NEW`` instead of ``OLD``, if they are of the :data:`same_group`: three
    changes, where adding the one and taking the other away are seven."""
    new, old = row_of_day("NEW", microusd), row_of_day("OLD", microusd)
    more = {name: f"({new[name]}) - ({old[name]})" for name in _SUMS}
    sums = ", ".join(f"{name} = {name} + {more[name]}" for name in _SUMS)
    where = " AND ".join(f"{name} = {new[name]}" for name in _GROUP)
    return [
        f"UPDATE usage_days SET {sums} WHERE {where}",
        f"UPDATE usage_spending SET microusd = microusd + {more['microusd']}"
        " WHERE key = NEW.key AND day = NEW.day",
        _recorded("NEW", more["microusd"]),
    ]


def fillings(microusd: MicroUSD) -> list[str]:
    """Bring in the records that are there already, with ``:since <= ended_at < :until``, which
    has to be one whole day."""
    values = row_of_day("r", microusd)
    sums = [f"sum({values[name]})" for name in _SUMS]
    of_day = "FROM usage_records r WHERE r.ended_at >= :since AND r.ended_at < :until"
    return [
        f"INSERT INTO usage_days ({', '.join(values)})"
        f" SELECT {', '.join([*(values[name] for name in _GROUP), *sums])}"
        f" {of_day} GROUP BY {', '.join(values[name] for name in _GROUP)}",
        "INSERT INTO usage_spending (key, day, microusd)"
        f" SELECT r.key, r.day, sum({values['microusd']}) {of_day} GROUP BY r.key, r.day",
    ]


def _recorded(row: str, cost: str) -> str:
    return (
        f"UPDATE usage_leases SET recorded = recorded + {cost}"
        f" WHERE key = {row}.key AND session_id = {row}.session_id AND since <= {row}.day"
    )


def _cost(row: str, microusd: MicroUSD) -> str:
    return f"coalesce({microusd(f'{row}.cost_usd')}, 0)"
