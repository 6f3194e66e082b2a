"""The edge between a store and its driver: what every store does there in the same way.

The rule: a record is refused only for what it is, a connection that was lost while nobody used it
is nobody's business, and nothing that a driver raises goes further than here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from relay_app.ledger.stores.base import StoreError
from relay_app.meter.usage import UsageRecord

__all__ = ["check_rejected", "mapped", "once_more", "prepared"]

_T = TypeVar("_T")


def prepared(
    records: Iterable[UsageRecord], prepare: Callable[[UsageRecord], _T]
) -> tuple[list[_T], dict[str, str]]:
    """What ``prepare`` makes of each record, and by id the causes of those it cannot."""
    entries: list[_T] = []
    rejected: dict[str, str] = {}
    for record in records:
        try:
            entries.append(prepare(record))
        except (OverflowError, TypeError, ValueError) as error:
            rejected[record.id] = f"{type(error).__name__}: {error}"
    return entries, rejected


def check_rejected(rejected: Mapping[str, str]) -> None:
    """Raise StoreError if there are any: at the end of a write, when all others are durable."""
    if rejected:
        raise StoreError(f"{len(rejected)} records cannot be stored", rejected=rejected)


def once_more(
    work: Callable[[], _T],
    *,
    kept: bool,
    let_go: Callable[[], None],
    lost: Callable[[BaseException], bool],
) -> _T:
    """``work()``; and if it fails because the connection that was ``kept`` from an earlier call
    was lost meanwhile, at once over a new one.

    A server that closed an idle connection is no failure that anybody need hear of. Whatever
    fails, ``let_go`` is called, so that the next call starts from a fresh connection.
    """
    try:
        return work()
    except BaseException as error:
        let_go()
        if not (kept and lost(error)):
            raise
    try:
        return work()
    except BaseException:
        let_go()
        raise


@contextmanager
def mapped(describe: Callable[[Exception], str]) -> Iterator[None]:
    """What a driver raises becomes a StoreError, in the one line that ``describe`` makes of it."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # noqa: BLE001 - a driver raises what it likes, and this is the edge
        raise StoreError(describe(error)) from None
