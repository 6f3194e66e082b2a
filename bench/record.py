"""What a record costs from ``response.done`` to the disk, by part: ``python -m bench.record``.

Microseconds of CPU a record, user and system apart, of all threads; the best of the rounds. What is
timed in pieces is in the first column, user and system together.
The rule: the relay's own parts, put together as it does, without sockets and without the other
messages of a turn; and every commit is synced, so the disk is the real one.
"""

import gc
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TypeVar

import click
import gevent

from bench.workload import MODEL, Turn, session_created
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.entries import decode, encode, scan
from relay_app.ledger.price_list import built_in_prices
from relay_app.ledger.pricer import Pricer
from relay_app.ledger.stores import Store, open_store
from relay_app.ledger.stores.memory import MemoryStore
from relay_app.meter.meter import Meter
from relay_app.meter.prices import PriceList
from relay_app.meter.usage import UsageRecord, record_id
from relay_app.meter.vocabulary import load
from relay_app.wire.messages import Message

__all__ = ["costs"]

_T = TypeVar("_T")

Cost = tuple[float, float]
"""User and system time of a record, in seconds."""

SYNC_SECONDS = 0.001
GROUPS = (5, 20)

CACHE_BYTES = 24_000_000
"""What passes between two commits at the pace of speech leaves nothing of them in the caches."""
RUNNING = 10
"""Responses that were checkpointed together."""


class _Disk(MemoryStore):
    """A store that takes as long as a disk and does nothing."""

    def write(self, records: Sequence[UsageRecord]) -> None:
        time.sleep(SYNC_SECONDS)


def _whole(payload: bytes) -> Message:
    return Message(True, payload, 0, len(payload), b"")


def _now(who: int) -> Cost:
    used = resource.getrusage(who)
    return used.ru_utime, used.ru_stime


class _Costs:
    def __init__(self, folder: Path) -> None:
        load()
        turn = Turn()
        self._numbers = count(1)
        self._messages = lambda number: [
            _whole(bytes(turn.payload(index, 1, number))) for index in range(turn.down_messages)
        ]
        self._meter = Meter(
            "sess_bench", key="k", upstream="u", model=MODEL, upstream_model=MODEL,
            clock=time.time, price=Pricer(PriceList(built_in_prices().prices), {}),
        )  # fmt: skip
        self._metered([_whole(session_created(1))])
        self._folders = (folder / str(n) for n in count())
        self._like = self._metered(self._messages(0))[0]

    def _metered(self, messages: Sequence[Message]) -> list[UsageRecord]:
        return [record for message in messages for record in self._meter.received(message)]

    def _records(self, sessions: int, each: int) -> list[list[UsageRecord]]:
        """Records as the sessions of a minute make them, those of a session in a list."""
        return [
            [
                replace(
                    self._like,
                    id=record_id(session := f"sess_{n}", unit := f"resp_{next(self._numbers)}"),
                    session_id=session,
                    unit_id=unit,
                    ended_at=time.time(),
                )
                for _ in range(each)
            ]
            for n in range(sessions)
        ]

    @contextmanager
    def _store(self) -> Iterator[Store]:
        store = open_store(f"sqlite:///{next(self._folders)}/relay.db")
        store.write(self._records(1, 1)[0])
        yield store
        store.close()

    def metered(self, turns: int) -> Cost:
        """`response.created` and `response.done` to a record with its price"""
        used = 0.0
        for _ in range(turns):
            first, *others, last = self._messages(next(self._numbers))
            for messages in ([first], others, [last]):
                begun = time.thread_time()
                self._metered(messages)
                used += 0.0 if messages is others else time.thread_time() - begun
        return used / turns, 0.0

    def handed_over(self, sessions: int, each: int, store: Store) -> Cost:
        """the outbox, the hold, the way to the thread and back"""
        # Nothing else keeps this hub busy: a pause between writes would cost it its own sleep.
        accountant = Accountant(store, group_seconds=0)
        accountant.record(self._records(1, 1)[0]).wait(5)
        made = self._records(sessions, each)

        def hold(records: list[UsageRecord]) -> None:
            for record in records:
                accountant.record([record]).wait(5)

        before = _now(resource.RUSAGE_SELF)
        gevent.joinall([gevent.spawn(hold, records) for records in made], raise_error=True)
        cost = _each(before, _now(resource.RUSAGE_SELF), sessions * each)
        accountant.close(5)
        return cost

    def stored(self, group: int, times: int) -> Cost:
        """the store on its thread"""
        with self._store() as store:
            groups = list(zip(*self._records(group, times), strict=True))
            before = _now(resource.RUSAGE_THREAD)
            for records in groups:
                store.write(records)
            return _each(before, _now(resource.RUSAGE_THREAD), group * times)

    def paced(self, times: int) -> tuple[Cost, Cost]:
        """the store on its thread, at the pace of speech"""
        with self._store() as store:
            ends = self._records(times, 1)
            running = [
                replace(end, kind="residual", source="estimated", status="dropped", usage_raw=None)
                for (end,) in ends
            ]
            begun = [running[at : at + RUNNING] for at in range(0, times, RUNNING)]
            return _written_cold(store, begun), _written_cold(store, ends)

    def synced(self, times: int) -> Cost:
        """a record's bytes appended to a file and synced, no more, at the pace of speech"""
        entry = encode(self._like)
        with next(self._folders).open("xb", buffering=0) as file:

            def append(_: int) -> None:
                file.write(entry)
                os.fdatasync(file.fileno())

            return sum(_cold(append, range(times))) / times, 0.0

    def checkpointed(self, times: int) -> Cost:
        """a checkpoint of a response that has begun, with its price"""
        first, *others = self._messages(next(self._numbers))
        self._metered([first])
        used = time.thread_time()
        for _ in range(times):
            self._meter.checkpoint()
        used = time.thread_time() - used
        self._metered(others)
        return used / times, 0.0

    def journalled(self) -> Cost:
        """what a journal would add: an entry, encoded, found and decoded"""
        records = [record for each in self._records(20, 20) for record in each]
        begun = time.thread_time()
        data = b"".join(map(encode, records))
        for payload in scan(data, final=True).payloads:
            decode(payload)
        return (time.thread_time() - begun) / len(records), 0.0

    def all_of_it(self, sessions: int, each: int) -> Cost:
        """both"""
        with self._store() as store:
            return self.handed_over(sessions, each, store)


