"""Scratch: where a master and its workers keep what nobody needs once they have gone.

The rule: in memory, wherever there is some to write to. Workers write there while they carry
sessions, through files mapped into memory: a disk that is busy would hold all sessions up, and one
that is full would kill the worker. Elsewhere it is beside the records, and nowhere else. Who made
it removes it, and what was left by one that was killed goes at the next start.
"""

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

from relay_app.settings import Store

__all__ = ["Scratch", "is_scratch", "records_place", "scratch_place"]

MEMORY = Path("/dev/shm")  # noqa: S108 - as gunicorn advises for its worker_tmp_dir
PREFIX = "relay_app-scratch-"
_LOCK = "lock"
NEW_SECONDS = 60.0
"""In which a folder that has no lock may be about to get one."""


def scratch_place(store: Store, memory: Path = MEMORY) -> Path | None:
    """The folder to make one in, which may not be there yet; None if nothing says where."""
    return memory if os.access(memory, os.W_OK | os.X_OK) else records_place(store)


def records_place(store: Store) -> Path | None:
    """The folder on this host's disk that records are written below."""
    if store.url.startswith("memory:"):
        return None
    scheme, _, path = store.url.partition(":///")
    return Path(path).parent if scheme == "sqlite" else Path(store.journal).parent


class Scratch:
    """A folder of a master's own in ``place``. Its lock is held by whoever was forked meanwhile,
    too: it is nobody's only when all of them have gone."""

    def __init__(self, place: Path | None) -> None:
        if place is not None:
            _sweep(place)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        self._lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def mend(self) -> None:
        """Make it anew if it is gone: when a person logs out, logind removes what is his in
        memory, of programs that still run, too."""
        self.path.mkdir(mode=0o700, exist_ok=True)

    def remove(self) -> None:
        os.close(self._lock)
        shutil.rmtree(self.path, ignore_errors=True)


def is_scratch(path: str) -> bool:
    """Whether ``path`` is named as these are: a variable may be left from the master before."""
    return Path(path).name.startswith(PREFIX)


def _sweep(place: Path) -> None:
    """Remove what others of this user left here."""
    for folder in place.glob(PREFIX + "*"):
        try:
            status = folder.lstat()
            if status.st_uid == os.geteuid() and _is_nobodys(folder, status.st_mtime):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # somebody else was quicker


def _is_nobodys(folder: Path, changed: float) -> bool:
    if abs(time.time() - changed) < NEW_SECONDS:
        return False
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
