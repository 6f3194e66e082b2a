"""The greenlet-safe front of a ledger: sessions record here, and wait or not as they please.

The rule: the hub never waits for a disk or a store. One greenlet takes everything that is
pending and hands it to one thread as one write, so a single transaction or sync serves all
sessions that wait. What is written to is the journal, or, without one, the store itself. If it
fails it is tried again until it works; meanwhile everything stays queued, in order, and
``failing_since``, ``pending`` and ``lag_seconds`` say so.

Memory is bounded by ``max_pending`` records, at most about 6 kB each, and half as many
checkpoints of 2 kB: 70 MB by default. What waits in the journal takes none.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, ParamSpec, TypeVar

import gevent
from gevent.event import Event
from gevent.hub import Hub, get_hub
from gevent.threadpool import ThreadPool

from relay_app.breath import Breath
from relay_app.ledger.backoff import backoff_seconds
from relay_app.ledger.entries import best_of_each
from relay_app.ledger.journal import Journal
from relay_app.ledger.outbox import Commit, LedgerClosed, Outbox
from relay_app.ledger.shipper import Shipper
from relay_app.ledger.stores.base import Store, redact
from relay_app.ledger.threads import call
from relay_app.ledger.writer import COMMIT_SECONDS, Writer
from relay_app.meter.usage import UsageRecord

__all__ = ["COMMIT_SECONDS", "Accountant", "Durability"]

Durability = Literal["before-forward", "async"]

READERS = 2
CLOSE_SECONDS = 1.0
FLUSH_SECONDS = 0.05
"""Under ``async``, how much of what was used a kill may cost."""

GROUP_SECONDS = 0.01
"""How far apart writes begin at most because they are shared: twice the records a commit took a
third off what each costs the thread. Whoever is alone waits for nobody, see ``_pause``."""

GROUP_COMMITS = 6
"""A write that so many shared is followed by the longest pause."""

CHECKPOINT_SECONDS = 0.2
"""How long a checkpoint waits for a write that it can join, or to become needless."""

WARN_SECONDS = 30.0
"""A record that has waited this long for the store says that it hangs rather than fails."""

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Accountant:
    """Takes records from every session of one hub and makes them durable in order.

    ``durability`` says what the sessions are promised, and they find it here: under
    ``before-forward`` records are written at once, for a session holds back a message until its
    commit is done, and gather for up to ``group_seconds`` under load; under ``async`` nobody
    waits, and records gather for ``flush_seconds`` so that fewer, larger transactions are made. A
    commit means the same under both.

    With a ``journal`` a commit is done when its records are there, and another greenlet ships
    them to the store. A store that fails is then no reason to refuse sessions, for as long as
    the journal takes records and is not ``crowded``.

    Construction is free and may precede a fork: threads and greenlets come with the first
    record. Its methods belong to the hub of that first record and raise RuntimeError on any
    other; only :meth:`run` may be called from everywhere.
    """

    def __init__(
        self,
        store: Store,
        *,
        journal: Journal | None = None,
        durability: Durability = "before-forward",
        max_pending: int = 10_000,
        flush_seconds: float = FLUSH_SECONDS,
        group_seconds: float = GROUP_SECONDS,
        backoff: Callable[[int], float] = backoff_seconds,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.durability = durability
        self.max_pending = max_pending
        self.journal = journal
        self._store = store
        self._flush_seconds = flush_seconds
        self._group_seconds = group_seconds
        self._backoff = backoff
        self._clock = clock
        self._closing = False
        self._closed: bool | None = None
        self._pid: int | None = None
        self._hub: Hub | None = None
        self._flusher: gevent.Greenlet[..., None] | None = None
        self._alarm: Any = None
        self._reset()

    def _reset(self) -> None:
        """Begin with nothing: at birth, and in a forked child, whose parent keeps its own."""
        self.shipper: Shipper | None = None
        if self.journal is None:
            self._writer = Writer("store", self._store.write, waits="in memory", clock=self._clock)
        else:
            self._writer = Writer(
                "journal", self.journal.write, waits="in memory", clock=self._clock
            )
            self.shipper = Shipper(
                self.journal.backlog, self._store, backoff=self._backoff, clock=self._clock
            )
        self._outbox = Outbox(self.max_pending)
        self._begun: list[Callable[[], Sequence[UsageRecord]]] = []
        self._rung = False
        self._wake = Event()
        self._hurry = Event()
        self._tried = Event()

    # What readiness and metrics ask. Counters only grow; times are seconds.

    @property
    def pending(self) -> int:
        """Records that are not durable yet."""
        return len(self._outbox)

    @property
    def lag_seconds(self) -> float:
        """How long the oldest pending record has waited: grows too when a write hangs."""
        return self._outbox.lag_seconds

    @property
    def healthy(self) -> bool:
        """Whether new sessions can be recorded: the last write succeeded, and a journal has
        room for more than what the open sessions may need."""
        return self.failing_since is None and not (self.journal and self.journal.crowded)

    @property
    def warning(self) -> str | None:
        """What an operator should know although new sessions are welcome."""
        journal, shipper = self.journal, self.shipper
        if journal is None or shipper is None:
            return None
        waited, failing = shipper.oldest_seconds, shipper.writer.failing_since is not None
        if not failing and waited < WARN_SECONDS:
            return None
        why = f"; the store fails: {shipper.writer.last_error}" if failing else ""
        size = journal.backlog.unshipped_bytes
        return f"the journal grows: {size} bytes wait, the oldest for {waited:.0f} s{why}"

    @property
    def failing_since(self) -> float | None:
        """The epoch time at which writing first failed, if it does."""
        return self._writer.failing_since

    @property
    def last_error(self) -> str | None:
        """The redacted cause of the last failed write, kept after recovery."""
        return self._writer.last_error

    @property
    def failures(self) -> int:
        """Writes that failed and were or will be tried again."""
        return self._writer.failures

    @property
    def records_written(self) -> int:
        """Records made durable, in the journal if there is one."""
        return self._writer.records_written

    @property
    def records_rejected(self) -> int:
        """Records that nothing would ever take, and that are in the log instead."""
        shipper = self.shipper
        return self._writer.records_rejected + (shipper.writer.records_rejected if shipper else 0)

    @property
    def commits(self) -> int:
        """Writes that succeeded."""
        return self._writer.commits

    @property
    def commit_seconds(self) -> float:
        """Time they took, all together."""
        return self._writer.commit_seconds

    @property
    def commit_counts(self) -> list[int]:
        """How many of them took how long: see ``COMMIT_SECONDS``."""
        return self._writer.commit_counts

    @property
    def unwritten(self) -> list[UsageRecord]:
        """The pending records themselves: what is left to be saved after a failed close."""
        return [record for commit in self._outbox.commits() for record in commit.records]

    def wait_tried(self, seconds: float) -> None:
        """Returns when what is written to was tried for the first time, or after ``seconds``."""
        self._tried.wait(seconds)

    # What sessions do.

    def record(self, records: Sequence[UsageRecord]) -> Commit:
        """Queue ``records`` as one; never blocks. The ticket tells when they are durable.

        Raises LedgerFull (nothing of ``records`` was taken) beyond ``max_pending`` and
        LedgerClosed once :meth:`close` was called.
        """
        if self._closing:
            raise LedgerClosed("the relay is shutting down", code="ledger_closed")
        self.start()
        commit = self._outbox.add(tuple(records))
        self._wake.set()
        return commit

    def checkpoint(self, records: Sequence[UsageRecord]) -> None:
        """Queue records of units that are still running; never blocks, refuses nothing.

        They go with the next write, ``CHECKPOINT_SECONDS`` from now at the latest. One that is
        replaced before that is not written at all, and if much else is waiting some are not even
        queued. They are no part of ``pending``, and nothing waits for them.
        """
        if self._closing or not records:
            return
        self.start()
        self._outbox.checkpoint(records)
        self._set_alarm()

    def checkpoint_soon(self, make: Callable[[], Sequence[UsageRecord]]) -> None:
        """Queue the checkpoints that ``make`` gives ``CHECKPOINT_SECONDS`` from now at the latest,
        and write them; never blocks. ``make`` runs on this hub, and neither yields nor raises.

        For units that have just begun: one that has ended by then costs no record and no row.
        """
        if self._closing:
            return
        self.start()
        self._begun.append(make)
        self._set_alarm()

    def flush(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until all recorded so far is durable, and say whether
        it is. A store in its back-off is tried once more at once."""
        commits = self._outbox.commits() if self._mine() else []
        if not commits:
            return True
        self.start()
        self._hurry.set()
        self._wake.set()
        commits[-1].wait(timeout)  # commits are settled in order
        return all(commit.durable for commit in commits)

    def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call ``function`` on a thread, with only this greenlet waiting, for queries.

        Reads have threads of their own and never stand before a write. Raises what it raises.
        """
        mine = self._closed is None and self._mine() and self._hub is get_hub()
        pool = self._readers if mine else get_hub().threadpool
        return call(pool, function, *args, **kwargs)

    def close(self, timeout: float) -> bool:
        """Flush, stop the greenlets and the threads, close the store; say whether all is durable.

        With a journal, what the store takes within the time left is shipped, and the rest is
        for the next worker that starts. If the journal fails, the store is tried instead.

        Returns within ``timeout`` seconds and one more, whatever the store does; a store that
        hangs is left to its thread. What is not durable then remains in ``unwritten``, and one
        line is logged. Idempotent, and can be called again after being interrupted.
        """
        self._closing = True
        if self._closed is not None:
            return self._closed
        deadline = time.monotonic() + timeout
        durable = self.flush(timeout)
        if not self._mine():
            self._reset()  # what a parent left pending is the parent's to write
            self._store.close()  # never used from here, so there is nothing to wait for
        else:
            self._alarm.close()
            if self._flusher is not None:
                self._flusher.kill()
            if self.shipper is not None:
                self.shipper.finish(max(0.0, deadline - time.monotonic()))
                durable = durable or self._bypass(self.shipper)
            gevent.with_timeout(CLOSE_SECONDS, self._shut, timeout_value=None)
        if self.pending:
            _log.error("closed with %d usage records unwritten: %s", self.pending, self.last_error)
        self._closed = durable
        return durable

    # How it is done.

    def _bypass(self, shipper: Shipper) -> bool:
        """The last resort of a worker whose journal fails: straight into the store."""
        commits = self._outbox.commits()
        records = [record for commit in commits for record in commit.records]
        rejected = gevent.with_timeout(
            CLOSE_SECONDS, shipper.writer.write, records, timeout_value=None
        )
        if rejected is None:
            return False
        self._outbox.settle(commits, rejected)
        return not rejected

    def _shut(self) -> None:
        try:
            if self.journal is not None:
                self._writer.call(self.journal.close)
            self._writer.call(self._store.close)
        except Exception as error:  # noqa: BLE001 - we are leaving: say so and go on
            _log.error("the ledger did not close: %s", redact(str(error)))
        self._writer.stop()
        if self.shipper is not None:
            self.shipper.writer.stop()
        self._readers.kill()

    def start(self) -> None:
        """Bind to the calling hub and start the greenlets; :meth:`record` does it by itself.

        With a journal, files that dead workers left are adopted from now on.

        Called again it does nothing, but for a flusher that was killed or left behind by a
        fork: that one is replaced. Raises RuntimeError on another thread's hub.
        """
        pid = os.getpid()
        if self._pid != pid:
            if self._pid is not None:
                self._reset()
            self._pid = pid
            self._hub = get_hub()
            self._flusher = None
            # One for all: at the pace of speech each response sets it, and a greenlet that waits
            # is five times what this takes.
            self._alarm = self._hub.loop.timer(0, CHECKPOINT_SECONDS)
            self._readers = ThreadPool(READERS)
        elif self._hub is not get_hub():
            raise RuntimeError("an accountant serves one hub, and this is another thread's")
        if self._flusher is None or self._flusher.ready():
            self._flusher = gevent.spawn(self._flush_forever)
        if self.shipper is not None:
            self.shipper.start()

    def _mine(self) -> bool:
        return self._pid == os.getpid()

    def _set_alarm(self) -> None:
        if not self._alarm.active:
            # Not start(): of a timer that has fired once nothing is left, and it fires at once.
            self._alarm.again(self._ring)

    def _ring(self) -> None:
        self._alarm.stop()
        self._rung = True
        self._wake.set()

    def _ask(self) -> None:
        """What has begun for its checkpoints."""
        self._rung = False
        breath = Breath()
        # One that is new meanwhile is as near to the disk as the others.
        while self._begun:
            self._outbox.checkpoint(self._begun.pop(0)())
            if self._begun:
                breath.take()
                self._leave_if_replaced()

    def _flush_forever(self) -> None:
        failures = 0
        begun, shared = float("-inf"), 0
        self._wake.set()  # a successor finds what its predecessor left
        while True:
            self._wake.wait()
            pause = self._pause(begun, shared)
            if pause > 0:
                self._hurry.wait(pause)
            self._leave_if_replaced()
            if self._rung:
                self._ask()
            self._wake.clear()
            self._hurry.clear()
            commits, checkpoints = self._outbox.commits(), self._outbox.checkpoints()
            if commits or checkpoints:
                begun, shared = time.monotonic(), len(commits)
                done = self._write(commits, checkpoints)
            elif failures or not self._tried.is_set():
                done = self._try_out()  # to know before a session depends on it
            else:
                continue
            self._tried.set()
            if done:
                failures = 0
            else:
                failures += 1
                self._hurry.wait(self._backoff(failures))
                self._wake.set()

    def _pause(self, begun: float, shared: int) -> float:
        """How long records gather for a write, the last having ``begun`` then for ``shared``."""
        if self.durability == "async":
            return self._flush_seconds
        apart = self._group_seconds * min(1.0, max(0, shared - 1) / (GROUP_COMMITS - 1))
        return begun + apart - time.monotonic()

    def _leave_if_replaced(self) -> None:
        """End this greenlet if it is a copy that a fork made: what its parent left is the parent's,
        and there may be a successor."""
        if self._flusher is not gevent.getcurrent() or not self._mine():
            raise gevent.GreenletExit

    def _try_out(self) -> bool:
        if self.journal is None:
            works = self._writer.try_out(self._store.ping)
        else:
            works = self._writer.write([]) is not None
        self._leave_if_replaced()
        return works

    def _write(self, commits: list[Commit], checkpoints: list[UsageRecord]) -> bool:
        """Write all of it as one, of each unit the best; True if the outcome is known."""
        records = [record for commit in commits for record in commit.records]
        rejected = self._writer.write(best_of_each([*checkpoints, *records]))
        self._leave_if_replaced()
        if rejected is None:
            return False
        self._outbox.settle(commits, rejected)
        self._outbox.forget(checkpoints)
        if self.shipper is not None:
            self.shipper.wake()
        return True
