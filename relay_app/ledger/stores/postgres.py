"""``postgresql+psycopg://``: everything that is PostgreSQL's own: its URL, locks and triggers.

The rule: a commit is on the server's disk when it returns (``synchronous_commit`` is on, and is
switched on where it is off), any number of relays may write at once, and no wait is for ever.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import exc
from sqlalchemy.dialects.postgresql import Insert, insert

from relay_app.ledger.stores.base import StoreError
from relay_app.ledger.stores.postgres_connection import NativeConnection
from relay_app.ledger.stores.schema import COLUMNS, Row
from relay_app.ledger.stores.sql import SQLStore
from relay_app.ledger.stores.sql_migration import is_current, migrate
from relay_app.ledger.stores.sql_triggers import added, changed, same_group, spent, subtracted

__all__ = ["PostgreSQL", "PostgresStore"]

_ACCEPTED = (
    "accepted: postgresql+psycopg://user:password@host:5432/database, with libpq's parameters "
    "after a ? and whatever is special in the password %-encoded"
)
_SCHEMES = re.compile(r"postgresql(\+psycopg)?://")

_DEFAULTS = {
    "fallback_application_name": "relay_app",
    # A peer that vanished is noticed in 25 s while idle, and in 10 s with data on the way.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}

# Only these are a value's own fault: data exceptions, integrity, program limits (a text too long
# for its index). A table that we may not write to is not the record's fault.
_BLAMED_CLASSES = ("22", "23", "54")

_CREATION_LOCK = 0x72656C61795F6170  # "relay_ap": any number, the same for every relay

# A lock a key, so that a writer or a lease of one never meets those of another in the middle. The
# second argument seeds the hash, so that nobody else's locks on the same names are in our way.
_LOCK = f"pg_advisory_xact_lock(hashtextextended({{key}}, {_CREATION_LOCK}))"
_HOLD = sa.text(
    f"SELECT {_LOCK.format(key='key')}, extract(epoch FROM clock_timestamp())::float8"
    " FROM unnest(CAST(:keys AS text[])) AS key"
)

_version_table = sa.Table(
    "usage_records_schema", sa.MetaData(), sa.Column("version", sa.Integer, nullable=False)
)


class PostgresStore(SQLStore):
    """Usage records in a table of a PostgreSQL database."""

    @classmethod
    def from_url(cls, url: str) -> "PostgresStore":
        return cls(PostgreSQL.from_url(url))


class PostgreSQL:
    """The dialect of one PostgreSQL database."""

    local = False
    write_options = {"isolation_level": "READ COMMITTED"}  # noqa: RUF012 - never changed
    """An upsert then sees what others have committed. Reads are ``REPEATABLE READ``: a view."""

    def __init__(self, params: dict[str, Any]) -> None:
        self._params = _DEFAULTS | params

    @classmethod
    def from_url(cls, url: str) -> "PostgreSQL":
        """Raises ValueError for whatever libpq does not understand; libpq's words could repeat
        a password that is not encoded, so they are not used."""
        if not _SCHEMES.match(url):
            raise ValueError(_ACCEPTED)
        try:
            params = conninfo_to_dict(_SCHEMES.sub("postgresql://", url))
            float(params.get("connect_timeout") or 0)
            if not re.fullmatch(r"[\d,]*", str(params.get("port", ""))):
                raise ValueError
            if "@" in str(params.get("host", "")):  # the rest of a password
                raise ValueError
        except (psycopg.Error, ValueError, UnicodeError):
            raise ValueError(_ACCEPTED) from None
        return cls(params)

    def open(self) -> sa.Engine:
        """An engine on the database, which has the schema in it afterwards."""
        engine = sa.create_engine(
            "postgresql+psycopg://",
            creator=lambda: NativeConnection.dial(self._params),
            poolclass=sa.NullPool,  # the others wait on patched locks, on the wrong thread
            isolation_level="REPEATABLE READ",
            use_native_hstore=False,  # spares a query on the first connection
        )
        with engine.connect() as connection:
            connection = connection.execution_options(**self.write_options)
            with connection.begin():
                if not is_current(connection, self):
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATION_LOCK)))
                    migrate(connection, self)
        return engine

    def check(self) -> None:
        """A connection is to the server that holds the table, or broken: nothing to ask."""

    def insert(self, table: sa.Table) -> Insert:
        return insert(table)

    def put(self, connection: sa.Connection, statement: Any, rows: Sequence[Row]) -> None:
        with connection.begin():
            connection.execute(statement, [dict(zip(COLUMNS, row, strict=True)) for row in rows])

    def microusd(self, cost_usd: str) -> str:
        return f"({cost_usd}::numeric * 1000000)::bigint"

    @contextmanager
    def relaxed(self, connection: sa.Connection) -> Iterator[None]:
        with connection.begin():
            connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")
            yield

    def hold(self, connection: sa.Connection, keys: Sequence[str]) -> float:
        """The row triggers take the same locks, and writers sort by key: nobody waits for
        somebody who waits for him."""
        now: float = connection.execute(_HOLD, {"keys": list(keys)}).all()[-1][1]
        return now

    def blames(self, error: Exception) -> bool:
        """By SQLSTATE; errors without one are the driver's: a NUL, a type it cannot adapt."""
        if not isinstance(error, exc.DBAPIError):
            return isinstance(error, OverflowError | TypeError | ValueError)
        state = getattr(error.orig, "sqlstate", None)
        if state is None:
            return isinstance(error, exc.DataError | exc.ProgrammingError)
        return str(state).startswith(_BLAMED_CLASSES)

    def version(self, connection: sa.Connection) -> int:
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise StoreError(f"the database's encoding must be UTF8, not {encoding}")
        # Asked of the catalogue: to_regclass() answers from a cache that, inside a transaction,
        # may not know yet what somebody else created while we waited for the lock.
        if not sa.inspect(connection).has_table(_version_table.name):
            return 0
        found: int = connection.execute(sa.select(_version_table.c.version)).scalar_one()
        return found

    def set_version(self, connection: sa.Connection, version: int) -> None:
        _version_table.create(connection, checkfirst=True)
        connection.execute(_version_table.delete())
        connection.execute(_version_table.insert().values(version=version))

    def triggers(self) -> list[str]:
        of = self.microusd
        written = "; ".join([*added("NEW", of), *spent("NEW", of)])
        gone = "; ".join(subtracted("OLD", of))
        unspent = "; ".join(spent("OLD", of, "-"))
        bodies = {
            # Before the row itself is locked, or two who replace the same one could each hold
            # what the other waits for.
            "hold": f"PERFORM {_LOCK.format(key='coalesce(NEW.key, OLD.key)')};"
            " RETURN coalesce(NEW, OLD);",
            "count": f"IF TG_OP = 'UPDATE' AND {same_group} THEN {'; '.join(changed(of))};"
            " RETURN NULL; END IF;"
            f" IF TG_OP <> 'DELETE' THEN {written}; END IF;"
            f" IF TG_OP <> 'INSERT' THEN {gone}; END IF;"
            f" IF TG_OP = 'UPDATE' THEN {unspent}; END IF;"
            " RETURN NULL;",
        }
        functions = [
            f"CREATE OR REPLACE FUNCTION usage_records_{name}() RETURNS trigger LANGUAGE plpgsql"
            f" AS $$ BEGIN {body} END $$"
            for name, body in bodies.items()
        ]
        return [
            *functions,
            # Those of version 2 stay as they are: to replace one would wait for every reader.
            *(
                "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_trigger WHERE"
                f" tgrelid = 'usage_records'::regclass AND tgname = 'usage_records_{name}')"
                f" THEN CREATE TRIGGER usage_records_{name} {moment} INSERT OR UPDATE OR DELETE"
                f" ON usage_records FOR EACH ROW EXECUTE FUNCTION usage_records_{name}();"
                " END IF; END $$"
                for name, moment in (("hold", "BEFORE"), ("count", "AFTER"))
            ),
        ]
