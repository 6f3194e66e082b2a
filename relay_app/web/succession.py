"""Succession: how gunicorn's master puts one worker in the place of another.

The rule: once a worker has served, one that cannot boot ends nothing but itself: it says why in a
line, waits a moment that grows, and is tried again, while the others go on. Only the first start
fails as a whole.
"""

import os
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from relay_app.settings import SettingsError

__all__ = ["Succession"]

FIRST_PAUSE_SECONDS = 0.5
LAST_PAUSE_SECONDS = 10.0
"""Before a worker that could not boot is tried again."""
MAX_REASON_CHARACTERS = 500


class Succession:
    """Takes the place of gunicorn's ``manage_workers`` and ``reap_workers``."""

    def __init__(self, arbiter: Any) -> None:
        self._arbiter = arbiter
        self._manage_workers: Callable[[], None] = arbiter.manage_workers
        self._served = 0
        """The age of the youngest worker that has served; gunicorn numbers them by age."""
        self._reap_workers: Callable[[], None] = arbiter.reap_workers
        arbiter.reap_workers = self.reap_workers
        arbiter.manage_workers = self.manage_workers

    def reap_workers(self) -> None:
        """Takes note of who has served before it takes leave of those that have ended."""
        self._look()
        self._reap_workers()

    def manage_workers(self) -> None:
        """Takes note of who has served, once a second and before others are started."""
        self._look()
        self._manage_workers()

    def guard(self, worker: Any) -> None:
        """In a new worker's process: what it does if it cannot boot."""
        worker.init_process = partial(self._boot, worker, worker.init_process)

    def _boot(self, worker: Any, init_process: Callable[[], None]) -> None:
        try:
            init_process()
        except (Exception, SystemExit) as error:
            stopped = isinstance(error, SystemExit) and error.code in (None, 0)
            if not self._served or _serves(worker) or stopped:
                raise
            tries = worker.age - self._served
            pause = min(FIRST_PAUSE_SECONDS * 2 ** min(tries - 1, 10), LAST_PAUSE_SECONDS)
            worker.log.error(
                "worker %s cannot boot, and is tried again in %.1f s: %s",
                worker.pid, pause, _reason(error),
            )  # fmt: skip
            worker.log.debug("what kept it from booting", exc_info=True)
            end = time.monotonic() + pause
            while worker.alive and worker.ppid == os.getppid() and time.monotonic() < end:
                time.sleep(0.1)
            raise SystemExit(1) from None  # any code but those two by which gunicorn ends it all

    def _look(self) -> None:
        workers = list(self._arbiter.WORKERS.values())
        self._served = max([self._served, *(w.age for w in workers if _serves(w))])


def _serves(worker: Any) -> bool:
    """Whether it has begun to: its first heartbeat is when it listens. Heartbeats set its file's
    time by the monotonic clock, which is far behind the one by which the file was made."""
    try:
        return bool(worker.tmp.last_update() <= time.monotonic())
    except (OSError, ValueError):  # it has ended, and its file is closed
        return False


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())[:MAX_REASON_CHARACTERS]
    if isinstance(error, SettingsError | SystemExit):
        return text
    *_, last = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {text} ({last.filename}:{last.lineno})"
