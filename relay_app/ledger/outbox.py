"""What was recorded and is not yet durable, in order.

The rule: a commit leaves the outbox only when its outcome is known, so that a failed write, a
killed greenlet or a timeout loses nothing and reorders nothing. The outbox is bounded, and a
full one refuses instead of forgetting.

Beside the commits lie checkpoints, of units that are still running. They may be lost, nobody waits
for them, and only the newest of a unit is kept, until the record of its end takes its place.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from time import monotonic

from gevent.hub import Waiter

from relay_app.errors import RelayFault
from relay_app.meter.usage import UsageRecord

__all__ = ["Commit", "LedgerClosed", "LedgerFull", "Outbox"]


class LedgerFull(RelayFault):
    """So many records wait for the store that no more are taken; these were not."""


class LedgerClosed(RelayFault):
    """The ledger is closed, the relay is going away; the records were not taken."""


class Commit:
    """A ticket for records on their way to the store. Belongs to the hub that recorded them."""

    __slots__ = ("_waiters", "done", "error", "records", "since")

    def __init__(self, records: tuple[UsageRecord, ...]) -> None:
        self.records = records
        self.since = monotonic()
        self.done = False
        """Whether the outcome is known: durable, or refused (then see ``error``)."""
        self.error: str | None = None
        """Why the store refused one of the records for good, once that is known."""
        self._waiters: list[Waiter[None]] = []

    @property
    def durable(self) -> bool:
        """Whether every record of this ticket survives this process from now on."""
        return self.done and self.error is None

    def wait(self, timeout: float | None) -> bool:
        """Wait up to ``timeout`` seconds for the outcome; True if the records are durable.

        False says nothing is lost: the records stay queued, unless ``error`` is set.
        """
        if self.done or (timeout is not None and timeout <= 0):
            return self.durable
        # Each response.done waits here. An Event and its Timeout would be nine calls of Python.
        waiter: Waiter[None] = Waiter()
        timer = None
        self._waiters.append(waiter)
        try:
            if timeout is not None:
                timer = waiter.hub.loop.timer(timeout)
                timer.start(waiter.switch, None)
            waiter.get()
        finally:
            self._waiters.remove(waiter)
            if timer is not None:
                timer.stop()
                timer.close()
        return self.durable

    def settle(self, error: str | None = None) -> None:
        """For the accountant: the outcome is known; wakes all who wait."""
        self.error = error
        self.done = True
        for waiter in self._waiters:
            # Not now: it is the others' records that are to be settled next.
            waiter.hub.loop.run_callback(waiter.switch, None)


class Outbox:
    """Commits in the order they came, of at most ``max_records`` records together."""

    def __init__(self, max_records: int) -> None:
        self._max_records = max_records
        self._records = 0
        self._commits: deque[Commit] = deque()
        self._checkpoints: dict[str, UsageRecord] = {}

    def __len__(self) -> int:
        """Records waiting, those being written right now included; no checkpoints."""
        return self._records

    @property
    def lag_seconds(self) -> float:
        """How long the oldest record has been waiting; 0.0 if none is."""
        return monotonic() - self._commits[0].since if self._commits else 0.0

    def add(self, records: tuple[UsageRecord, ...]) -> Commit:
        """All of ``records`` or none: raises LedgerFull if they would exceed the bound."""
        commit = Commit(records)
        if not records:
            commit.settle()
            return commit
        if self._records + len(records) > self._max_records:
            raise LedgerFull(
                "usage cannot be recorded: too much of it waits to be stored", code="ledger_full"
            )
        self._commits.append(commit)
        self._records += len(records)
        for record in records:
            self._checkpoints.pop(record.id, None)
        return commit

    def checkpoint(self, records: Sequence[UsageRecord]) -> None:
        """Each in place of the last of its unit, as far as half of the outbox has room for them:
        the other half is for what may not be lost."""
        for record in records:
            waiting = self._records + len(self._checkpoints)
            if record.id in self._checkpoints or 2 * waiting < self._max_records:
                self._checkpoints[record.id] = record

    def commits(self) -> list[Commit]:
        """All that wait, oldest first. They stay."""
        return list(self._commits)

    def checkpoints(self) -> list[UsageRecord]:
        """The checkpoints that wait. They stay."""
        return list(self._checkpoints.values())

    def forget(self, checkpoints: Sequence[UsageRecord]) -> None:
        """Let go of ``checkpoints``, but for those that were replaced meanwhile."""
        for record in checkpoints:
            if self._checkpoints.get(record.id) is record:
                del self._checkpoints[record.id]

    def settle(self, commits: list[Commit], rejected: Mapping[str, str]) -> None:
        """Let go of the oldest ``commits``: durable, but for the records ``rejected`` by id."""
        for commit in commits:
            self._commits.popleft()
            self._records -= len(commit.records)
            if not rejected:
                commit.settle()
                continue
            causes = [rejected[record.id] for record in commit.records if record.id in rejected]
            commit.settle("; ".join(causes) or None)
