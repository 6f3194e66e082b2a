"""Blocking calls on native threads, with only the calling greenlet waiting.

The rule: what the function raises is raised where it was called from, and nowhere else. (An
exception that reaches gevent's pool is printed by the hub as well, each time.)
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from gevent.threadpool import ThreadPool

__all__ = ["call"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def call(pool: ThreadPool, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """``function(*args, **kwargs)``, run by a thread of ``pool``. Only on the pool's own hub.

    A greenlet killed while waiting leaves the thread to finish by itself.
    """
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
