"""How long sessions wait for their records: by the journal, by SQLite, and bare.

    python bench/journal.py [--folder DIR] [--sessions 200] [--rounds 25] [--repeats 5]

Prints a table. Every line is of the same sessions, each of which records, waits until that is
durable, and records again; of all repeats, which go round all lines, the best. The last column
is the median as a part of the SQLite store's. ``sqlite3 journal`` is what was rejected: the same
records as text in a SQLite table in WAL mode. Compare lines of one run, not machines.
"""

import argparse
import logging
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

import gevent

from relay_app import codec
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.journal import Journal
from relay_app.ledger.stores import Store, StoreError, open_store
from relay_app.ledger.stores.memory import MemoryStore
from relay_app.meter.usage import Usage, UsageRecord, record_id

RAW = codec.dumps({f"detail_{n}": {"text_tokens": n, "audio_tokens": n} for n in range(8)})


class Elsewhere(MemoryStore):
    """A store behind a network, as far as a commit can tell: ``seconds`` away."""

    local = False

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def write(self, records: Sequence[UsageRecord]) -> None:
        time.sleep(self.seconds)
        super().write(records)


class SQLiteJournal(MemoryStore):
    """SQLite as the journal."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._connection: sqlite3.Connection | None = None

    def write(self, records: Sequence[UsageRecord]) -> None:
        if self._connection is None:
            connection = sqlite3.connect(
                self._folder / "journal.db", isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("CREATE TABLE journal (n INTEGER PRIMARY KEY, record TEXT)")
            self._connection = connection
        rows = [(codec.dumps(record.as_dict()),) for record in records]
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT INTO journal (record) VALUES (?)", rows)
        self._connection.execute("COMMIT")


class Down(MemoryStore):
    """A store that cannot be reached."""

    def write(self, records: Sequence[UsageRecord]) -> None:
        raise StoreError("down")


def make_record(session: str, unit: str) -> UsageRecord:
    return UsageRecord(
        id=record_id(session, unit), session_id=session, kind="response", source="reported",
        status="completed", key="bench", upstream="openai", model="gpt-realtime",
        upstream_model="gpt-realtime", unit_id=unit, started_at=1.7e9, ended_at=1.7e9 + 4.2,
        usage=Usage(input_text_tokens=120, input_audio_tokens=900, output_audio_tokens=640),
        cost_usd=Decimal("0.0712"), price={"input_audio": "32.00"}, usage_raw=RAW,
    )  # fmt: skip


def measure(accountant: Accountant, sessions: int, rounds: int) -> tuple[float, float, float]:
    """Median and 99th percentile of a commit in milliseconds, and records a second."""
    waits: list[float] = []

    def session(records: list[UsageRecord]) -> None:
        for record in records:
            started = time.perf_counter()
            assert accountant.record([record]).wait(60)
            waits.append(time.perf_counter() - started)

    units = [[make_record(f"sess_{n}", f"resp_{unit}") for unit in range(rounds)]
             for n in range(sessions)]  # fmt: skip
    accountant.start()
    accountant.record([make_record("warm", "up")]).wait(60)
    began = time.perf_counter()
    gevent.joinall([gevent.spawn(session, records) for records in units], raise_error=True)
    seconds = time.perf_counter() - began
    waits.sort()
    return waits[len(waits) // 2] * 1e3, waits[len(waits) * 99 // 100] * 1e3, len(waits) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", help="on the disk to measure; a temporary one by default")
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)

        def journalled(store: Store) -> Callable[[], Accountant]:
            return lambda: Accountant(store, journal=Journal(tempfile.mkdtemp(dir=folder)))

        cases: dict[str, Callable[[], Accountant]] = {
            "journal, store down": journalled(Down()),
            "journal, store 50 ms away": journalled(Elsewhere(0.05)),
            "journal, store in memory": journalled(Elsewhere(0.0)),
            "SQLite store": lambda: Accountant(
                open_store(f"sqlite:///{tempfile.mkdtemp(dir=folder)}/relay.db")
            ),
            "sqlite3 journal": lambda: Accountant(
                SQLiteJournal(Path(tempfile.mkdtemp(dir=folder)))
            ),
            "store 50 ms away, no journal": lambda: Accountant(Elsewhere(0.05)),
        }
        logging.disable()  # a store that is down would say so
        best: dict[str, tuple[float, float, float]] = {}
        for _ in range(options.repeats):
            for case, make in cases.items():
                accountant = make()
                figures = measure(accountant, options.sessions, options.rounds)
                best[case] = min(best.get(case, figures), figures)
                accountant.close(60)
        print(f"{options.sessions} sessions, {options.rounds} records each, one a commit")
        print(f"{'':30}{'p50 ms':>9}{'p99 ms':>9}{'records/s':>11}{'ratio':>7}")
        for case, (p50, p99, rate) in best.items():
            ratio = p50 / best["SQLite store"][0]
            print(f"{case:30}{p50:9.2f}{p99:9.2f}{rate:11,.0f}{ratio:7.2f}")


if __name__ == "__main__":
    main()
