"""Leases in tables of a SQL database.

The rule: one transaction a call, in which nobody else changes what belongs to the keys that are
asked for, be it by asking or by writing records; what is given is decided in ``accounts``.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import sqlalchemy as sa

from relay_app.ledger.stores.accounts import (
    KEEP_SECONDS,
    MINUTE_SECONDS,
    Account,
    Held,
    answer,
)
from relay_app.ledger.stores.leases import Ask, Lease
from relay_app.ledger.stores.schema import usage_leases, usage_spending, usage_tokens
from relay_app.ledger.stores.sql_dialect import Dialect, replacing

__all__ = ["SQLLeases"]

SWEEP_CALLS = 16
SWEEP_ROWS = 2_000
"""Of so many calls one deletes what is dead of its keys, at most so many leases: more than
have come since, and not so many that a commit waits."""


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
            spent, tokens, accounts = _known(connection, keys, asks, now)
            given = []
            for ask in asks:
                tokens[ask.key] += ask.tokens
                given.append(
                    answer(
                        ask,
                        accounts[ask.key],
                        spent=spent.get((ask.key, ask.limits.since), 0),
                        tokens=tokens[ask.key],
                        now=now,
                        seconds=seconds,
                    )
                )
            self._keep(connection, asks, accounts, now)
            if next(self._calls) % SWEEP_CALLS == 0:
                _sweep(connection, keys, now)
        return given

    def _keep(
        self,
        connection: sa.Connection,
        asks: Sequence[Ask],
        accounts: Mapping[str, Account],
        now: float,
    ) -> None:
        asked = dict.fromkeys((ask.key, ask.session_id) for ask in asks)
        rows = [
            _to_row(key, session_id, held)
            for key, session_id in asked
            if (held := accounts[key].leases.get(session_id)) is not None
        ]
        if rows:
            connection.execute(self._put_lease, rows)
        used: dict[str, int] = {}
        for ask in asks:
            used[ask.key] = used.get(ask.key, 0) + ask.tokens
        second = int(now)
        rows = [{"key": key, "second": second, "tokens": n} for key, n in used.items() if n]
        if rows:
            connection.execute(self._add_tokens, rows)


def _known(
    connection: sa.Connection, keys: Sequence[str], asks: Sequence[Ask], now: float
) -> tuple[dict[tuple[str, str], int], dict[str, int], dict[str, Account]]:
    """What the ledger shows by key and first day, tokens by key, and accounts by key.

    One question, for others wait for as long as we hold their keys, and each way to a server
    and back is longer than what it does there.
    """
    spent: dict[tuple[str, str], int] = {}
    tokens = dict.fromkeys(keys, 0)
    accounts = {key: Account() for key in keys}
    for row in connection.execute(sa.union_all(*_parts(keys, asks, now))):
        what, key, session_id, since, one, other, lapses_at, is_open = row
        if what == "spent":
            spent[key, since] = int(one)
        elif what == "tokens":
            tokens[key] = int(one)
        elif what == "account":
            accounts[key].outstanding[since] = int(one)
            accounts[key].sessions += int(other)
        else:
            held = Held(since, int(one), int(other), lapses_at, is_open)
            accounts[key].leases[session_id] = held
    return spent, tokens, accounts


def _parts(keys: Sequence[str], asks: Sequence[Ask], now: float) -> Iterator[sa.Select[Any]]:
    days, seconds, leases = usage_spending.c, usage_tokens.c, usage_leases.c
    none = (sa.literal(0.0, sa.Double), sa.false())
    with_budget: dict[str, set[str]] = {}
    for ask in asks:
        if ask.limits.budget_microusd is not None:
            with_budget.setdefault(ask.limits.since, set()).add(ask.key)
    for since, some in sorted(with_budget.items()):  # today, this month, ever: hardly more
        yield (
            _part("spent", days.key, "", since, sa.func.sum(days.microusd), 0, *none)
            .where(days.key.in_(sorted(some)), days.day >= since)
            .group_by(days.key)
        )
    yield (
        _part("tokens", seconds.key, "", "", sa.func.sum(seconds.tokens), 0, *none)
        .where(seconds.key.in_(keys), _about(seconds.second, now, MINUTE_SECONDS))
        .group_by(seconds.key)
    )
    beyond = leases.microusd - leases.recorded
    outstanding = sa.func.sum(sa.case((beyond > 0, beyond), else_=0))
    sessions = sa.func.sum(sa.case((leases.is_open, 1), else_=0))
    yield (
        _part("account", leases.key, "", leases.since, outstanding, sessions, *none)
        .where(leases.key.in_(keys), leases.lapses_at > now, leases.lapses_at <= now + KEEP_SECONDS)
        .group_by(leases.key, leases.since)
    )
    asking = sorted({ask.session_id for ask in asks})
    yield _part("lease", *usage_leases.c).where(leases.key.in_(keys), leases.session_id.in_(asking))


def _part(*columns: Any) -> sa.Select[Any]:
    return sa.select(
        *(sa.literal(each) if isinstance(each, str | int) else each for each in columns)
    )


def _about(column: sa.ColumnElement[int], now: float, seconds: float) -> sa.ColumnElement[bool]:
    """No longer ago than ``seconds``; nor further ahead, which is of a clock that was set back."""
    return sa.and_(column > now - seconds, column <= now + seconds)


def _sweep(connection: sa.Connection, keys: Sequence[str], now: float) -> None:
    tokens, leases = usage_tokens.c, usage_leases.c
    connection.execute(
        usage_tokens.delete().where(
            tokens.key.in_(keys), ~_about(tokens.second, now, MINUTE_SECONDS)
        )
    )
    # Of a clock that was set back since.
    connection.execute(
        usage_leases.update()
        .where(leases.key.in_(keys), leases.lapses_at > now + KEEP_SECONDS)
        .values(lapses_at=now)
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
