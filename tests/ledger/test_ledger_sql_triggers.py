"""What the database keeps up to date by itself: SQLite and PostgreSQL."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from ledger_support import OnThread, costing, make_record

from relay_app.ledger.stores import open_store
from relay_app.ledger.stores.accounts import KEEP_SECONDS
from relay_app.ledger.stores.sql_leases import SWEEP_CALLS
from relay_app.ledger.stores.totals import add_up
from relay_app.meter.usage import Usage

DAY = 86_400.0


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def store(url: str) -> Iterator[OnThread]:
    opened = OnThread(open_store(url))
    opened.ping()
    yield opened
    opened.close()


@pytest.fixture
def operator(url: str, store: OnThread) -> Iterator[Any]:
    """Somebody with a connection of his own, who is no relay."""
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, isolation_level=None)) as lite:
            yield lite
    else:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as server:
            yield server


def test_a_record_that_an_operator_deletes_is_in_no_total(store: OnThread, operator: Any) -> None:
    store.write(*(make_record(str(n), f"s{n % 3}", ended_at=n * DAY) for n in range(6)))
    operator.execute("DELETE FROM usage_records WHERE session_id = 's1'")
    records = store.records()
    assert len(records) == 4
    for by in ("key", "model", "day", "session"):
        assert store.totals(by) == add_up(records, by)
    (rows,) = operator.execute("SELECT count(*) FROM usage_days").fetchone()
    assert rows == 4


def test_a_record_that_an_operator_corrects_counts_as_corrected(
    store: OnThread, operator: Any
) -> None:
    store.ask("a", 500)
    store.write(costing(300, "1", "a"))
    operator.execute("UPDATE usage_records SET cost_usd = '0.000100', model = 'm2'")
    assert store.totals("model") == add_up(store.records(), "model")
    store.ask("a", 0, spent=100)
    assert store.ask("b", ends=True).left_microusd == 900


def test_a_record_that_is_replaced_on_its_day_counts_as_the_one_that_stands(
    store: OnThread,
) -> None:
    """Each value of the one before it is to go, and the others of its day are to stay."""
    bare = {"cost_usd": None, "usage": Usage(), "ended_at": 1.0}
    priced = {"cost_usd": Decimal("0.5"), "usage": Usage(*range(1, 11)), "ended_at": 2.0}
    versions = [
        {**bare, "kind": "residual", "source": "unknown"},
        {**priced, "kind": "residual", "source": "estimated"},
        {**bare, "source": "unknown"},
        {**priced, "source": "estimated"},
        {**bare, "source": "reported"},
        {**priced, "source": "reported", "cost_usd": Decimal("0.25")},
    ]
    store.ask("s1", 10**6, budget=10**6)
    store.write(make_record("another", "s1"), make_record("elsewhere", "s1", model="m2"))
    for version in versions:
        store.write(make_record("1", "s1", **version))
        records = store.records()
        for by in ("key", "model", "day", "session"):
            assert store.totals(by) == add_up(records, by)
        spent = sum(int(record.cost_usd * 10**6) for record in records if record.cost_usd)
        store.ask("s1", 0, spent=spent, budget=10**6)
        assert store.ask("s2", ends=True, budget=10**6).left_microusd == 10**6 - spent


@pytest.mark.parametrize(
    "cost",
    ["0", "0.000001", "0.1", "5", "123.45", "999999999999.999999", "-0.5", "-3.000001", "1.500000"],
)
def test_the_database_reads_money_exactly(store: OnThread, cost: str) -> None:
    store.write(make_record(cost_usd=Decimal(cost)))
    assert store.totals("key")[0].cost_usd == Decimal(cost)
    assert store.totals("key", since=1.5)[0].cost_usd == Decimal(cost)


def test_totals_of_days_and_of_other_spans_agree(store: OnThread) -> None:
    store.write(
        *(
            make_record(
                str(n),
                f"s{n % 5}",
                ended_at=n * DAY / 4,
                model=f"m{n % 2}",
                cost_usd=None if n % 5 == 0 else Decimal(n).scaleb(-6),
                source="unknown" if n % 11 == 0 else "reported",
            )
            for n in range(40)
        )
    )
    for since, until in [(None, None), (DAY, 7 * DAY), (DAY + 1, 7 * DAY), (DAY, 7 * DAY - 1)]:
        for by in ("key", "model", "day", "session"):
            span = {"since": since, "until": until}
            assert store.totals(by, **span) == add_up(store.records(**span), by)


@pytest.mark.parametrize("beyond", [-1e300, 1e300, float("inf"), -(10**11) * DAY])
def test_spans_may_be_wider_than_the_calendar(store: OnThread, beyond: float) -> None:
    store.write(make_record())
    assert len(store.totals("day", since=beyond)) == (beyond < 0)
    assert len(store.totals("day", until=beyond)) == (beyond > 0)


def test_tokens_are_of_the_last_minute(store: OnThread, operator: Any) -> None:
    store.ask("a", tokens=30)
    operator.execute("UPDATE usage_tokens SET second = second - 50")
    assert store.ask("a", tokens=7).tokens == 37
    operator.execute("UPDATE usage_tokens SET second = second - 11")
    assert store.ask("a").tokens == 7


def test_what_is_dead_is_swept_in_passing(store: OnThread, operator: Any) -> None:
    store.ask("gone", 100, tokens=5, seconds=0.0)
    store.ask("suspended", 100, seconds=0.0)
    store.ask("other", 100, key="team-b", seconds=0.0)
    operator.execute(
        f"UPDATE usage_leases SET lapses_at = lapses_at - {KEEP_SECONDS}"
        " WHERE session_id <> 'suspended'"
    )
    operator.execute("UPDATE usage_tokens SET second = second - 61")
    for _ in range(SWEEP_CALLS):
        store.ask("open", 100)
    found = operator.execute("SELECT session_id FROM usage_leases ORDER BY 1").fetchall()
    assert found == [("open",), ("other",), ("suspended",)]
    assert operator.execute("SELECT * FROM usage_tokens").fetchall() == []


def test_a_session_that_was_away_for_too_long_begins_anew(store: OnThread, operator: Any) -> None:
    store.ask("a", 500, seconds=0.0)
    store.write(costing(300, "1", "a"))
    operator.execute(f"UPDATE usage_leases SET lapses_at = lapses_at - {KEEP_SECONDS}")
    assert store.ask("a", 0, spent=300).left_microusd == 400
