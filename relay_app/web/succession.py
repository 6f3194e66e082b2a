"""Succession: how gunicorn's master puts one worker in the place of another.

The rules: the old workers are told to stop when all new ones serve; and once a worker has served,
one that cannot boot ends nothing but itself: it says why in a line, waits a moment that grows, and
is tried again, while the others go on. Only the first start fails as a whole.
"""

import os
import signal
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from relay_app.settings import SettingsError

__all__ = ["Succession"]

BOOT_SECONDS = 60.0
"""How long a new worker may take to boot before the old ones no longer wait for it."""
FIRST_PAUSE_SECONDS = 0.5
LAST_PAUSE_SECONDS = 10.0
"""Before a worker that could not boot is tried again; well below what the old ones wait."""
SPAWN_SECONDS = 0.05
"""Between a fork and whatever the master hears next: a new process is deaf at first, and would be
waited for in vain by a stop."""
MAX_REASON_CHARACTERS = 500


class _Begun(Exception):
    """Leaves gunicorn's reload where it would wait until the old workers have gone, deaf to every
    signal, so that it does not tell them twice."""


class Succession:
    """Takes the place of gunicorn's ``reload``, ``manage_workers`` and ``reap_workers``."""

    def __init__(self, arbiter: Any, *, boot_seconds: float = BOOT_SECONDS) -> None:
        self._arbiter = arbiter
        self._boot_seconds = boot_seconds
        self._reload: Callable[[], None] = arbiter.reload
        self._manage_workers: Callable[[], None] = arbiter.manage_workers
        self._reloading = False
        self._served = 0
        """The age of the youngest worker that has served; gunicorn numbers them by age."""
        self._since = 0
        """Workers of this age were started before the last reload, older than all that count."""
        self._seen: dict[int, float] = {}
        """When each worker that is there was first seen, by age."""
        self._told: set[int] = set()
        self._reap_workers: Callable[[], None] = arbiter.reap_workers
        arbiter.reload = self.reload
        arbiter.reap_workers = self.reap_workers
        arbiter.manage_workers = self.manage_workers

    def reload(self) -> None:
        """Starts new workers; the old ones stop when all of these serve."""
        self._look()
        self._since = self._arbiter.worker_age
        self._reloading = True
        try:
            self._reload()
        except _Begun:
            pass
        finally:
            self._reloading = False

    def reap_workers(self) -> None:
        """Takes note of who has served before it takes leave of those that have ended."""
        self._look()
        self._reap_workers()

    def manage_workers(self) -> None:
        """Starts the workers that are missing, and stops those that are no longer needed. The
        master does so once a second, and whenever a worker has ended."""
        wanted = self._arbiter.num_workers
        self._look()
        for _ in range(wanted - sum(w.age > self._since for w in self._active())):
            self._arbiter.spawn_worker()
            time.sleep(SPAWN_SECONDS)
        self._look()
        active = self._active()
        chosen, others = (
            active[max(0, len(active) - wanted) :],
            active[: max(0, len(active) - wanted)],
        )
        # Together: who is sent away by one would else go to another that is told a moment later.
        # Who is booting is deaf yet; who has been for too long goes, and nobody waits for it.
        awaited = any(not (_serves(w) or self._overdue(w)) for w in chosen)
        for worker in others:
            if not awaited if _serves(worker) else self._overdue(worker):
                self._told.add(worker.age)
                self._arbiter.kill_worker(worker.pid, signal.SIGTERM)
        if self._reloading:
            raise _Begun
        if len(self._arbiter.WORKERS) == wanted:
            self._manage_workers()  # which then starts and stops none, and counts for statsd

    def guard(self, worker: Any) -> None:
        """In a new worker's process: what it does if it cannot boot, or is to stop before it has
        begun to."""
        for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # not the master's, which only makes a note
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
        now = time.monotonic()
        self._seen = {w.age: self._seen.get(w.age, now) for w in workers}
        self._told &= self._seen.keys()
        self._served = max([self._served, *(w.age for w in workers if _serves(w))])

    def _active(self) -> list[Any]:
        """The workers that were not told to stop, the oldest first."""
        workers = list(self._arbiter.WORKERS.values())
        return sorted((w for w in workers if w.age not in self._told), key=lambda w: w.age)

    def _overdue(self, worker: Any) -> bool:
        return time.monotonic() - self._seen.get(worker.age, time.monotonic()) > self._boot_seconds


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
