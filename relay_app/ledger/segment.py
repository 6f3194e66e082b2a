"""One file of a journal: appended to by one thread, read by another, gone once it is shipped.

The rule: a file belongs to whoever holds its flock, and the kernel lets go of that lock when
the holder dies, in whatever way. What was appended is on disk when ``append`` returns; after
an ``append`` that failed nothing more is appended to that file.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from relay_app.ledger.entries import FILE_HEADER, MAX_READ_BYTES, Found, header_length, scan
from relay_app.ledger.stores.native import make_lock

__all__ = ["SUFFIX", "Segment", "Sync", "Write", "locked"]

SUFFIX = ".journal"
BAD_SUFFIX = ".bad"

Write = Callable[[int, memoryview], int]
Sync = Callable[[int], None]


class Segment:
    """An open, locked file. Its good part is from ``begin`` to ``end``, and up to ``shipped``
    the store has it already; one that is ``sealed`` grows no more."""

    def __init__(self, path: Path, descriptor: int, *, begin: int, end: int, sealed: bool) -> None:
        self.path = path
        self.begin = begin
        self.shipped = begin
        self.end = end
        self.sealed = sealed
        self.damaged_bytes = 0
        self._descriptor = descriptor
        self._appending = make_lock()

    @classmethod
    def create(cls, path: Path, write: Write, sync: Sync) -> "Segment":
        """A new file, whose name and header are on disk. Raises OSError."""
        _make_folder(path.parent)
        with locked(path.parent) as folder:
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND
            descriptor = os.open(path, flags, 0o600)
            segment = cls(path, descriptor, begin=len(FILE_HEADER), end=0, sealed=False)
            try:
                _lock(descriptor)
                segment.append(FILE_HEADER, write, sync)
                os.fsync(folder)
            except BaseException:
                segment.remove()
                raise
        return segment

    @classmethod
    def adopt(cls, path: Path) -> "Segment | None":
        """The file of an owner that died, or None if it has an owner or is gone.

        To be called with the folder locked. Raises OSError and UnknownVersion.
        """
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            _lock(descriptor)
            status = os.fstat(descriptor)
            if status.st_nlink:  # or its owner shipped and deleted it just now
                begin = header_length(os.pread(descriptor, len(FILE_HEADER), 0))
                return cls(path, descriptor, begin=begin, end=status.st_size, sealed=True)
        except BlockingIOError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    @property
    def empty(self) -> bool:
        """Whether there never was an entry in it."""
        return self.end == self.begin

    @property
    def unshipped_bytes(self) -> int:
        """Bytes of its good part that the store does not have yet."""
        return self.end - self.shipped

    @property
    def has_name(self) -> bool:
        """Whether the file can still be found by somebody: nobody deleted it."""
        return os.fstat(self._descriptor).st_nlink > 0

    def append(self, data: bytes, write: Write, sync: Sync) -> None:
        """Make ``data`` durable at the end of the file, or seal the file and raise OSError."""
        with self._appending:
            if self.sealed:
                raise OSError("the journal file was given up")
            try:
                view = memoryview(data)
                while view:
                    view = view[write(self._descriptor, view) :]
                sync(self._descriptor)
            except BaseException:
                # Whether a second sync would mean anything after a failed one, only the kernel
                # knows: it may count the pages as clean. So the next write gets a new file.
                self.sealed = True
                try:
                    os.ftruncate(self._descriptor, self.end)
                except OSError:
                    pass  # what lies behind the end is damage, and its adopter would say so
                raise
            self.end += len(data)

    def seal(self) -> None:
        """Let nothing more be appended; returns once nothing is."""
        with self._appending:
            self.sealed = True

    def read(self) -> Found:
        """The entries of the next part that is not shipped. Raises OSError."""
        end = self.end  # it may grow while we read
        size = min(end - self.shipped, MAX_READ_BYTES)
        data = os.pread(self._descriptor, size, self.shipped)
        if len(data) < size:
            raise OSError(f"{size - len(data)} bytes are missing from the file")
        return scan(data, final=self.shipped + size == end)

    def remove(self) -> None:
        """Delete the file, of which nothing is needed any more."""
        self.path.unlink(missing_ok=True)  # while it is locked, or somebody would adopt it
        self.close()

    def set_aside(self) -> Path:
        """Keep the file under a name that nobody adopts, for somebody to look at it."""
        aside = self.path.with_suffix(BAD_SUFFIX)
        if self.has_name:
            self.path.rename(aside)
        self.close()
        return aside

    def close(self) -> None:
        """Let go of file and lock. In a forked child this leaves the parent its lock."""
        os.close(self._descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """The folder's descriptor, with its lock held: nobody else creates or adopts meanwhile, so
    that no file is seen between its creation and its lock."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _make_folder(folder: Path) -> None:
    """Create ``folder`` for its owner alone, with every new name on disk."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
