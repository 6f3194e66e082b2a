"""``python -m tests.ledger.measure_totals`` prints what it takes to add up a million records.

On a SQLite file and a PostgreSQL server of its own, which has fsync off. What the triggers keep
(``usage_days``) is compared with reading the records, and with an index that covers the question:
what an answer takes, and what each adds to a commit. Then: leases, migrating, forgetting. Another
number of records may be given as the argument.
"""

import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import psycopg  # noqa: E402
from ledger_support import make_ask, make_record  # noqa: E402
from support.servers import Postgres, running_server  # noqa: E402

from relay_app.ledger.stores import Store, open_store  # noqa: E402
from relay_app.ledger.stores.postgres import PostgresStore  # noqa: E402
from relay_app.ledger.stores.schema import COLUMNS, metadata, to_row, usage_records  # noqa: E402
from relay_app.ledger.stores.totals import By  # noqa: E402
from relay_app.meter.usage import UsageRecord  # noqa: E402

RECORDS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
SESSION_RECORDS, DAYS, KEYS, MODELS = 10, 90, 20, 5
DAY = 86_400.0
COMMITS = 300
COVERING = (
    "CREATE INDEX covering ON usage_records"
    " (ended_at, day, key, model, session_id, source, cost_usd, "
    + ", ".join(name for name in COLUMNS if "_tokens" in name)
    + ", transcription_seconds)"
)

Execute = Callable[[str], Any]


def main() -> None:
    print("### SQLite")
    with tempfile.TemporaryDirectory() as folder:
        urls = [f"sqlite:///{folder}/{name}.db" for name in "abcd"]
        paths = [url.removeprefix("sqlite:///") for url in urls]
        connections = [sqlite3.connect(path, isolation_level=None) for path in paths]
        measure(urls, [each.execute for each in connections], lambda: lite(connections[0]))
        for each in connections:
            each.close()
    print("\n### PostgreSQL")
    with running_server(Postgres) as server:
        url = server.url.replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as connection:
            for name in "abcd":
                connection.execute(f"CREATE SCHEMA {name}")
        urls = [f"{url}?options=-csearch_path%3D{name}" for name in "abcd"]
        servers = [psycopg.connect(each, autocommit=True) for each in urls]
        executes: list[Any] = [each.execute for each in servers]
        measure(urls, executes, lambda: copy(servers[0]))
        for each in servers:
            each.close()


def measure(urls: list[str], executes: list[Execute], fill: Callable[[], None]) -> None:
    stores = [open_store(url) for url in urls]
    for store in stores:
        store.ping()
    big, execute = stores[0], executes[0]
    commits(stores[1:], executes[1:])
    print()
    leases(stores[3])
    print()
    to_version_1(big, execute)
    big = open_store(urls[0])
    fill()
    execute(COVERING)
    execute("VACUUM ANALYZE" if "postgres" in urls[0] else "ANALYZE")
    migration = seconds(big.ping, 1)
    # A span that begins within a day is answered from the records.
    ways = {"covering index": 1.0, "records": 1.0, "usage_days": None}
    print("| totals by | " + " | ".join(get_args(By)) + " |\n|---|---|---|---|---|")
    for way, since in ways.items():
        if way == "records":
            execute("DROP INDEX covering")
        figures = [
            seconds(lambda by=by, since=since: big.totals(by, since=since)) for by in get_args(By)
        ]
        print(f"| {way} | " + " | ".join(f"{each:.2f} s" for each in figures) + " |")
    started = time.perf_counter()
    forgotten = big.forget("2026-01-11")
    print(f"\nmigration from version 1: {migration:.1f} s;", end=" ")
    print(f"forgetting: {forgotten / (time.perf_counter() - started):,.0f} records/s")
    for store in stores:
        store.close()


