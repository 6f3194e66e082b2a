"""Hands records to whatever keeps them, a store or the journal, on a thread of its own.

The rule: whether a write is done, may be tried again, or is refused for good is decided here
and nowhere else; and a failure is said once when it begins and once when it is over.
"""

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, TypeVar

from relay_app.ledger.stores.base import StoreError, redact
from relay_app.ledger.threads import Thread
from relay_app.meter.usage import UsageRecord

__all__ = ["COMMIT_SECONDS", "Writer"]

COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of ``Writer.commit_counts``; the last count is of all slower commits."""

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Writer:
    """One thread, begun by the first call, that serves one hub. Counters only grow.
    ``records_written`` is of records that stand for the end of a unit: no residuals.

    ``name`` says what is written to, ``waits`` where records are while that fails.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[Sequence[UsageRecord]], None],
        *,
        waits: str,
        clock: Callable[[], float],
    ) -> None:
        self.records_written = 0
        self.records_rejected = 0
        self.commits = 0
        self.failures = 0
        self.commit_seconds = 0.0
        self.commit_counts = [0] * (len(COMMIT_SECONDS) + 1)
        self.failing_since: float | None = None
        self.last_error: str | None = None
        self._name = name
        self._write = write
        self._waits = waits
        self._clock = clock
        self._thread: Thread | None = None

    def call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """``function(*args, **kwargs)`` on the thread, after all that was asked of it before."""
        if self._thread is None:
            self._thread = Thread()
        return self._thread.call(function, *args, **kwargs)

    def write(self, records: Sequence[UsageRecord]) -> Mapping[str, str] | None:
        """The causes by id of those refused for good, all others being durable; or None if
        nothing may be assumed, and all of ``records`` are to be written again."""
        error: Exception | None = None
        seconds = 0.0
        try:
            seconds = self.call(self._timed, records)
        except Exception as caught:  # noqa: BLE001 - a store of somebody else's may raise anything
            error = caught
        rejected = error.rejected if isinstance(error, StoreError) else {}
        if error is not None:
            self.last_error = redact(f"{type(error).__name__}: {error}")
            if not rejected:
                self._failed()
                return None
        elif records:
            self.commit_seconds += seconds
            self.commit_counts[bisect_left(COMMIT_SECONDS, seconds)] += 1
        refused = self._refused(records, rejected)
        self._works(len(records))
        self.commits += bool(records)
        residuals = [record.kind for record in records].count("residual")
        self.records_written += max(0, len(records) - residuals - refused)
        return rejected

    def try_out(self, question: Callable[[], object]) -> bool:
        """Whether what is written to answers ``question``, before there is anything to write."""
        try:
            self.call(question)
        except Exception as error:  # noqa: BLE001 - as above
            self.last_error = redact(f"{type(error).__name__}: {error}")
            self._failed()
            return False
        self._works(0)
        return True

    def stop(self) -> None:
        """End the thread. What it is in the middle of, it finishes by itself."""
        if self._thread is not None:
            self._thread.stop()

    def _timed(self, records: Sequence[UsageRecord]) -> float:
        """Seconds that the write took, on the thread that made it."""
        started = time.perf_counter()
        self._write(records)
        return time.perf_counter() - started

    def _works(self, records: int) -> None:
        if self.failing_since is not None:
            _log.warning("the %s works again; %d usage records caught up", self._name, records)
            self.failing_since = None

    def _failed(self) -> None:
        self.failures += 1
        if self.failing_since is None:
            self.failing_since = self._clock()
            _log.error("the %s fails, usage waits %s: %s", self._name, self._waits, self.last_error)

    def _refused(self, records: Sequence[UsageRecord], rejected: Mapping[str, str]) -> int:
        unfit = [record for record in records if record.id in rejected]
        for record in unfit:
            # The last that anybody sees of it. repr() keeps what UTF-8 cannot say.
            _log.error("refused by the %s (%s): %r", self._name, rejected[record.id], record)
        self.records_rejected += len(unfit)
        return len(unfit)
