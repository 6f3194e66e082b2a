"""The journal: a local, durable outbox in front of a store that is elsewhere.

The rule: what ``write`` took is on this disk until the store has it. A worker that dies, in
whatever way, leaves its files behind, and the next worker that looks adopts and ships them;
shipping twice does no harm, for a store is idempotent by record id.

One thread writes here; one other thread adopts, reads and ships the backlog.
"""

import os
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

from relay_app.ledger.backlog import Backlog
from relay_app.ledger.entries import encode
from relay_app.ledger.segment import SUFFIX, Segment, Sync, Write
from relay_app.ledger.stores.base import StoreError
from relay_app.meter.usage import UsageRecord

__all__ = ["Journal"]

MAX_BYTES = 1 << 30
FILES = 64
"""So many files share ``max_bytes``: few to hold open, and little to ship twice after a crash."""
MOST_FILES = 2 * FILES
"""Files held open at most, where a failing disk makes for short ones; and as many adopted."""
RESERVE = 0.1
"""This part of ``max_bytes`` is kept for sessions that are open already."""


class Journal:
    """Files in ``folder`` that hold at most ``max_bytes`` of records not yet shipped.

    Building it touches nothing. In a forked child it starts afresh, with files of its own.
    ``write_bytes`` and ``sync`` are the two calls that a disk can fail.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        max_bytes: int = MAX_BYTES,
        write_bytes: Write = os.write,
        sync: Sync = os.fdatasync,
    ) -> None:
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self._write_bytes = write_bytes
        self._sync = sync
        self._watches_forks = False
        self._reset()

    def _reset(self) -> None:
        self.entries = 0
        self.syncs = 0
        self.backlog = Backlog(self.folder, max_bytes=self.max_bytes, max_files=MOST_FILES)
        self._name = ""
        self._files = 0
        self._current: Segment | None = None
        self._closed = False

    @property
    def crowded(self) -> bool:
        """Whether what is left of ``max_bytes`` is the reserve of the open sessions."""
        return self.backlog.unshipped_bytes >= self.max_bytes * (1 - RESERVE)

    def write(self, records: Sequence[UsageRecord]) -> None:
        """Make ``records`` durable, with the contract of ``Store.write``: one write, one sync.

        Raises OSError or StoreError if that fails. Given no records, it makes sure that there
        is a file to write to.
        """
        entries: list[bytes] = []
        rejected: dict[str, str] = {}
        for record in records:
            try:
                entries.append(encode(record))
            except (OverflowError, TypeError, ValueError) as error:
                rejected[record.id] = f"{type(error).__name__}: {error}"
        segment = self._writable()
        if entries:
            self._append(segment, b"".join(entries))
            self.entries += len(entries)
        if rejected:
            raise StoreError(f"{len(rejected)} records cannot be stored", rejected=rejected)

    def _append(self, segment: Segment, data: bytes) -> None:
        waiting = self.backlog.unshipped_bytes
        if waiting and waiting + len(data) > self.max_bytes:
            raise StoreError(f"the journal is full: {waiting} bytes wait for the store")
        first = segment.empty
        try:
            segment.append(data, self._write_bytes, self._sync)
        except BaseException:
            self._current = None
            if first:
                segment.remove()  # or a disk that is full for hours would fill with these
            raise
        self.syncs += 1
        self.backlog.added_bytes += len(data)
        if first:
            self.backlog.add(segment)

    def _writable(self) -> Segment:
        """The current file, or a new one if it is large enough or was deleted under us."""
        if self._closed:
            raise StoreError("the journal is closed")
        if self._current is not None:
            current = self._current
            if not current.sealed and current.end < self.max_bytes // FILES and current.has_name:
                return current
            self._current = None
            current.seal()
        if self.backlog.own_files >= MOST_FILES:
            raise StoreError(f"the journal is full: {MOST_FILES} files wait for the store")
        if not self._watches_forks:
            self._watches_forks = True
            _forget_in_children(self)
        self._name = self._name or f"{time.time_ns():020d}-{os.getpid()}"  # sorts by age
        self._files += 1
        path = self.folder / f"{self._name}-{self._files:06d}{SUFFIX}"
        self._current = Segment.create(path, self._write_bytes, self._sync)
        self.syncs += 1
        return self._current

    def close(self) -> None:
        """Let go of all files, once neither thread runs any more. Idempotent."""
        self._closed = True
        current, self._current = self._current, None
        if current is not None and current.empty:
            current.remove()
        self.backlog.close()

    def forget(self) -> None:
        """In a forked child: start afresh, and leave to the parent what the parent has."""
        current, backlog = self._current, self.backlog
        self._reset()
        backlog.forget()
        if current is not None and current.empty:
            current.close()


def _forget_in_children(journal: Journal) -> None:
    reference = weakref.ref(journal)

    def forget() -> None:
        alive = reference()
        if alive is not None:
            alive.forget()

    os.register_at_fork(after_in_child=forget)
