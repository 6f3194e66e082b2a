"""The greenlet-safe front of a store: sessions record here, and wait or not as they please.

The rule: the hub never waits for the store. One greenlet takes everything that is pending and
hands it to one thread as one write, so a single transaction serves all sessions that wait. A
store that fails is tried again until it works; meanwhile everything stays queued, in order,
and ``failing_since``, ``pending`` and ``lag_seconds`` say so.

Memory is bounded by ``max_pending`` records, at most about 6 kB each: 60 MB by default.
"""

import logging
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal, ParamSpec, TypeVar

import gevent
from gevent.event import Event
from gevent.hub import Hub
from gevent.threadpool import ThreadPool

from relay_app.ledger.backoff import backoff_seconds
from relay_app.ledger.outbox import Commit, LedgerClosed, Outbox
from relay_app.ledger.stores.base import Store, StoreError, redact
from relay_app.ledger.threads import call
from relay_app.meter.usage import UsageRecord

__all__ = ["COMMIT_SECONDS", "Accountant", "Durability"]

Durability = Literal["before-forward", "async"]

COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of ``Accountant.commit_counts``; the last count is of all slower commits."""

READERS = 2
CLOSE_SECONDS = 1.0

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Accountant:
    """Takes records from every session of one hub and makes them durable in order.

    ``durability`` says what the sessions are promised, and they find it here: under
    ``before-forward`` records are written at once, for a session holds back a message until
    its commit is done; under ``async`` nobody waits, and records gather for ``flush_seconds``
    so that fewer, larger transactions are made. A commit means the same under both.

    Construction is free and may precede a fork: threads and greenlets come with the first
    record. Its methods belong to the hub of that first record and raise RuntimeError on any
    other; only :meth:`run` may be called from everywhere.
    """

    def __init__(
        self,
        store: Store,
        *,
        durability: Durability = "before-forward",
        max_pending: int = 10_000,
        flush_seconds: float = 0.25,
        backoff: Callable[[int], float] = backoff_seconds,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.durability = durability
        self.max_pending = max_pending
        self._store = store
        self._flush_seconds = flush_seconds
        self._backoff = backoff
        self._clock = clock
        self._closing = False
        self._closed: bool | None = None
        self._pid: int | None = None
        self._hub: Hub | None = None
        self._flusher: gevent.Greenlet[..., None] | None = None
        self._reset()

    def _reset(self) -> None:
        """Begin with nothing: at birth, and in a forked child, whose parent keeps its own."""
        self.records_written = 0
        self.records_rejected = 0
        self.commits = 0
        self.failures = 0
        self.commit_seconds = 0.0
        self.commit_counts = [0] * (len(COMMIT_SECONDS) + 1)
        self.failing_since: float | None = None
        self.last_error: str | None = None
        self._outbox = Outbox(self.max_pending)
        self._wake = Event()
        self._hurry = Event()

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
        """Whether the last write succeeded. ``failing_since`` is the epoch time it first did
        not, ``last_error`` the redacted cause of the last failure, kept after recovery."""
        return self.failing_since is None

    @property
    def unwritten(self) -> list[UsageRecord]:
        """The pending records themselves: what is left to be saved after a failed close."""
        return [record for commit in self._outbox.commits() for record in commit.records]

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
        mine = self._closed is None and self._mine() and self._hub is gevent.get_hub()
        pool = self._readers if mine else gevent.get_hub().threadpool
        return call(pool, function, *args, **kwargs)

    def close(self, timeout: float) -> bool:
        """Flush, stop the greenlet and the threads, close the store; say whether all is durable.

        Returns within ``timeout`` seconds and one more, whatever the store does; a store that
        hangs is left to its thread. What is not durable then remains in ``unwritten``, and one
        line is logged. Idempotent, and can be called again after being interrupted.
        """
        self._closing = True
        if self._closed is not None:
            return self._closed
        durable = self.flush(timeout)
        if not self._mine():
            self._reset()  # what a parent left pending is the parent's to write
            self._store.close()  # never used from here, so there is nothing to wait for
        else:
            if self._flusher is not None:
                self._flusher.kill()
            gevent.with_timeout(CLOSE_SECONDS, self._shut, timeout_value=None)
        if self.pending:
            _log.error("closed with %d usage records unwritten: %s", self.pending, self.last_error)
        self._closed = durable
        return durable

    # How it is done.

    def _shut(self) -> None:
        try:
            call(self._writer, self._store.close)
        except Exception as error:  # noqa: BLE001 - we are leaving: say so and go on
            _log.error("the store did not close: %s", redact(str(error)))
        self._writer.kill()
        self._readers.kill()

    def start(self) -> None:
        """Bind to the calling hub and start the flusher; :meth:`record` does it by itself.

        Called again it does nothing, but for a flusher that was killed or left behind by a
        fork: that one is replaced. Raises RuntimeError on another thread's hub.
        """
        if not self._mine():
            if self._pid is not None:
                self._reset()
            self._pid = os.getpid()
            self._hub = gevent.get_hub()
            self._flusher = None
            self._writer = ThreadPool(1)
            self._readers = ThreadPool(READERS)
        elif self._hub is not gevent.get_hub():
            raise RuntimeError("an accountant serves one hub, and this is another thread's")
        if self._flusher is None or self._flusher.ready():
            self._flusher = gevent.spawn(self._flush_forever)

    def _mine(self) -> bool:
        return self._pid == os.getpid()

    def _flush_forever(self) -> None:
        failures = 0
        self._wake.set()  # a successor finds what its predecessor left
        while True:
            self._wake.wait()
            if self.durability == "async":
                self._hurry.wait(self._flush_seconds)
            self._leave_if_replaced()
            self._wake.clear()
            self._hurry.clear()
            commits = self._outbox.commits()
            if not commits:
                continue
            if self._write(commits):
                failures = 0
            else:
                failures += 1
                self._hurry.wait(self._backoff(failures))
                self._wake.set()

    def _leave_if_replaced(self) -> None:
        """End this greenlet if it is a copy that a fork made, woken amid its successor's state."""
        if self._flusher is not gevent.getcurrent():
            raise gevent.GreenletExit

    def _write(self, commits: list[Commit]) -> bool:
        """Write all of ``commits`` as one; True if their outcome is known."""
        records = [record for commit in commits for record in commit.records]
        error: Exception | None = None
        seconds = 0.0
        try:
            seconds = call(self._writer, _timed_write, self._store, records)
        except Exception as caught:  # noqa: BLE001 - a store of somebody else's may raise anything
            error = caught
        self._leave_if_replaced()
        rejected = error.rejected if isinstance(error, StoreError) else {}
        if error is not None:
            self.last_error = redact(f"{type(error).__name__}: {error}")
            if not rejected:
                self._failed()
                return False
        else:
            self.commit_seconds += seconds
            self.commit_counts[bisect_left(COMMIT_SECONDS, seconds)] += 1
        refused = self._refused(records, rejected)
        if self.failing_since is not None:
            _log.warning("the store works again; %d usage records caught up", len(records))
            self.failing_since = None
        self.commits += 1
        self.records_written += len(records) - refused
        self._outbox.settle(commits, rejected)
        return True

    def _failed(self) -> None:
        self.failures += 1
        if self.failing_since is None:
            self.failing_since = self._clock()
            _log.error("the store fails, usage waits in memory: %s", self.last_error)

    def _refused(self, records: list[UsageRecord], rejected: dict[str, str]) -> int:
        unfit = [record for record in records if record.id in rejected]
        for record in unfit:
            # The last that anybody sees of it. repr() keeps what UTF-8 cannot say.
            _log.error("refused by the store (%s): %r", rejected[record.id], record)
        self.records_rejected += len(unfit)
        return len(unfit)


def _timed_write(store: Store, records: Sequence[UsageRecord]) -> float:
    """Seconds that the write took, on the thread that made it."""
    started = time.perf_counter()
    store.write(records)
    return time.perf_counter() - started
