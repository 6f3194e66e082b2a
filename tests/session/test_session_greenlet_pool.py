"""GreenletPool: a greenlet for each task, few of them kept, and none that is killed used again."""

from typing import Any

import gevent
import pytest
from gevent.event import Event
from session_support import until

from relay_app.session.greenlet_pool import GreenletPool, Worker


def on_the_hub(function: Any, *args: Any) -> None:
    """Calls it there, and returns when it has been."""
    called = Event()
    gevent.get_hub().loop.run_callback(lambda: (function(*args), called.set()))
    assert called.wait(10)


class Tasks:
    """Run in ``pool`` one after another; ``workers`` had them."""

    def __init__(self, pool: GreenletPool) -> None:
        self.pool = pool
        self.workers: list[Worker] = []

    def short(self, worker: Worker) -> None:
        self.workers.append(worker)

    def one(self) -> Worker:
        before = len(self.workers)
        self.pool.run(self.short)
        until(lambda: len(self.workers) > before)
        return self.workers[-1]


def test_a_greenlet_is_used_again() -> None:
    tasks = Tasks(GreenletPool())
    assert tasks.one() is tasks.one()


def test_tasks_that_wait_have_a_greenlet_each() -> None:
    tasks, go = Tasks(GreenletPool()), Event()

    def wait(worker: Worker) -> None:
        tasks.short(worker)
        go.wait()

    for _ in range(3):
        tasks.pool.run(wait)
    until(lambda: len(tasks.workers) == 3)
    assert len(set(tasks.workers)) == 3
    go.set()


def test_on_the_hub_a_task_begins_at_once() -> None:
    pool, began = GreenletPool(), []
    seen = []

    def call() -> None:
        pool.run(lambda worker: began.append(worker))
        seen.append(len(began))

    on_the_hub(call)  # by a new greenlet
    on_the_hub(call)  # and by one that was there
    assert seen == [1, 2]
    assert began[0] is began[1]


def test_elsewhere_it_does_not_hold_up_who_asks() -> None:
    tasks = Tasks(GreenletPool())
    for _ in range(2):
        before = len(tasks.workers)
        tasks.pool.run(tasks.short)
        assert len(tasks.workers) == before
        until(lambda before=before: len(tasks.workers) > before)


def test_no_more_are_kept_than_are_to_spare() -> None:
    tasks, go = Tasks(GreenletPool(spare=2)), Event()

    def wait(worker: Worker) -> None:
        tasks.short(worker)
        go.wait()

    for _ in range(5):
        tasks.pool.run(wait)
    until(lambda: len(tasks.workers) == 5)
    go.set()
    until(lambda: sum(worker.dead for worker in tasks.workers) == 3)
    assert not tasks.one().dead


def test_one_that_is_to_be_killed_gets_no_other_task() -> None:
    tasks, go = Tasks(GreenletPool()), Event()

    def wait(worker: Worker) -> None:
        tasks.short(worker)
        go.wait()

    tasks.pool.run(wait)
    until(lambda: tasks.workers)
    killed = tasks.workers[0]
    killed.retire()
    go.set()  # it ends before the kill comes
    killed.kill(block=False)
    assert tasks.one() is not killed
    assert killed.dead


def test_one_that_is_killed_while_it_has_nothing_to_do_is_not_asked_again() -> None:
    tasks = Tasks(GreenletPool())
    killed = tasks.one()
    killed.kill()
    assert tasks.one() is not killed


def test_one_whose_task_fails_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = Tasks(GreenletPool())
    errors: list[Any] = []
    monkeypatch.setattr(gevent.get_hub(), "print_exception", lambda *args: errors.append(args))

    def fail(worker: Worker) -> None:
        tasks.short(worker)
        raise KeyError("a bug")

    tasks.pool.run(fail)
    until(lambda: errors)
    assert tasks.one() is not tasks.workers[0]
