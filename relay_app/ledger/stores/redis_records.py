"""Usage records as the scripts take and give them, and one moment of them, page by page.

The rule: what is read is never more than a page, and shows what was there when its view began.
"""

from collections.abc import Callable, Iterator
from typing import Any

from relay_app import codec
from relay_app.ledger.stores.base import StoreError, check_record, microusd
from relay_app.ledger.stores.redis_scripts import PAGE, VIEW_SECONDS, key_names
from relay_app.ledger.stores.totals import day_of
from relay_app.meter.usage import UsageRecord

__all__ = ["BATCH_RECORDS", "Entry", "charge_of", "entry_of", "pages", "record_keys", "view"]

BATCH_RECORDS = 500
"""How many a script handles at once, and a reader holds: some 3 MB at the most. The server does
nothing else meanwhile, for about 10 ms."""

Entry = tuple[bytes, int, str, bytes, bytes]
"""Id, rank, ``ended_at``, charge and JSON of a record."""

Run = Callable[..., Any]
"""Runs a script with its keys and arguments."""


def record_keys(prefix: str, *charged: str) -> list[str]:
    """The keys of a script about records, and of the accounts that it may charge."""
    kinds = ("spending", "leases", "lapses", "sums")
    accounts = [f"{kind}:{key}" for key in charged for kind in kinds]
    return key_names(prefix, "records", "order", "buried", *accounts)


def entry_of(record: UsageRecord) -> Entry:
    """What WRITE takes. Raises TypeError, ValueError or OverflowError."""
    check_record(record)
    if "\0" in record.id:
        raise ValueError("an id has no NUL in it")
    text = codec.dumps(record.as_dict())
    ended_at = repr(float(record.ended_at))
    return record.id.encode(), record.rank, ended_at, charge_of(record), text.encode()


def charge_of(record: UsageRecord) -> bytes:
    """What ``record`` brings into its key's account: see ``redis_scripts``."""
    if not record.cost_usd:
        return b""
    key, cost, day = record.key.encode(), microusd(record.cost_usd), day_of(record.ended_at)
    return f"{cost} {day} {len(key)} ".encode() + key + b" " + record.session_id.encode()


def text_of(rest: bytes) -> bytes:
    """The JSON of a record, whatever version of the schema it was written by."""
    if rest.startswith(b"{"):  # version 1
        return rest
    length, _, rest = rest.partition(b" ")
    return rest[int(length) :]


def pages(run: Run, prefix: str, since: str = "-inf") -> Iterator[tuple[int, int, list[Any]]]:
    """All fields from ``since`` on: the moment and the time of each page, and field, score and
    value of what is on it, one after another."""
    keys = record_keys(prefix)
    after, score = b"", b""
    while True:
        moment, now, *page = run(PAGE, keys, BATCH_RECORDS, since, after, score)
        yield int(moment), int(now), page
        if len(page) < 3 * BATCH_RECORDS:
            return
        after, score = page[-3], page[-2]


def view(run: Run, prefix: str, since: str) -> Iterator[tuple[float, bytes]]:
    """``ended_at`` and JSON of all there is from ``since`` on, in order, as of now."""
    begun: tuple[int, int] | None = None
    seen: tuple[float, bytes] | None = None
    for moment, now, page in pages(run, prefix, since):
        begun = begun or (moment, now)
        if now - begun[1] >= VIEW_SECONDS:
            raise StoreError(f"a view can be read for {VIEW_SECONDS} s: begin again")
        for field, score, value in zip(page[::3], page[1::3], page[2::3], strict=True):
            id_, buried, _ = field.partition(b"\0")
            first, born, rest = value.split(b" ", 2)
            if int(born) > begun[0] or (buried and int(first) <= begun[0]):
                continue  # not there yet, or not there any more
            place = (float(score), id_)
            if seen is None or place > seen:
                seen = place
                yield place[0], text_of(rest)