def _written_cold(store: Store, batches: Sequence[Sequence[UsageRecord]]) -> Cost:
    """What each record costs when the caches are full of other things before every commit."""
    return sum(_cold(store.write, batches)) / sum(map(len, batches)), 0.0


def _cold(work: Callable[[_T], None], of: Iterable[_T]) -> Iterator[float]:
    """Seconds ``work`` takes of this thread, each time with the caches full of other things."""
    passing, kept = bytes(CACHE_BYTES), bytearray(CACHE_BYTES)
    for each in of:
        kept[:] = passing
        # The kernel tells user from system by the tick, which is longer than a commit.
        begun = time.thread_time()
        work(each)
        yield time.thread_time() - begun


def _each(before: Cost, after: Cost, records: int) -> Cost:
    return (after[0] - before[0]) / records, (after[1] - before[1]) / records


def costs(*, rounds: int = 7, records: int = 1_000) -> dict[str, Cost]:
    """Microseconds of user and system time of a record, by part: the best of the rounds."""
    found: dict[str, Cost] = {}

    def note(part: str, cost: Cost) -> None:
        found[part] = min(found.get(part, cost), cost, key=sum)

    with tempfile.TemporaryDirectory() as name:
        run = _Costs(Path(name))
        for _ in range(rounds):
            gc.collect()
            note(str(run.metered.__doc__), run.metered(200))
            note(str(run.checkpointed.__doc__), run.checkpointed(200))
            note(str(run.journalled.__doc__), run.journalled())
            begun, ends = run.paced(records // 5)
            note(f"{run.paced.__doc__}: a checkpoint, {RUNNING} a commit", begun)
            note(f"{run.paced.__doc__}: the end that replaces it, alone", ends)
            note(str(run.synced.__doc__), run.synced(records // 5))
            for group in GROUPS:
                each = records // group
                note(
                    f"{run.handed_over.__doc__}, for {group}", run.handed_over(group, each, _Disk())
                )
                note(f"{run.stored.__doc__}, for {group}", run.stored(group, each))
                note(f"{run.all_of_it.__doc__}, for {group}", run.all_of_it(group, each))
    return {part: (1e6 * user, 1e6 * system) for part, (user, system) in found.items()}


@click.command()
@click.option("--rounds", default=7, show_default=True)
@click.option("--records", default=1_000, show_default=True)
def main(rounds: int, records: int) -> None:
    """Prints what a record costs."""
    click.echo("| of one record | user, µs | system, µs |\n|---|---|---|")
    for part, (user, system) in costs(rounds=rounds, records=records).items():
        click.echo(f"| {part} | {user:.0f} | {system:.0f} |")


if __name__ == "__main__":
    main()