def commits(stores: list[Store], executes: list[Execute]) -> None:
    """One after the other, so that what else the machine does hits all of them."""
    names = ("records alone", "with a covering index", "with usage_days and usage_spending")
    drop_triggers(stores[0], executes[0])
    drop_triggers(stores[1], executes[1])
    executes[1](COVERING)
    print("| a commit, p50 | one record | 100 records |\n|---|---|---|")
    taken: dict[tuple[str, int], list[float]] = {}
    for n in range(COMMITS):
        for name, store in zip(names, stores, strict=True):
            for size in (1, 100):
                batch = [record(n * 1_000_000 + m * 5_003 + size) for m in range(size)]
                work = lambda store=store, batch=batch: store.write(batch)  # noqa: E731
                taken.setdefault((name, size), []).append(seconds(work, 1))
    for name in names:
        p50 = (sorted(taken[name, size])[COMMITS // 2] for size in (1, 100))
        print(f"| {name} | " + " | ".join(f"{1000 * each:.2f} ms" for each in p50) + " |")


def leases(store: Store) -> None:
    print("| asks in a call | a call, p50 | asks/s |\n|---|---|---|")
    for size, keys, crowd in ((1, 1, 1), (100, 1, 100), (100, 20, 100), (100, 1, 2_000)):
        team = f"{size}-{keys}-{crowd}"
        asks = [
            make_ask(f"s{n}", 1_000, budget=10**12, key=f"{team}-{n % keys}", tokens=5)
            for n in range(crowd)
        ]
        for start in range(0, crowd, 100):
            store.lease(asks[start : start + 100], seconds=3_600.0)
        work = lambda asks=asks[:size]: store.lease(asks, seconds=3_600.0)  # noqa: E731
        p50 = sorted(seconds(work, 1) for _ in range(100))[50]
        print(
            f"| {size} of {keys} keys, {crowd} sessions | {1000 * p50:.2f} ms | {size / p50:,.0f} |"
        )


def drop_triggers(store: Store, execute: Execute) -> None:
    for statement in store._dialect.triggers():  # type: ignore[attr-defined]
        _, kind, name, *_ = statement.split()
        if kind == "TRIGGER":
            execute(f"DROP TRIGGER {name}" + " ON usage_records" * ("EXECUTE" in statement))


def to_version_1(store: Store, execute: Execute) -> None:
    """Make of an empty store what the first release would have made, and close it."""
    store.close()
    drop_triggers(store, execute)
    for table in metadata.tables.values():
        if table is not usage_records:
            execute(f"DROP TABLE {table.name}")
    if isinstance(store, PostgresStore):
        execute("DROP FUNCTION usage_records_hold, usage_records_count")
        execute("UPDATE usage_records_schema SET version = 1")
    else:
        execute("PRAGMA user_version=1")


def record(n: int) -> UsageRecord:
    session = n // SESSION_RECORDS
    sessions = RECORDS // SESSION_RECORDS
    return make_record(
        str(n),
        f"sess_{session:012d}",
        key=f"team-{session % KEYS}",
        model=f"gpt-realtime-{session % MODELS}",
        ended_at=1_767_225_600.0 + session * DAYS // sessions * DAY + n % 80_000,
        cost_usd=Decimal(n % 100_000).scaleb(-6),
        usage_raw="x" * 400,
    )


def rows() -> Iterator[tuple[Any, ...]]:
    for n in range(RECORDS):
        yield to_row(record(n))


def lite(connection: sqlite3.Connection) -> None:
    marks = ", ".join("?" * len(COLUMNS))
    connection.execute("BEGIN")
    connection.executemany(
        f"INSERT INTO usage_records ({', '.join(COLUMNS)}) VALUES ({marks})", rows()
    )
    connection.execute("COMMIT")


def copy(connection: psycopg.Connection) -> None:
    statement: Any = f"COPY usage_records ({', '.join(COLUMNS)}) FROM STDIN"
    with connection.cursor().copy(statement) as copying:
        for row in rows():
            copying.write_row(row)


def seconds(work: Callable[[], object], times: int = 3) -> float:
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


if __name__ == "__main__":
    main()
