"""Keys that were written before there were budgets."""

from collections.abc import Iterator
from decimal import Decimal
from itertools import islice

import pytest
import redis
from gevent.threadpool import ThreadPool
from ledger_support import OnThread, costing, make_record

from relay_app.ledger.stores import open_store
from relay_app.meter.usage import UsageRecord

COUNT = 1_100
"""More than two pages."""


@pytest.fixture
def operator(redis_server: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server) as client:
        yield client


@pytest.fixture
def prefix(redis_url: str) -> str:
    return f"{{{redis_url.rpartition('prefix=')[2]}}}"


@pytest.fixture
def old(redis_url: str, prefix: str, operator: redis.Redis) -> list[UsageRecord]:
    """Records as version 1 kept them, of which each costs one micro-dollar or nothing."""
    records = [
        costing(1, str(n), key=f"k{n % 2}", ended_at=float(n)) if n % 10
        else make_record(str(n), ended_at=float(n), cost_usd=None)
        for n in range(COUNT)
    ]  # fmt: skip
    store = OnThread(open_store(redis_url))
    store.write(*records)
    store.close()
    downgrade(operator, prefix)
    return records


def downgrade(operator: redis.Redis, prefix: str) -> None:
    values = {
        field: b" ".join([*value.split(b" ", 2)[:2], value[value.index(b"{") :]])
        for field, value in operator.hgetall(f"{prefix}:records").items()
    }
    operator.hset(f"{prefix}:records", mapping=values)  # type: ignore[arg-type]
    operator.hset(f"{prefix}:state", "schema", "1")
    operator.delete(f"{prefix}:spending:k0", f"{prefix}:spending:k1")


def spent(operator: redis.Redis, prefix: str) -> list[int]:
    hashes = [operator.hgetall(f"{prefix}:spending:k{n}") for n in range(2)]
    return [sum(map(int, days.values())) for days in hashes]


@pytest.fixture
def store(redis_url: str, old: list[UsageRecord]) -> Iterator[OnThread]:
    opened = OnThread(open_store(redis_url))
    yield opened
    opened.close()


def test_what_is_only_read_stays_as_it_is(
    store: OnThread, old: list[UsageRecord], operator: redis.Redis, prefix: str
) -> None:
    store.ping()
    assert store.records() == old
    assert store.keys() == []
    assert operator.hget(f"{prefix}:state", "schema") == b"1"


def test_the_first_lease_knows_of_everything_that_was_recorded(
    store: OnThread, old: list[UsageRecord], operator: redis.Redis, prefix: str
) -> None:
    lease = store.ask("a", 10, key="k1", budget=COUNT)
    assert lease.left_microusd == COUNT - COUNT // 2 - 10
    assert operator.hgetall(f"{prefix}:state").get(b"schema") == b"2"
    assert not operator.hexists(f"{prefix}:state", "upgrading")
    assert store.records() == old
    store.write(*old)  # a replay is none the dearer
    assert spent(operator, prefix) == [COUNT * 4 // 10, COUNT // 2]


def test_a_view_goes_on_while_records_are_charged_and_replaced(
    store: OnThread, old: list[UsageRecord], operator: redis.Redis, prefix: str
) -> None:
    view = store.direct.records()
    seen = list(islice(view, 600))
    store.write(*(costing(3, str(n), key="k1", ended_at=float(n)) for n in range(1, COUNT, 10)))
    assert seen + list(view) == old
    assert spent(operator, prefix)[1] == COUNT // 2 + 2 * COUNT // 10


def test_relays_that_come_at_once_charge_nothing_twice(
    redis_url: str, old: list[UsageRecord], operator: redis.Redis, prefix: str
) -> None:
    stores = [OnThread(open_store(redis_url)) for _ in range(4)]
    pool = ThreadPool(4)
    new = [costing(1, f"new-{n}", key="k1", ended_at=float(n)) for n in range(4)]
    writing = [
        pool.spawn(store.direct.write, [record]) for store, record in zip(stores, new, strict=True)
    ]
    for each in writing:
        each.get()
    pool.kill()
    for store in stores:
        store.close()
    assert spent(operator, prefix) == [COUNT * 4 // 10, COUNT // 2 + 4]


def test_one_that_died_in_the_middle_is_taken_up(
    store: OnThread,
    old: list[UsageRecord],
    operator: redis.Redis,
    prefix: str,
    redis_url: str,
) -> None:
    store.write(*old[:1])
    assert spent(operator, prefix) == [COUNT * 4 // 10, COUNT // 2]
    # As if the one who did it had come no further than the records of k0.
    for record in old:
        if record.key == "k1":
            value = operator.hget(f"{prefix}:records", record.id)
            head, text = value.split(b" ", 2)[:2], value[value.index(b"{") :]
            operator.hset(f"{prefix}:records", record.id, b" ".join([*head, text]))  # type: ignore[arg-type]
    operator.delete(f"{prefix}:spending:k1")
    operator.hset(f"{prefix}:state", "upgrading", "1")
    store.close()
    again = OnThread(open_store(redis_url))
    assert again.ask("a", 1, key="k1", budget=COUNT).left_microusd == COUNT - COUNT // 2 - 1
    assert sum(record.cost_usd or 0 for record in again.records()) == Decimal("0.00099")
    again.close()
    assert spent(operator, prefix) == [COUNT * 4 // 10, COUNT // 2]
