"""The ledger of the settings, opened by a command beside the relays that write to it.

The rule: looking never creates. A ledger that is not there is an error that names its place,
for nearly always the settings name another one than was meant.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from relay_app.settings import Settings, SettingsError

if TYPE_CHECKING:  # the stores bring SQLAlchemy along
    from relay_app.ledger.stores.base import Store
    from relay_app.meter.usage import UsageRecord

__all__ = ["opened_ledger", "opened_records"]


@contextmanager
def opened_ledger(settings: Settings, *, create: bool = False) -> Iterator["Store"]:
    """The store of the settings, closed again in the end.

    Raises SettingsError for one in memory, which only the running relay knows, and, unless it
    may be created, for one that is not there.
    """
    from relay_app.web.preflight import open_configured

    url = settings.store.url
    if url.startswith("memory:"):
        raise SettingsError(
            f"{settings.source}: store.url: memory:// is known to the running relay alone; "
            "ask its /v1/usage"
        )
    store = open_configured(settings)
    scheme, _, path = url.partition(":///")
    if not create and scheme.partition("+")[0] == "sqlite" and not Path(path).exists():
        raise SettingsError(
            f"no ledger there yet: {path}; the relay creates it when it starts, and so does "
            "relay-app keys create"
        )
    try:
        yield store
    finally:
        store.close()


@contextmanager
def opened_records(
    store: "Store", *, since: float | None, until: float | None
) -> Iterator["Iterator[UsageRecord]"]:
    """``store.records()``, let go of before the store is closed, whatever ends the reading."""
    records = store.records(since=since, until=until)
    try:
        yield records
    finally:
        if isinstance(records, Generator):  # what else may be an iterator need not be closed
            records.close()
