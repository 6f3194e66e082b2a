"""A database of an older relay_app becomes one of ours, once, with everything that is in it."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from gevent.threadpool import ThreadPool
from ledger_support import OnThread, make_record

from relay_app.ledger.stores import StoreError, open_store
from relay_app.ledger.stores.postgres import PostgreSQL
from relay_app.ledger.stores.schema import COLUMNS, to_row
from relay_app.ledger.stores.sql_triggers import added, spent, subtracted
from relay_app.ledger.stores.sqlite import SQLite
from relay_app.ledger.stores.totals import add_up
from relay_app.meter.usage import UsageRecord

Execute = Callable[..., list[Any]]
"""Statement and parameters to rows, with ``?`` for a parameter, each in a transaction."""

DAY = 86_400.0
VERSION_1 = """
CREATE TABLE usage_records (
  id {text} NOT NULL, session_id {text} NOT NULL, kind {text} NOT NULL, source {text} NOT NULL,
  status {text} NOT NULL, key {text} NOT NULL, upstream {text} NOT NULL, model {text} NOT NULL,
  upstream_model {text} NOT NULL, unit_id {text} NOT NULL,
  started_at {real} NOT NULL, ended_at {real} NOT NULL,
  input_text_tokens BIGINT NOT NULL, input_audio_tokens BIGINT NOT NULL,
  input_image_tokens BIGINT NOT NULL, cached_text_tokens BIGINT NOT NULL,
  cached_audio_tokens BIGINT NOT NULL, cached_image_tokens BIGINT NOT NULL,
  output_text_tokens BIGINT NOT NULL, output_audio_tokens BIGINT NOT NULL,
  reasoning_tokens BIGINT NOT NULL, transcription_seconds {real} NOT NULL,
  cost_usd TEXT, price TEXT, usage_raw TEXT, estimate TEXT,
  source_rank SMALLINT NOT NULL, day {text} NOT NULL, PRIMARY KEY (id)
);
CREATE INDEX ix_usage_records_ended_at ON usage_records (ended_at, id);
CREATE INDEX ix_usage_records_session_id ON usage_records (session_id);
"""
"""As the first release created it."""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def execute(url: str) -> Iterator[Execute]:
    """The operator's way into the database, which is of version 1."""
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True)
        with closing(sqlite3.connect(path, isolation_level=None)) as lite:
            lite.executescript(VERSION_1.format(text="TEXT", real="DOUBLE"))
            lite.execute("PRAGMA user_version=1")
            yield lambda sql, values=(): lite.execute(sql, values).fetchall()
    else:
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as server:
            create: Any = VERSION_1.format(text='TEXT COLLATE "C"', real="DOUBLE PRECISION")
            server.execute(create)
            server.execute("CREATE TABLE usage_records_schema (version INTEGER NOT NULL)")
            server.execute("INSERT INTO usage_records_schema VALUES (1)")

            def run(sql: str, values: Sequence[object] = ()) -> list[Any]:
                statement: Any = sql.replace("?", "%s")
                cursor = server.execute(statement, values)
                return cursor.fetchall() if cursor.description else []

            yield run


def insert(execute: Execute, record: UsageRecord) -> None:
    """As a relay of version 1 writes, which may still be running."""
    names = ", ".join(COLUMNS)
    new = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS)
    execute(
        f"INSERT INTO usage_records ({names}) VALUES ({', '.join('?' * len(COLUMNS))})"
        f" ON CONFLICT (id) DO UPDATE SET {new}"
        " WHERE usage_records.source_rank <= excluded.source_rank",
        list(to_row(record)),
    )


