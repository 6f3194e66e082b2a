"""Bill: the records of one session, from the units its meter ends to the accountant.

The rules: a record is never dropped in silence. What the accountant does not take now is kept and
offered again when the session settles; what it does not take then either is logged, whole. And of
a unit that runs there is a checkpoint, so that a worker that dies leaves a record of it behind.
"""

from collections.abc import Callable, Sequence
from time import monotonic

import gevent

from relay_app import codec
from relay_app.errors import Fault, RelayFault
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.outbox import Commit, LedgerFull
from relay_app.meter.meter import Meter
from relay_app.meter.usage import UsageRecord
from relay_app.observe.logs import SessionLog
from relay_app.wire.messages import Message

__all__ = ["Bill"]

SETTLE_SECONDS = 5.0
"""How long a session that has ended waits for its records to be durable."""
RETRY_SECONDS = 0.25
CHECKPOINT_SECONDS = 4.0
"""Looked at once a second, so that no checkpoint gets older than five."""


def _to_nobody(fault: Fault) -> None:
    """Nobody is to be told."""


def _at_once() -> None:
    """Nobody goes first."""


class Bill:
    """``on_refused`` is called with the reason each time a record was not taken, ``give_way`` lets
    others have their turn on the hub. ``clock`` is the keeper's."""

    def __init__(
        self,
        meter: Meter,
        accountant: Accountant,
        *,
        log: SessionLog,
        on_refused: Callable[[Fault], None],
        give_way: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._meter = meter
        self._accountant = accountant
        self._log = log
        self._on_refused = on_refused
        self._give_way = give_way
        self._clock = clock
        self._kept: list[UsageRecord] = []
        self._checkpointed = float("-inf")
        self._asked = False

    def received(self, message: Message) -> Commit | None:
        """Meters a message of the upstream's; the ticket of the records it brought, if any."""
        records = self._meter.received(message)
        if self._meter.begun:
            self.look_soon()
        if not records:
            return None
        try:
            self._give_way()
        finally:  # whoever is killed there has taken them from the meter already
            commit = self._record(records)
        return commit

    def tick(self, now: float) -> int:
        """The keeper's visit: checkpoints what runs, if that is due, and says how many units that
        is. Never blocks."""
        running = self._meter.units_open
        if running and now - self._checkpointed >= CHECKPOINT_SECONDS:
            self._checkpointed = now
            try:
                self._accountant.checkpoint(self._meter.checkpoint())
            except Exception as error:  # noqa: BLE001 - the unit's end is recorded all the same
                self._no_checkpoint(error)
        return running

    def look_soon(self) -> None:
        """A response has begun: has it checkpointed, unless it ends at once. Never blocks."""
        if self._asked:
            return
        self._asked = True
        try:
            self._accountant.checkpoint_soon(self._begun)
        except Exception as error:  # noqa: BLE001 - as above
            self._no_checkpoint(error)

    def _begun(self) -> Sequence[UsageRecord]:
        self._asked = False
        try:
            records = self._meter.checkpoint(begun=True)
            if records and len(records) == self._meter.units_open:
                self._checkpointed = self._clock()  # of all there is, so the keeper need not
        except Exception as error:  # noqa: BLE001 - as above
            self._no_checkpoint(error)
            return ()
        return records

    def _no_checkpoint(self, error: Exception) -> None:
        self._log.error("no checkpoint", error=repr(error))

    def _record(self, records: Sequence[UsageRecord]) -> Commit | None:
        try:
            return self._accountant.record(records)
        except Fault as fault:
            refused = fault
        except Exception as error:  # noqa: BLE001 - whatever it is, the record is not lost
            self._log.error("recording failed", error=repr(error))
            refused = RelayFault("usage cannot be recorded", code="ledger_failed")
        self._kept.extend(records)
        self._on_refused(refused)
        return None

    def hurry(self) -> None:
        """The session ends, and whoever still meters may be killed for it: from now on each record
        is made at once."""
        self._give_way = _at_once

    def settle(self) -> None:
        """The session is over: records what was left open or kept, and waits for it a while.

        Takes at most ``SETTLE_SECONDS``. When it is killed while waiting, everything has been
        handed over already.
        """
        records, self._kept = self._kept, []
        try:
            records += self._meter.close()
        except Exception:  # noqa: BLE001 - what it gave before is settled all the same
            self._log.exception("metering failed at the end")
        deadline = monotonic() + SETTLE_SECONDS
        commits: list[Commit] = []
        try:
            while records and self._take(records, commits) and monotonic() < deadline:
                gevent.sleep(RETRY_SECONDS)
        finally:
            for record in records:
                # The last resort: what no store would take is at least in the log.
                self._log.error("usage record lost", record=codec.dumps(record.as_dict()))
        waiting = [c for c in commits if not c.wait(max(0.0, deadline - monotonic()))]
        if waiting:
            self._log.warning("usage is waiting for the store", records=len(waiting))

    def close(self) -> None:
        """After :meth:`settle`: nothing is metered any more, and nobody told."""
        self._meter.note_down(None)
        self._on_refused = _to_nobody

    def _take(self, records: list[UsageRecord], commits: list[Commit]) -> bool:
        """Hands over as many of ``records`` as are taken; whether it is worth another try."""
        try:
            while records:
                # One at a time: a ledger that is nearly full takes some.
                commits.append(self._accountant.record(records[:1]))
                del records[0]
        except LedgerFull:
            return True
        except Exception as error:  # noqa: BLE001 - a closed ledger, or a broken one
            self._log.error("recording failed", error=repr(error))
        return False
