"""Something a worker does again and again beside its sessions.

The rule: it has a greenlet and a thread of its own, so that it neither blocks the hub nor stands
before a commit or a report.
"""

import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import gevent
from gevent.threadpool import ThreadPool

from relay_app.ledger.threads import call

__all__ = ["Chore"]

STOP_SECONDS = 1.0

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Chore:
    """Runs ``forever`` on the hub that starts it; that calls what blocks by :meth:`call`.

    Construction is free and may precede a fork.
    """

    def __init__(self, forever: Callable[[], None]) -> None:
        self._forever = forever
        self._greenlet: gevent.Greenlet[[], None] | None = None
        self._pid: int | None = None
        self._stopped = False

    def start(self) -> None:
        """Begins, or begins again in a forked child or after it was killed; once it was stopped,
        or if it runs, does nothing."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._pool = ThreadPool(1)
            self._greenlet = None
            self._stopped = False
        if not self._stopped and (self._greenlet is None or self._greenlet.ready()):
            self._greenlet = gevent.spawn(self._forever)

    def call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """``function(*args, **kwargs)`` on the thread; only this greenlet waits."""
        return call(self._pool, function, *args, **kwargs)

    def stop(self) -> None:
        """Ends it for good, within a second; a call that hangs is left to its thread."""
        self._stopped = True
        if self._greenlet is not None and self._pid == os.getpid():
            self._greenlet.kill()
            gevent.with_timeout(STOP_SECONDS, self._pool.kill, timeout_value=None)
