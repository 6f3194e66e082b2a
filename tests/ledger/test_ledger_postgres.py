"""What is PostgreSQL's own: its session, its schema, and whose fault an error is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal

import gevent
import psycopg
import pytest
from gevent.threadpool import ThreadPool
from ledger_support import OnThread, make_record

from relay_app.ledger.stores import StoreError, open_store
from relay_app.meter.usage import Usage


@pytest.fixture
def store(postgres_url: str) -> Iterator[OnThread]:
    opened = OnThread(open_store(postgres_url))
    yield opened
    opened.close()


@contextmanager
def operator(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        yield connection


def session_says(store: OnThread, name: str) -> str:
    with store.direct._dialect.open().connect() as connection:  # type: ignore[attr-defined]
        return connection.exec_driver_sql(f"SHOW {name}").scalar()


def test_many_open_an_empty_database_at_once(postgres_url: str) -> None:
    stores = [open_store(postgres_url) for _ in range(8)]
    pool = ThreadPool(len(stores))
    for opening in [pool.spawn(each.ping) for each in stores]:
        opening.get()
    for each in stores:
        each.close()
    pool.kill()


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_both_spellings_of_the_url_are_the_same_store(postgres_url: str, scheme: str) -> None:
    store = OnThread(open_store(postgres_url.replace("postgresql+psycopg", scheme)))
    store.write(make_record())
    store.close()
    with operator(postgres_url) as connection:
        found = connection.execute("SELECT id, cost_usd FROM usage_records").fetchall()
    assert found == [(make_record().id, "0.0123")]


def test_a_name_is_resolved_and_every_address_tried(postgres_url: str) -> None:
    # Port 1 refuses; then come all addresses of localhost, of which one is the server's.
    host, _, rest = postgres_url.partition("@")[2].partition(":")
    port = rest.partition("/")[0]
    several = postgres_url.replace(f"{host}:{port}", f"{host}:1,localhost:{port}")
    store = OnThread(open_store(several))
    store.ping()
    store.close()


def test_commits_are_synchronous_and_nothing_waits_for_ever(store: OnThread) -> None:
    assert session_says(store, "synchronous_commit") == "on"
    assert session_says(store, "statement_timeout") == "30s"
    assert session_says(store, "lock_timeout") == "10s"


def test_what_the_url_sets_stands_but_for_commits_that_may_be_lost(postgres_url: str) -> None:
    more = "%20-cstatement_timeout%3D1min%20-csynchronous_commit%3D"
    for asked, given in (("off", "on"), ("remote_apply", "remote_apply")):
        store = OnThread(open_store(postgres_url + more + asked))
        assert session_says(store, "synchronous_commit") == given
        assert session_says(store, "statement_timeout") == "1min"
        store.close()


@pytest.mark.parametrize(
    "flaw",
    [
        {"key": "\udc80"},
        {"usage_raw": "\ud800"},
        {"model": "a\x00b"},
        {"unit_id": "\x00"},
        {"session_id": None},
        {"model": object()},
        {"status": None},
        {"started_at": float("nan")},
        {"usage": Usage(input_text_tokens=2**63)},
        {"session_id": "".join(chr(0x4E00 + n * 7919 % 20_000) for n in range(9_000))},
    ],
)
def test_a_value_no_column_takes_costs_only_its_own_record(
    store: OnThread, flaw: dict[str, object]
) -> None:
    good = [make_record(str(n), ended_at=float(n)) for n in range(20)]
    bad = [make_record(f"bad{n}", **flaw) for n in range(2)]
    with pytest.raises(StoreError) as caught:
        store.write(bad[0], *good, bad[1])
    assert sorted(caught.value.rejected) == sorted(record.id for record in bad)
    assert store.records() == good


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DROP TABLE usage_records", "does not exist"),
        ("ALTER TABLE usage_records DROP COLUMN price", "does not exist"),
        ("REVOKE ALL ON usage_records FROM {user}", "permission denied"),
        ("REVOKE INSERT ON usage_records FROM {user}", "permission denied"),
        ("ALTER ROLE {user} SET default_transaction_read_only = on", "read-only"),
    ],
)
def test_what_the_database_refuses_is_never_blamed_on_a_record(
    postgres_url: str, statement: str, says: str
) -> None:
    user = f"clerk_{postgres_url[-12:]}"
    schema = postgres_url.rpartition("%3D")[2]
    with operator(postgres_url) as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'hunter2'")
        connection.execute(f"GRANT ALL ON SCHEMA {schema} TO {user}")
        owner = OnThread(open_store(postgres_url))
        owner.ping()
        owner.close()
        connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {user}")
        before, _, after = postgres_url.partition("//")
        theirs = f"{before}//{user}:hunter2@{after.partition('@')[2]}"
        connection.execute(statement.format(user=user))
        store = OnThread(open_store(theirs))
        try:
            with pytest.raises(StoreError, match=says) as caught:
                store.write(make_record("1"), make_record("2"))
            assert not caught.value.rejected
        finally:
            store.close()
            connection.execute(f"DROP OWNED BY {user}")
            connection.execute(f"DROP ROLE {user}")


def test_a_schema_of_a_newer_version_is_left_alone(postgres_url: str) -> None:
    store = OnThread(open_store(postgres_url))
    store.ping()
    store.close()
    with operator(postgres_url) as connection:
        connection.execute("UPDATE usage_records_schema SET version = 99")
    store = OnThread(open_store(postgres_url))
    for attempt in (store.ping, lambda: store.write(make_record())):
        with pytest.raises(StoreError, match="newer relay_app"):
            attempt()
    store.close()


def test_a_database_that_cannot_hold_every_text_is_refused(postgres_url: str) -> None:
    name = f"latin_{postgres_url[-12:]}"
    with operator(postgres_url) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
        head, _, tail = postgres_url.partition("?")
        store = OnThread(open_store(f"{head.rpartition('/')[0]}/{name}?{tail}"))
        with pytest.raises(StoreError, match="must be UTF8, not LATIN1") as caught:
            store.write(make_record())
        assert not caught.value.rejected
        store.close()
        connection.execute(f"DROP DATABASE {name}")


def test_a_row_locked_by_somebody_else_is_not_waited_for_for_ever(postgres_url: str) -> None:
    store = OnThread(open_store(postgres_url + "%20-clock_timeout%3D100"))
    store.write(make_record())
    with operator(postgres_url) as connection, connection.transaction():
        connection.execute("SELECT FROM usage_records FOR UPDATE")
        with pytest.raises(StoreError, match="lock timeout") as caught:
            store.write(make_record())
        assert not caught.value.rejected
    store.write(make_record())
    store.close()


def test_an_error_shows_neither_statement_nor_values(store: OnThread) -> None:
    with pytest.raises(StoreError) as caught:
        store.write(make_record(status=None, usage_raw="PRIVATE"))
    assert "PRIVATE" not in str(caught.value) + str(caught.value.rejected)


def test_totals_are_of_the_types_they_always_are(store: OnThread) -> None:
    store.write(make_record())
    (total,) = store.totals("key")
    assert total.usage == make_record().usage
    assert {type(getattr(total.usage, name)) for name in Usage.__dataclass_fields__} == {int, float}
    assert total.cost_usd == Decimal("0.0123")


def test_reports_do_not_stand_before_writes(store: OnThread) -> None:
    store.write(*(make_record(str(n)) for n in range(1_000)))
    view = store.direct.records()
    pool: Callable[..., object] = gevent.get_hub().threadpool.apply
    pool(next, (view,))
    store.write(make_record("1"), make_record("late"))
    pool(view.close)  # type: ignore[attr-defined]
