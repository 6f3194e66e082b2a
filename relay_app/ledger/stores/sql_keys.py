"""Relay keys in a table of a SQL database.

The rule: the table refuses a SHA-256 that another name has, whoever puts it there; and the row is
locked from when it is compared until it is replaced.
"""

from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from relay_app import codec
from relay_app.ledger.stores.base import KeyChanged
from relay_app.ledger.stores.keys import StoredKey
from relay_app.ledger.stores.schema import relay_keys
from relay_app.ledger.stores.sql_dialect import Dialect
from relay_app.settings import Key

__all__ = ["all_keys", "put_key"]

_NAMES = [each.name for each in fields(Key)]


def put_key(
    writer: sa.Connection, dialect: Dialect, stored: StoredKey, instead_of: StoredKey | None
) -> ValueError | None:
    """Keep ``stored``, or return why not: see ``Store.put_key``."""
    table = relay_keys.c
    other = sa.select(table.name).where(
        table.key_sha256 == stored.key.key_sha256, table.name != stored.key.name
    )
    try:
        with writer.begin():
            return _replace(writer, dialect, stored, instead_of)
    except exc.IntegrityError:
        with writer.begin():
            taken: str | None = writer.execute(other).scalar_one_or_none()
        if taken is None:
            raise
        return ValueError(f"{taken} is that key already")


def _replace(
    writer: sa.Connection, dialect: Dialect, stored: StoredKey, instead_of: StoredKey | None
) -> KeyChanged | None:
    its_name = relay_keys.c.name == stored.key.name
    if instead_of is None:
        # There is no row to lock yet. Whoever inserts the same name at once waits here for us.
        insert = dialect.insert(relay_keys).on_conflict_do_nothing(index_elements=["name"])
        writer.execute(insert, _to_row(stored))
    # SQLite has no FOR UPDATE and needs none: BEGIN took its one write lock.
    query = sa.select(relay_keys).where(its_name).with_for_update()
    row = writer.execute(query).mappings().one_or_none()
    stands = None if row is None else _from_row(row)
    if stands == stored:
        return None
    if stands is None or stands != instead_of:
        return KeyChanged()
    writer.execute(relay_keys.update().where(its_name), _to_row(stored))
    return None


def all_keys(reader: sa.Connection) -> list[StoredKey]:
    """By name."""
    query = sa.select(relay_keys).order_by(relay_keys.c.name)
    return [_from_row(row) for row in reader.execute(query).mappings()]


def _to_row(stored: StoredKey) -> dict[str, Any]:
    key = stored.key
    return {name: getattr(key, name) for name in _NAMES} | {
        "models": codec.dumps(key.models),
        "budget_usd": None if key.budget_usd is None else format(key.budget_usd, "f"),
        "created_at": stored.created_at,
        "revoked_at": stored.revoked_at,
    }


def _from_row(row: Mapping[Any, Any]) -> StoredKey:
    values = {name: row[name] for name in _NAMES}
    values["models"] = tuple(codec.loads(row["models"]))
    if row["budget_usd"] is not None:
        values["budget_usd"] = Decimal(row["budget_usd"])
    return StoredKey(Key(**values), row["created_at"], row["revoked_at"])
