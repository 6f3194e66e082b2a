"""What a journal holds that the store does not have yet: file after file, the oldest first.

The rule: it belongs to the shipping thread, and the writing thread does no more than add to its
end. In memory is a position a file, whatever waits in them: records are read again from disk.
A file that is damaged is never deleted, and nothing in it keeps those behind it from shipping.
"""

import logging
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from relay_app.ledger.entries import UnknownVersion, decode
from relay_app.ledger.segment import SUFFIX, Segment, locked
from relay_app.meter.usage import UsageRecord

__all__ = ["Backlog", "Batch"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in the order they were written, and the stretch of a file they came from."""

    records: list[UsageRecord]
    segment: Segment
    length: int
    damaged_bytes: int


class Backlog:
    """Adopted files, of at most ``max_files`` and ``max_bytes``, and then this worker's own."""

    def __init__(self, folder: Path, *, max_bytes: int, max_files: int) -> None:
        self.added_bytes = 0  # only the writing thread changes this, and others only the rest
        self.adopted_bytes = 0
        self.shipped_bytes = 0
        self.damaged_bytes = 0
        self.files_in_trouble = 0
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._own: deque[Segment] = deque()
        self._adopted: deque[Segment] = deque()
        self._undeleted: list[Segment] = []
        self._told: set[str] = set()

    @property
    def unshipped_bytes(self) -> int:
        """Bytes of records that the store does not have yet."""
        return self.added_bytes + self.adopted_bytes - self.shipped_bytes

    @property
    def own_files(self) -> int:
        """Files of this worker that are not shipped, the current one included."""
        return len(self._own)

    def add(self, segment: Segment) -> None:
        """For the writing thread: a file of this worker's own that has its first entry."""
        self._own.append(segment)

    def adopt(self) -> int:
        """Take over the files whose owners died, and say how many. Raises OSError.

        Files for which there is no room are left to others, or to a later look.
        """
        again, self._undeleted = self._undeleted, []
        for segment in again:
            self._delete(segment)
        if not self._folder.is_dir():
            return 0
        adopted = 0
        with locked(self._folder):
            for path in sorted(self._folder.glob(f"*{SUFFIX}")):  # the oldest first
                try:
                    orphan = Segment.adopt(path)
                except (OSError, UnknownVersion) as error:
                    self._tell_once(path, error)
                    continue
                if orphan is None:
                    continue
                if not self._has_room_for(orphan):
                    orphan.close()
                    continue
                self.adopted_bytes += orphan.unshipped_bytes
                self._adopted.append(orphan)
                adopted += 1
        if adopted:
            _log.warning("adopted %d journal files of workers that died", adopted)
        return adopted

    def read(self) -> Batch | None:
        """The oldest records that are not shipped, at most 256 kB of them; None if all are."""
        while queue := self._adopted or self._own:
            segment = queue[0]
            sealed = segment.sealed  # asked first: then its end is the last one
            if segment.unshipped_bytes:
                try:
                    return self._batch(segment)
                except OSError as error:
                    self._tell_once(segment.path, error)
                    segment.seal()
                    self._count_damage(segment, segment.unshipped_bytes)
                    self._advance(segment, segment.unshipped_bytes)
            elif sealed:
                self._delete(queue.popleft())
            else:
                return None
        return None

    def shipped(self, batch: Batch) -> None:
        """The store has all of ``batch``."""
        self._count_damage(batch.segment, batch.damaged_bytes)
        self._advance(batch.segment, batch.length)

    def close(self) -> None:
        """Let go of all files, once neither thread runs any more. Those with something left in
        them await their adoption."""
        while queue := self._adopted or self._own:
            segment = queue.popleft()
            if segment.unshipped_bytes:
                segment.close()
            else:
                self._delete(segment)

    def forget(self) -> None:
        """In a forked child: the files are the parent's."""
        held = [*self._adopted, *self._own, *self._undeleted]
        self._adopted.clear()
        self._own.clear()
        self._undeleted.clear()
        for segment in held:
            segment.close()

    def _has_room_for(self, orphan: Segment) -> bool:
        waiting = self.unshipped_bytes
        fits = waiting + orphan.unshipped_bytes <= self._max_bytes or not waiting
        return fits and len(self._adopted) < self._max_files

    def _batch(self, segment: Segment) -> Batch:
        found = segment.read()
        records: list[UsageRecord] = []
        damaged_bytes = found.damaged
        for payload in found.payloads:
            try:
                records.append(decode(payload))
            except ValueError as error:
                self._tell_once(segment.path, error)
                damaged_bytes += len(payload)
        return Batch(records, segment, found.consumed, damaged_bytes)

    def _count_damage(self, segment: Segment, length: int) -> None:
        if length:
            _log.error(
                "journal file %s: %d bytes are damaged and were left out", segment.path, length
            )
            segment.damaged_bytes += length
            self.damaged_bytes += length

    def _advance(self, segment: Segment, length: int) -> None:
        segment.shipped += length
        self.shipped_bytes += length

    def _delete(self, segment: Segment) -> None:
        """Delete a file that is shipped, or set it aside if it is damaged. If that fails, it is
        kept with its lock, lest somebody ship it again, and tried anew at the next look."""
        try:
            if segment.damaged_bytes:
                _log.error("damaged journal file set aside: %s", segment.set_aside())
            else:
                segment.remove()
        except OSError as error:
            self._tell_once(segment.path, error)
            self._undeleted.append(segment)

    def _tell_once(self, path: Path, error: Exception) -> None:
        if path.name not in self._told:
            self._told.add(path.name)
            self.files_in_trouble += 1
            _log.error("journal file %s: %s", path, error)
