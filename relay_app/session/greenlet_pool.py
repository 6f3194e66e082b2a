"""GreenletPool: greenlets for tasks that are short and many, kept for the next one.

The rule: a task has its greenlet to itself from its beginning to its end, and one that is killed
runs no other. How many there are is how many tasks are at work at once, and a few to spare.

A greenlet takes a page of Python's stack and several kilobytes of C's for as long as it waits: too
much for each of thousands of pumps that wait most of the time. And those that are used again have
their pages in the processor's caches.
"""

from collections.abc import Callable
from typing import Any

import gevent
from gevent.hub import get_hub

__all__ = ["GreenletPool", "Worker"]

SPARE = 32
"""Kept though they have nothing to do. A burst makes more, which go when it is over."""

Task = Callable[["Worker"], None]
"""Is given the greenlet it has."""


class Worker(gevent.Greenlet):  # type: ignore[type-arg]  # of which only the stub is generic
    """Runs tasks of a pool, one at a time. Who kills it retires it first."""

    __slots__ = ("_pool", "_retired", "task")

    def __init__(self, pool: "GreenletPool", task: Task) -> None:
        super().__init__()
        self._pool = pool
        self._retired = False
        self.task = task

    def retire(self) -> None:
        """After its task it does not come back to the pool: a kill that is under way then hits
        nobody else's. Never blocks."""
        self._retired = True

    def _run(self) -> None:
        while True:
            self.task(self)
            del self.task
            if self._retired:
                return
            task = self._pool.next_task(self)
            if task is None:
                return
            self.task = task


class GreenletPool:
    """Belongs to one hub, that of the thread which uses it."""

    def __init__(self, spare: int = SPARE) -> None:
        self._spare = spare
        self._idle: list[Worker] = []

    def run(self, task: Task) -> None:
        """Runs ``task``, at once if this is called on the hub, else soon. What it raises ends its
        greenlet, as it would any."""
        hub: Any = get_hub()  # without a type: gevent's stubs know little of it
        on_hub = gevent.getcurrent() is hub
        if self._idle:
            worker = self._idle.pop()  # the one whose memory is the warmest
            if on_hub:
                worker.switch(task)
            else:
                hub.loop.run_callback(worker.switch, task)
        else:
            worker = Worker(self, task)
            if on_hub:
                worker.switch()
            else:
                worker.start()

    def next_task(self, worker: Worker) -> Task | None:
        """Waits for one; None if there are enough who do."""
        if len(self._idle) >= self._spare:
            return None
        self._idle.append(worker)
        try:
            task: Task = get_hub().switch()
        except BaseException:
            if worker in self._idle:  # or it was on its way to a task
                self._idle.remove(worker)
            raise
        return task
