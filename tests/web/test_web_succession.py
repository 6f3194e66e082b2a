"""Who is told to stop when. With workers that boot when the test says so; what real ones do is in
``tests/servers/test_gunicorn_succession.py``."""

import time
from dataclasses import dataclass, field

from relay_app.web.succession import Succession


@dataclass
class Heartbeat:
    at: float = field(default_factory=time.time)

    def last_update(self) -> float:
        return self.at


@dataclass
class Worker:
    age: int
    tmp: Heartbeat = field(default_factory=Heartbeat)

    @property
    def pid(self) -> int:
        return self.age


class Arbiter:
    """As much of gunicorn's as is used, with its own reload. A worker's pid is its age."""

    def __init__(self, workers: int) -> None:
        self.num_workers = workers
        self.worker_age = 0
        self.WORKERS: dict[int, Worker] = {}
        self.told: list[int] = []
        self.counted = 0

    def spawn_worker(self) -> None:
        self.worker_age += 1
        self.WORKERS[self.worker_age] = Worker(self.worker_age)

    def kill_worker(self, pid: int, number: int) -> None:
        self.told.append(pid)

    def manage_workers(self) -> None:
        self.counted += 1

    def reap_workers(self) -> None:
        pass

    def reload(self) -> None:
        for _ in range(self.num_workers):
            self.spawn_worker()
        self.manage_workers()
        raise AssertionError("waits for the old ones, deaf to every signal")

    def boot(self, *ages: int) -> None:
        for age in ages:
            self.WORKERS[age].tmp.at = time.monotonic()
        self.manage_workers()

    def end(self, *ages: int) -> None:
        self.reap_workers()
        for age in ages:
            del self.WORKERS[age]
        self.manage_workers()


def started(workers: int, **options) -> Arbiter:
    arbiter = Arbiter(workers)
    Succession(arbiter, **options)
    arbiter.manage_workers()
    arbiter.boot(*arbiter.WORKERS)
    return arbiter


def test_old_workers_are_told_to_stop_together_and_once_when_all_new_ones_serve():
    arbiter = started(2)
    arbiter.reload()
    arbiter.manage_workers()
    assert (arbiter.told, list(arbiter.WORKERS)) == ([], [1, 2, 3, 4])
    arbiter.boot(4)
    assert arbiter.told == []
    arbiter.boot(3)
    arbiter.manage_workers()
    assert arbiter.told == [1, 2]
    arbiter.end(1, 2)
    assert list(arbiter.WORKERS) == [3, 4]


def test_a_new_worker_that_ends_before_it_serves_is_replaced_and_the_old_one_stays_meanwhile():
    arbiter = started(1)
    arbiter.reload()
    for failing in (2, 3, 4):
        arbiter.end(failing)
    assert (arbiter.told, list(arbiter.WORKERS)) == ([], [1, 5])
    arbiter.boot(5)
    assert arbiter.told == [1]


def test_nobody_waits_for_a_worker_that_takes_too_long_to_boot():
    arbiter = started(1, boot_seconds=0)
    arbiter.reload()
    arbiter.manage_workers()
    assert arbiter.told == [1]


def test_of_two_reloads_in_a_row_all_that_serve_stay_until_the_last_does():
    arbiter = started(1)
    arbiter.reload()
    arbiter.reload()
    arbiter.manage_workers()
    assert (arbiter.told, list(arbiter.WORKERS)) == ([], [1, 2, 3])
    arbiter.boot(2)
    assert arbiter.told == []
    arbiter.boot(3)
    assert arbiter.told == [1, 2]


def test_a_worker_that_dies_while_old_ones_drain_is_replaced_at_once():
    arbiter = started(1)
    arbiter.reload()
    arbiter.boot(2)
    arbiter.end(2)
    assert list(arbiter.WORKERS) == [1, 3]


def test_fewer_workers_are_wanted_or_more():
    arbiter = started(3)
    arbiter.num_workers = 1  # as SIGTTOU has it
    arbiter.manage_workers()
    assert arbiter.told == [1, 2]
    arbiter.num_workers = 2
    arbiter.manage_workers()
    assert (arbiter.told, list(arbiter.WORKERS)) == ([1, 2], [1, 2, 3, 4])
    arbiter.num_workers = 0
    arbiter.manage_workers()
    arbiter.boot(4)
    assert arbiter.told == [1, 2, 3, 4]


def test_gunicorn_counts_its_workers_for_statsd_while_nobody_comes_or_goes():
    arbiter = started(1)
    counted = arbiter.counted
    arbiter.manage_workers()
    assert arbiter.counted == counted + 1
    arbiter.reload()
    arbiter.manage_workers()
    assert arbiter.counted == counted + 1
