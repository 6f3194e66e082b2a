"""Blocking calls on native threads, with only the calling greenlet waiting.

The rule: what the function raises is raised where it was called from, and nowhere else. (An
exception that reaches gevent's pool is printed by the hub as well, each time.) A greenlet killed
while waiting leaves the thread to finish by itself.
"""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

from gevent.hub import Waiter, get_hub
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

from relay_app.ledger.stores.native import make_queue

__all__ = ["Thread", "call"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_start_new_thread = get_original("_thread", "start_new_thread")


def call(pool: ThreadPool, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """``function(*args, **kwargs)``, run by a thread of ``pool``. Only on the pool's own hub."""
    results: list[_T] = []

    def attempt() -> Exception | None:
        try:
            results.append(function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - raised again below
            return error
        return None

    error = pool.spawn(attempt).get()
    if error is not None:
        raise error
    return results[0]


class Thread:
    """One thread that does what the greenlets of one hub ask it, one thing after the other, until
    :meth:`stop`. It does not survive a fork.

    There is one for what happens at every commit: gevent's pool, which is made for many threads,
    asks more of both sides for each call.
    """

    def __init__(self) -> None:
        self._asked = make_queue()
        self._ended: deque[_Call[Any]] = deque()
        self._waiting = 0
        self._stopped = False
        self._watcher: Any = None
        _start_new_thread(_work_off, (self._asked,))

    def call(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """``function(*args, **kwargs)`` on the thread, after all that was asked of it before."""
        if self._watcher is None:
            self._watcher = get_hub().loop.async_(ref=False)
            self._watcher.start(self._tell)
        call = _Call(partial(function, *args, **kwargs), self._ended, self._watcher.send)
        # A loop that has nothing else to wait for goes on for this.
        self._waiting += 1
        self._watcher.ref = True
        self._asked.put(call.work)
        return call.result()

    def stop(self) -> None:
        """Ends the thread once it has done what it was asked. Never blocks."""
        self._stopped = True
        self._asked.put(None)
        self._rest()

    def _tell(self) -> None:
        while self._ended:
            call = self._ended.popleft()
            self._waiting -= 1
            self._rest()
            call.told.switch(None)

    def _rest(self) -> None:
        if not self._waiting and self._watcher is not None:
            self._watcher.ref = False
            if self._stopped:
                self._watcher.close()
                self._watcher = None


class _Call(Generic[_T]):
    """What was asked, and what came of it. It lives until the thread is done, whatever becomes of
    the greenlet that waits."""

    __slots__ = ("_ended", "_error", "_function", "_results", "_send", "told")

    def __init__(
        self, function: Callable[[], _T], ended: "deque[_Call[Any]]", send: Callable[[], None]
    ) -> None:
        self.told: Waiter[None] = Waiter()
        self._function: Callable[[], _T] | None = function
        self._ended = ended
        self._send = send
        self._results: list[_T] = []
        self._error: BaseException | None = None

    def work(self) -> None:
        """On the thread."""
        function, self._function = self._function, None
        assert function is not None
        try:
            self._results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again where it was asked
            self._error = error
        del function
        self._ended.append(self)
        with suppress(Exception):  # the hub is gone, and who waited with it
            self._send()

    def result(self) -> _T:
        """Waits for it."""
        self.told.get()
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._results.pop()


def _work_off(asked: Any) -> None:
    while (work := asked.get()) is not None:
        work()
        del work  # or it would keep what it wrote until the next
