"""From the keys of version 1, whose records nobody charged, to those of today.

The rule: whoever connects to write comes past here first, so nobody asks what is left of a budget
before all that was ever recorded counts. Any number of relays may do it at once, and any of them
may die of it: a record that was charged says so itself.
"""

from relay_app import codec
from relay_app.ledger.stores.redis_records import Run, charge_of, pages, record_keys
from relay_app.ledger.stores.redis_scripts import UPGRADE
from relay_app.meter.usage import UsageRecord

__all__ = ["upgrade"]


def upgrade(run: Run, prefix: str) -> None:
    """Charge what was written by version 1, page by page, if there is anything."""
    if not run(UPGRADE, record_keys(prefix), "begin"):
        return
    for _, _, page in pages(run, prefix):
        keys: set[str] = set()
        found: list[bytes] = []
        for id_, value in zip(page[::3], page[2::3], strict=True):
            *_, rest = value.split(b" ", 2)
            if b"\0" in id_ or not rest.startswith(b"{"):
                continue  # what was replaced counts no more, and the rest is of today
            record = UsageRecord.from_dict(codec.loads(rest))
            if charge := charge_of(record):
                keys.add(record.key)
                found += (id_, value, charge)
        run(UPGRADE, record_keys(prefix, *sorted(keys)), "", *found)
    run(UPGRADE, record_keys(prefix), "end")
