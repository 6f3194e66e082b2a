"""Leases in tables of a SQL database.

The rule: one transaction a call, in which nobody else changes what belongs to the keys that are
asked for, be it by asking or by writing records; what is given is decided in ``accounts``.
"""

from collections.abc import Sequence
from itertools import count
from typing import Any

import sqlalchemy as sa

from relay_app.ledger.stores.accounts import KEEP_SECONDS, MINUTE_SECONDS, Held, answer
from relay_app.ledger.stores.leases import Ask, Lease
from relay_app.ledger.stores.schema import usage_leases, usage_spending, usage_tokens
from relay_app.ledger.stores.sql_dialect import Dialect, replacing

__all__ = ["SQLLeases"]

SWEEP_CALLS = 16
SWEEP_ROWS = 2_000
"""Of so many calls one deletes what is dead of its keys, at most so many leases: more than
have come since, and not so many that a commit waits."""

_Leases = dict[str, dict[str, Held]]  # by key and session


class SQLLeases:
    """What :meth:`Store.lease` does on a connection."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._calls = count()
        self._put_lease = replacing(dialect, usage_leases)
        insert = dialect.insert(usage_tokens)
        self._add_tokens = insert.on_conflict_do_update(
            index_elements=list(usage_tokens.primary_key),
            set_={"tokens": usage_tokens.c.tokens + insert.excluded.tokens},
        )

    def give(
        self, connection: sa.Connection, asks: Sequence[Ask], *, seconds: float
    ) -> list[Lease]:
        if not asks:
            return []
        keys = sorted({ask.key for ask in asks})
        with self._dialect.relaxed(connection):
            now = self._dialect.hold(connection, keys)
            spent = _spent(connection, asks)
            tokens = _tokens(connection, keys, now)
            leases = _leases(connection, keys, asks, now)
            given = []
            for ask in asks:
                tokens[ask.key] += ask.tokens
                given.append(
                    answer(
                        ask,
                        leases[ask.key],
                        spent=spent.get((ask.key, ask.limits.since), 0),
                        tokens=tokens[ask.key],
                        now=now,
                        seconds=seconds,
                    )
                )
            self._keep(connection, asks, leases, now)
            if next(self._calls) % SWEEP_CALLS == 0:
                _sweep(connection, keys, now)
        return given

    def _keep(
        self, connection: sa.Connection, asks: Sequence[Ask], leases: _Leases, now: float
    ) -> None:
        # Each once, however often it asked: as it is by now.
        asked = {(ask.key, ask.session_id): leases[ask.key].get(ask.session_id) for ask in asks}
        rows = [_to_row(*names, held) for names, held in asked.items() if held is not None]
        if rows:
            connection.execute(self._put_lease, rows)
        used: dict[str, int] = {}
        for ask in asks:
            used[ask.key] = used.get(ask.key, 0) + ask.tokens
        second = int(now)
        rows = [{"key": key, "second": second, "tokens": n} for key, n in used.items() if n]
        if rows:
            connection.execute(self._add_tokens, rows)


def _spent(connection: sa.Connection, asks: Sequence[Ask]) -> dict[tuple[str, str], int]:
    """What the ledger shows, by key and first day; only of keys that have a budget."""
    keys: dict[str, set[str]] = {}
    for ask in asks:
        if ask.limits.budget_microusd is not None:
            keys.setdefault(ask.limits.since, set()).add(ask.key)
    table = usage_spending.c
    found = {}
    for since, of_keys in keys.items():  # today, the first of the month, or ever: hardly more
        query = sa.select(table.key, sa.func.sum(table.microusd)).group_by(table.key)
        query = query.where(table.key.in_(sorted(of_keys)), table.day >= since)
        for key, microusd in connection.execute(query):
            found[key, since] = int(microusd)
    return found


def _tokens(connection: sa.Connection, keys: Sequence[str], now: float) -> dict[str, int]:
    table = usage_tokens.c
    query = sa.select(table.key, sa.func.sum(table.tokens)).group_by(table.key)
    query = query.where(table.key.in_(keys), table.second > now - MINUTE_SECONDS)
    return dict.fromkeys(keys, 0) | {key: int(n) for key, n in connection.execute(query)}


def _leases(
    connection: sa.Connection, keys: Sequence[str], asks: Sequence[Ask], now: float
) -> _Leases:
    """Those that count, and those of the sessions that ask, lapsed or not."""
    table = usage_leases.c
    of_keys = sa.select(usage_leases).where(table.key.in_(keys))
    asking = sorted({ask.session_id for ask in asks})
    # Two ways into one table, each with its index.
    query = sa.union(
        of_keys.where(table.lapses_at > now), of_keys.where(table.session_id.in_(asking))
    )
    found: _Leases = {key: {} for key in keys}
    for key, session_id, *held in connection.execute(query):
        found[key][session_id] = Held(*held)
    return found


def _sweep(connection: sa.Connection, keys: Sequence[str], now: float) -> None:
    tokens, leases = usage_tokens.c, usage_leases.c
    connection.execute(
        usage_tokens.delete().where(tokens.key.in_(keys), tokens.second <= now - MINUTE_SECONDS)
    )
    dead = sa.select(leases.key, leases.session_id).where(
        leases.key.in_(keys), leases.lapses_at <= now - KEEP_SECONDS
    )
    connection.execute(
        usage_leases.delete().where(
            sa.tuple_(leases.key, leases.session_id).in_(dead.limit(SWEEP_ROWS))
        )
    )


def _to_row(key: str, session_id: str, held: Held) -> dict[str, Any]:
    return {
        "key": key,
        "session_id": session_id,
        "since": held.since,
        "microusd": held.microusd,
        "recorded": held.recorded,
        "lapses_at": held.lapses_at,
        "is_open": held.open,
    }
