"""What dead workers had counted, added up: as many files as there are workers, however many lived.

The rule: whoever reads the files does so before an addition or after it. prometheus-client keeps
two files of every worker for good. They are in memory, and each scrape reads all of them, on the
hub: a worker that is replaced every hour would have left 17,000 within a year.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import mark_process_dead

__all__ = ["add_up", "unchanged"]

NOBODY: Final = 0
"""The process whose files have the sums."""

TRIES: Final = 50
PAUSE_SECONDS: Final = 0.001
"""An addition takes a millisecond. Who has waited longer reads all the same."""


def add_up(folder: Path, pid: int) -> None:
    """Adds what the worker ``pid`` had counted to what all the dead had, and drops its gauges."""
    with _locked(folder, fcntl.LOCK_EX):
        mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
        for kind in ("counter", "histogram"):
            own = folder / f"{kind}_{pid}.db"
            if own.exists():
                _add(own, folder / f"{kind}_{NOBODY}.db")
                own.unlink()


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Meanwhile nothing is added up."""
    with _locked(folder, fcntl.LOCK_SH):
        yield


def _add(own: Path, sums: Path) -> None:
    added = MmapedDict(str(sums))  # type: ignore[no-untyped-call]
    try:
        values = MmapedDict.read_all_values_from_file(str(own))  # type: ignore[no-untyped-call]
        for key, value, at, _ in values:
            before, _ = added.read_value(key)  # type: ignore[no-untyped-call]
            added.write_value(key, before + value, at)  # type: ignore[no-untyped-call]
    finally:
        added.close()  # type: ignore[no-untyped-call]


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(TRIES):
            try:
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(PAUSE_SECONDS)
        yield
    finally:
        os.close(descriptor)