@pytest.fixture
def records(execute: Execute) -> list[UsageRecord]:
    """What is in it, in order: of several days, one of them long after the others."""
    written = [
        make_record(
            str(n),
            f"s{n % 4}",
            ended_at=(9_000.0 if n == 29 else n // 3) * DAY + n,
            key=f"k{n % 2}",
            cost_usd=None if n % 7 == 0 else Decimal("999999.000001") * n,
            source="unknown" if n % 11 == 0 else "reported",
        )
        for n in range(30)
    ]
    for record in written:
        insert(execute, record)
    return written


def test_nothing_is_lost_and_everything_is_counted(url: str, records: list[UsageRecord]) -> None:
    store = OnThread(open_store(url))
    assert store.records() == records
    for by in ("key", "model", "day", "session"):
        assert store.totals(by) == add_up(records, by)
    spent = sum(int(r.cost_usd * 10**6) for r in records if r.key == "k1" and r.cost_usd)
    assert store.ask(key="k1", budget=10**15, ends=True).left_microusd == 10**15 - spent
    store.close()


def test_an_empty_ledger_is_brought_up_to_date_too(url: str, execute: Execute) -> None:
    store = OnThread(open_store(url))
    store.write(make_record())
    assert store.totals("key") == add_up([make_record()], "key")
    store.close()


def test_of_many_relays_that_come_at_once_one_migrates(
    url: str, records: list[UsageRecord]
) -> None:
    stores = [open_store(url) for _ in range(6)]
    pool = ThreadPool(len(stores))
    for opening in [pool.spawn(each.ping) for each in stores]:
        opening.get()
    assert OnThread(stores[0]).totals("day") == add_up(records, "day")
    for each in stores:
        each.close()
    pool.kill()


def test_what_a_relay_of_the_last_version_still_writes_counts(
    url: str, execute: Execute, records: list[UsageRecord]
) -> None:
    store = OnThread(open_store(url))
    store.ping()
    changed = [make_record("0", "s0", key="k0"), make_record("new", "s9", key="k0")]
    for record in changed:
        insert(execute, record)
    left = [*changed, *records[1:]]
    assert store.totals("key") == add_up(left, "key")
    spent = sum(int(r.cost_usd * 10**6) for r in left if r.key == "k0" and r.cost_usd)
    assert store.ask(key="k0", budget=10**15, ends=True).left_microusd == 10**15 - spent
    store.close()


def test_a_migration_that_fails_leaves_what_was_there(
    url: str, execute: Execute, records: list[UsageRecord]
) -> None:
    execute("CREATE TABLE usage_days (mine INTEGER)")  # somebody else's
    store = OnThread(open_store(url))
    with pytest.raises(StoreError, match="usage_days"):
        store.ping()
    execute("DROP TABLE usage_days")
    store.ping()
    assert store.records() == records
    assert store.totals("session") == add_up(records, "session")
    store.close()


def count_as_version_2(url: str, execute: Execute) -> None:
    """Put the triggers of version 2 in the place of ours."""
    if url.startswith("sqlite"):
        of = SQLite("").microusd
        for name in ("insert", "change", "update", "delete"):
            execute(f"DROP TRIGGER usage_records_{name}")
        for event, statements in {
            "insert": [*added("NEW", of), *spent("NEW", of)],
            "update": [
                *(*added("NEW", of), *subtracted("OLD", of)),
                *(*spent("OLD", of, "-"), *spent("NEW", of)),
            ],
            "delete": subtracted("OLD", of),
        }.items():
            execute(
                f"CREATE TRIGGER usage_records_{event} AFTER {event} ON usage_records"
                f" BEGIN {'; '.join(statements)}; END"
            )
        execute("PRAGMA user_version=2")
    else:
        of = PostgreSQL({}).microusd
        execute(
            "CREATE OR REPLACE FUNCTION usage_records_count() RETURNS trigger LANGUAGE plpgsql"
            " AS $$ BEGIN"
            f" IF TG_OP <> 'DELETE' THEN {'; '.join([*added('NEW', of), *spent('NEW', of)])};"
            f" END IF; IF TG_OP <> 'INSERT' THEN {'; '.join(subtracted('OLD', of))}; END IF;"
            f" IF TG_OP = 'UPDATE' THEN {'; '.join(spent('OLD', of, '-'))}; END IF;"
            " RETURN NULL; END $$"
        )
        execute("UPDATE usage_records_schema SET version = 2")


def test_from_version_2_everything_goes_on_being_counted_once(
    url: str, execute: Execute, records: list[UsageRecord]
) -> None:
    store = OnThread(open_store(url))
    store.ping()
    store.close()
    count_as_version_2(url, execute)
    insert(execute, make_record("of version 2", "s0", key="k1", ended_at=DAY))
    store = OnThread(open_store(url))
    store.ping()
    cheaper = [replace(record, cost_usd=Decimal("0.000003")) for record in records[:9]]
    store.write(*cheaper, make_record("of version 3", "s0", key="k1", ended_at=2 * DAY))
    written = store.records()
    assert len(written) == len(records) + 2
    for by in ("key", "model", "day", "session"):
        assert store.totals(by) == add_up(written, by)
    spent_by_k1 = sum(int(r.cost_usd * 10**6) for r in written if r.key == "k1" and r.cost_usd)
    left = store.ask(key="k1", budget=10**15, ends=True).left_microusd
    assert left == 10**15 - spent_by_k1
    store.close()
