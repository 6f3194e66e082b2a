"""SessionHub: all sessions of a process run on one hub, the one that was asked first.

The rule: under a server whose requests are greenlets, that is the server's own hub. Under one
whose requests are threads (``flask run``, gthread), it is a thread of its own to which the
requests hand their work and wait: gevent's queues and locks never wake another hub, and a hub
a thread would leak two file descriptors each.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import gevent
from gevent.hub import Hub, get_hub
from gevent.monkey import get_original

__all__ = ["SessionHub"]

T = TypeVar("T")

# Between real threads, real locks: also where the process was monkey-patched.
_start_new_thread = get_original("_thread", "start_new_thread")
_new_lock = get_original("_thread", "allocate_lock")
_this_thread = get_original("_thread", "get_ident")


class SessionHub:
    """Runs functions on the one hub. Starts a thread only when a request is not a greenlet."""

    def __init__(self) -> None:
        self._settling = _new_lock()
        self._thread: int | None = None
        self._tasks: deque[Callable[[], None]] = deque()
        self._notify: Callable[[], None]

    @property
    def here(self) -> bool:
        """Whether the caller is on the hub already."""
        if self._thread is None:
            self._settle()
        return bool(self._thread == _this_thread())

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """``function(*args)`` on the hub; its result or exception is the caller's."""
        if self.here:
            return function(*args)
        return self._hand_over(function, *args)

    def _hand_over(self, function: Callable[..., T], *args: Any) -> T:
        done = _new_lock()
        done.acquire()
        results: list[T] = []
        errors: list[BaseException] = []

        def task() -> None:
            try:
                results.append(function(*args))
            except BaseException as error:  # noqa: BLE001 - it is the caller's, who waits
                errors.append(error)
            finally:
                done.release()

        self._tasks.append(task)
        self._notify()
        done.acquire()
        if errors:
            raise errors[0]
        return results[0]

    def _settle(self) -> None:
        with self._settling:
            if self._thread is not None:
                return
            if isinstance(gevent.getcurrent().parent, Hub):
                self._move_in(keeps_alive=False)
                return
            settled = _new_lock()
            settled.acquire()
            _start_new_thread(self._live, (settled,))
            settled.acquire()

    def _move_in(self, *, keeps_alive: bool) -> None:
        watcher = get_hub().loop.async_(ref=keeps_alive)
        watcher.start(self._take_tasks)
        self._notify = watcher.send
        self._thread = _this_thread()

    def _live(self, settled: Any) -> None:
        self._move_in(keeps_alive=True)
        settled.release()
        get_hub().join()

    def _take_tasks(self) -> None:
        while self._tasks:
            gevent.spawn(self._tasks.popleft())
