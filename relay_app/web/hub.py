"""SessionHub: all sessions of a process run on one hub.

The rule: under a server whose requests are greenlets, that is the server's own hub. Under one
whose requests are threads (``flask run``, gthread), it is a thread of its own to which the
requests hand their work and wait: gevent's queues and locks never wake another hub, and a hub
a thread would leak two file descriptors each.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import gevent
from gevent.event import Event
from gevent.hub import Hub, get_hub
from gevent.monkey import get_original

__all__ = ["SessionHub"]

T = TypeVar("T")

# Between real threads, real locks: also where the process was monkey-patched.
_start_new_thread = get_original("_thread", "start_new_thread")
_new_lock = get_original("_thread", "allocate_lock")
_thread_id = get_original("_thread", "get_ident")


class SessionHub:
    """Runs functions on the one hub. Starts a thread only when a request is not a greenlet."""

    def __init__(self) -> None:
        self._starting = _new_lock()
        self._inbox: deque[Callable[[], None]] = deque()
        self._notify: Callable[[], None] | None = None
        self._home: int | None = None

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """``function(*args)`` on the hub; its result or exception is the caller's."""
        if isinstance(gevent.getcurrent().parent, Hub):
            self._home = _thread_id()
            return function(*args)
        if self._home == _thread_id():
            # The thread that serves, outside of any request: a gunicorn worker on its way out.
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

        self._inbox.append(task)
        self._awake()()
        done.acquire()
        if errors:
            raise errors[0]
        return results[0]

    def _awake(self) -> Callable[[], None]:
        with self._starting:
            if self._notify is None:
                listening = _new_lock()
                listening.acquire()
                _start_new_thread(self._serve, (listening,))
                listening.acquire()
            assert self._notify is not None
            return self._notify

    def _serve(self, listening: Any) -> None:
        wake = Event()
        watcher = get_hub().loop.async_()
        watcher.start(wake.set)
        self._notify = watcher.send
        listening.release()
        while True:
            wake.wait()
            wake.clear()
            while self._inbox:
                gevent.spawn(self._inbox.popleft())
