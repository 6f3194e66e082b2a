"""Everything that is SQLite's own: its URL, its file, its pragmas, its upsert.

The rule: a commit is on disk when it returns (``synchronous=FULL`` under WAL), and any number
of processes may share the file: who comes second waits up to ``BUSY_SECONDS``.
"""

import os
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects.sqlite import Insert, insert

from relay_app.ledger.stores.base import StoreError
from relay_app.ledger.stores.native import sleep
from relay_app.ledger.stores.schema import SCHEMA_VERSION, usage_records

__all__ = ["SQLite"]

BUSY_SECONDS = 5.0
_ACCEPTED = "accepted: sqlite:///relative/path.db or sqlite:////absolute/path.db"
_PREFIX = "sqlite:///"

_BAD_VALUE = (
    exc.DataError,
    exc.IntegrityError,
    exc.InterfaceError,
    exc.ProgrammingError,
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
            if _version(connection) != SCHEMA_VERSION:
                connection.rollback()
                connection = connection.execution_options(**self.write_options)
                with connection.begin():
                    _migrate(connection)
        self._identity = self._stat()
        return engine

    def check(self) -> None:
        """Raise StoreError if the file we have open is no longer the one at its path.

        SQLite would go on writing, durably, into a file that nobody will ever find again.
        """
        if self._identity is None or self._stat() != self._identity:
            raise StoreError("the SQLite file was moved or deleted while in use")

    def upsert(self) -> Insert:
        """Insert, or replace a row of the same id whose source ranks no higher."""
        statement = insert(usage_records)
        new = statement.excluded
        return statement.on_conflict_do_update(
            index_elements=[usage_records.c.id],
            set_={column.name: new[column.name] for column in usage_records.c},
            where=usage_records.c.source_rank <= new.source_rank,
        )

    def blames(self, error: Exception) -> bool:
        """SQLite has a misuse error for a value and for much else: who asks has to probe."""
        return isinstance(error, _BAD_VALUE)

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


def _version(connection: sa.Connection) -> int:
    version: int = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the file was written by a newer relay_app: its schema is version {version}, "
            f"this one knows up to {SCHEMA_VERSION}"
        )
    return version


def _migrate(connection: sa.Connection) -> None:
    """Bring the schema up to date. We hold the write lock: who came first has done it."""
    if _version(connection) == 0:
        usage_records.metadata.create_all(connection)
        connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")
