"""Everything that is SQLite's own: its URL, its file, its pragmas, its triggers.

The rule: a commit is on disk when it returns (``synchronous=FULL`` under WAL), and any number
of processes may share the file: who comes second waits up to ``BUSY_SECONDS``.
"""

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import Insert, insert

from relay_app.ledger.stores.base import StoreError
from relay_app.ledger.stores.native import sleep
from relay_app.ledger.stores.schema import COLUMNS, Row
from relay_app.ledger.stores.sql_migration import is_current, migrate
from relay_app.ledger.stores.sql_triggers import added, changed, same_group, spent, subtracted

__all__ = ["SQLite"]

BUSY_SECONDS = 5.0
_ACCEPTED = "accepted: sqlite:///relative/path.db or sqlite:////absolute/path.db"
_PREFIX = "sqlite:///"

_BAD_VALUE = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    TypeError,
    ValueError,
)
"""What the driver raises for a value it cannot bind or a column will not take."""


class SQLite:
    """The dialect of one database file."""

    local = True
    write_options = {"begin": "BEGIN IMMEDIATE"}  # noqa: RUF012 - never changed
    """Take the write lock first: a lock asked for later can be refused without waiting."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._identity: tuple[int, int] | None = None
        self._put: str | None = None

    @classmethod
    def from_url(cls, url: str) -> "SQLite":
        """Raises ValueError for whatever is not ``sqlite:///PATH``; PATH is taken literally."""
        path = url.removeprefix(_PREFIX)
        if path in ("", ":memory:", "sqlite://", "sqlite:"):
            raise ValueError(f"a store in memory is memory://; for SQLite, {_ACCEPTED}")
        if path == url:
            raise ValueError(_ACCEPTED)
        if "?" in path:
            raise ValueError(f"a SQLite URL takes no parameters; {_ACCEPTED}")
        return cls(path)

    def open(self) -> sa.Engine:
        """An engine on the file, which exists afterwards with the schema in it."""
        self._create()
        engine = sa.create_engine(
            sa.URL.create("sqlite", database=self.path),
            # The pools that keep connections wait on patched locks, on the wrong thread.
            poolclass=sa.NullPool,
            connect_args={"check_same_thread": False, "timeout": BUSY_SECONDS},
        )
        sa.event.listen(engine, "connect", _on_connect)
        sa.event.listen(engine, "begin", _on_begin)
        with engine.connect() as connection:
            if not is_current(connection, self):
                connection.rollback()
                connection = connection.execution_options(**self.write_options)
                with connection.begin():
                    migrate(connection, self)
        self._identity = self._stat()
        return engine

    def check(self) -> None:
        """Raise StoreError if the file we have open is no longer the one at its path.

        SQLite would go on writing, durably, into a file that nobody will ever find again.
        """
        if self._identity is None or self._stat() != self._identity:
            raise StoreError("the SQLite file was moved or deleted while in use")

    def insert(self, table: sa.Table) -> Insert:
        return insert(table)

    def put(self, connection: sa.Connection, statement: Any, rows: Sequence[Row]) -> None:
        """By the driver alone: SQLAlchemy took longer to bring rows to it than the database to
        write them."""
        if self._put is None:
            compiled = statement.compile(
                dialect=sqlite.dialect(paramstyle="qmark"), column_keys=COLUMNS
            )
            assert tuple(compiled.positiontup) == COLUMNS
            self._put = str(compiled)
        driver: Any = connection.connection.driver_connection
        if len(rows) == 1:
            # A transaction by itself, and one call instead of three.
            driver.execute(self._put, rows[0])
            return
        driver.execute(self.write_options["begin"])
        try:
            driver.executemany(self._put, rows)
            driver.execute("COMMIT")
        except BaseException:
            if driver.in_transaction:
                driver.execute("ROLLBACK")
            raise

    def microusd(self, cost_usd: str) -> str:
        """SQLite has no decimals, so what is before the point and what is behind it are read as
        whole numbers: exact, where a float would be off from 16 digits on. With six digits behind
        it, as the relay writes, they are read as one: a quarter of what the triggers take."""
        one = f"CAST(replace({cost_usd}, '.', '') AS INTEGER)"
        digits = f"ltrim({cost_usd}, '-')"
        behind = f"substr({digits}, instr({digits} || '.', '.') + 1)"
        return (
            f"(CASE WHEN substr({cost_usd}, -7, 1) = '.' THEN {one}"
            f" ELSE CASE WHEN {cost_usd} LIKE '-%' THEN -1 ELSE 1 END * (CAST({digits} AS INTEGER)"
            f" * 1000000 + CAST(substr({behind} || '000000', 1, 6) AS INTEGER)) END)"
        )

    @contextmanager
    def relaxed(self, connection: sa.Connection) -> Iterator[None]:
        """Without a sync of its own: the next commit that is durable takes it along."""
        driver: Any = connection.connection.driver_connection
        driver.execute("PRAGMA synchronous=NORMAL")
        try:
            with connection.begin():
                yield
        finally:
            driver.execute("PRAGMA synchronous=FULL")

    def hold(self, connection: sa.Connection, keys: Sequence[str]) -> float:
        """There is but one write lock, and BEGIN took it."""
        return time.time()

    def blames(self, error: Exception) -> bool:
        """SQLite has a misuse error for a value and for much else: who asks has to probe."""
        return isinstance(error, _BAD_VALUE)

    def version(self, connection: sa.Connection) -> int:
        found: int = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        return found

    def set_version(self, connection: sa.Connection, version: int) -> None:
        connection.exec_driver_sql(f"PRAGMA user_version={version}")

    def triggers(self) -> list[str]:
        of = self.microusd
        moved = [
            *(*added("NEW", of), *subtracted("OLD", of)),
            *(*spent("OLD", of, "-"), *spent("NEW", of)),
        ]
        bodies = {
            ("insert", "INSERT", "true"): [*added("NEW", of), *spent("NEW", of)],
            ("change", "UPDATE", same_group): changed(of),
            ("update", "UPDATE", f"NOT ({same_group})"): moved,
            ("delete", "DELETE", "true"): subtracted("OLD", of),
        }
        names = ("insert", "update", "delete")  # those of version 2
        return [
            *(f"DROP TRIGGER IF EXISTS usage_records_{name}" for name in names),
            *(
                f"CREATE TRIGGER usage_records_{name} AFTER {event} ON usage_records"
                f" WHEN {condition} BEGIN {'; '.join(statements)}; END"
                for (name, event, condition), statements in bodies.items()
            ),
        ]

    def _stat(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _create(self) -> None:
        """Create the file for its owner alone; WAL and shared memory files inherit its mode."""
        folder = os.path.dirname(self.path) or "."
        os.makedirs(folder, mode=0o700, exist_ok=True)
        try:
            # O_EXCL, and never opened again here: closing any descriptor of a database file
            # drops the POSIX locks this whole process holds on it.
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # or the name may be lost where the content is not
        finally:
            os.close(descriptor)


def _on_connect(connection: Any, _: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, see _on_begin
    _to_wal(connection)
    connection.execute("PRAGMA synchronous=FULL")


def _to_wal(connection: Any) -> None:
    """Switch the file to WAL: for good, so this does nothing from the second time on.

    The switch needs the file alone and, unlike a transaction, does not wait for it.
    """
    pause_seconds = 0.02
    for attempts_left in reversed(range(int(BUSY_SECONDS / pause_seconds))):
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
        except connection.OperationalError as error:
            if "locked" not in str(error) or not attempts_left:
                raise
            sleep(pause_seconds)
        else:
            return


def _on_begin(connection: sa.Connection) -> None:
    # Straight to the driver: a tenth of a commit's time would go into SQLAlchemy's way there.
    driver: Any = connection.connection.driver_connection
    driver.execute(connection.get_execution_options().get("begin", "BEGIN"))
