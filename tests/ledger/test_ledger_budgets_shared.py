"""Two workers, one key, one store: together they keep to what is in it, whatever the store."""

import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import gevent
import gevent.pool
import pytest
from ledger_support import make_record

from relay_app.errors import ClientFault
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.allowance import Allowance, Standing
from relay_app.ledger.budgets import Budgets
from relay_app.ledger.stores import Store, open_store
from relay_app.settings import Key

DELTA = 320
"""Micro-dollars of 250 ms of audio."""
DELTA_SECONDS = 0.01
"""How long the provider takes for it: 25 times faster than it is heard."""


class Worker:
    """A worker's ledger and budgets, on connections of its own."""

    def __init__(self, store: Store) -> None:
        self.accountant = Accountant(store)
        self.budgets = Budgets(store)


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def workers(request: pytest.FixtureRequest) -> Iterator[list[Worker]]:
    url = request.getfixturevalue(f"{request.param}_url")
    first = open_store(url)
    stores = [first, first if request.param == "memory" else open_store(url)]
    made = [Worker(store) for store in stores]
    made[0].accountant.run(first.ping)
    yield made
    for worker in made:
        worker.budgets.close(5.0)
    for worker in made:
        worker.accountant.close(5.0)


def key(**limits: Any) -> Key:
    return Key(name="team-a", key_sha256="0" * 64, **limits)


def answers(worker: Worker, session: str, allowance: Allowance, deltas: int) -> int:
    """Answer after answer until nothing is left; what they cost."""
    spent = 0
    for number in range(1_000):
        running = 0
        while running < deltas * DELTA:
            running += DELTA
            standing = allowance.standing(float(running))
            assert standing is not Standing.UNKNOWN
            if standing is Standing.SPENT:
                break
            gevent.sleep(DELTA_SECONDS)
        spent += running
        record = make_record(
            str(number), session, ended_at=time.time(), cost_usd=Decimal(running).scaleb(-6)
        )
        allowance.charge(record)
        allowance.standing(0.0)
        worker.accountant.record([record])
        if standing is Standing.SPENT:
            break
    worker.budgets.release(allowance)
    return spent


def test_a_budget_holds_for_many_sessions_on_two_workers(workers: list[Worker]):
    limits = key(budget_usd=Decimal("0.25"))

    def session(number: int) -> int:
        worker, name = workers[number % 2], f"s{number}"
        allowance = worker.budgets.reserve(name, limits, pace=1_280.0)
        assert allowance is not None
        return answers(worker, name, allowance, deltas=10 + number)

    spent = sum(gevent.pool.Pool(10).imap_unordered(session, range(10)))
    assert 240_000 <= spent <= 250_000 + 10 * DELTA
    for worker in workers:
        assert worker.accountant.flush(10)
    [total] = workers[0].accountant.run(workers[0].accountant._store.totals, "key")
    assert total.cost_usd == Decimal(spent).scaleb(-6)


def test_slots_are_shared_by_two_workers(workers: list[Worker]):
    limits = key(max_sessions=5)
    results: list[Allowance | None] = []

    def session(number: int) -> None:
        try:
            results.append(workers[number % 2].budgets.reserve(f"s{number}", limits))
        except ClientFault:
            results.append(None)

    gevent.joinall([gevent.spawn(session, number) for number in range(20)], raise_error=True)
    assert sum(result is not None for result in results) == 5
