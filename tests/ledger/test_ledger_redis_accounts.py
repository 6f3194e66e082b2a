"""What is Redis's own about accounts: a second telling of the arithmetic, and what it keeps."""

import itertools
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from ledger_support import OnThread, costing, make_ask, make_record
from store_support import pass_in_redis, wire
from store_support import redis_key as key

from relay_app.ledger.stores import open_store
from relay_app.ledger.stores.accounts import KEEP_SECONDS, MINUTE_SECONDS
from relay_app.ledger.stores.leases import Ask, Lease, Limits
from relay_app.ledger.stores.memory import MemoryStore
from relay_app.ledger.stores.redis_accounts import BATCH_ASKS
from relay_app.meter.usage import UsageRecord

DAY = 86_400.0


@pytest.fixture
def store(redis_url: str) -> Iterator[OnThread]:
    opened = OnThread(open_store(redis_url))
    yield opened
    opened.close()


@pytest.fixture
def operator(redis_server: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server, decode_responses=True) as client:
        yield client


# Few of everything, and mostly no limit, so that what is said is often about the same lease.
keys = st.sampled_from(["team-a", "6 a:\N{PILE OF POO}"])
sessions = st.sampled_from("stu")
rarely = st.sampled_from([None] * 5 + [1, 2, 40])
asks = st.builds(
    Ask,
    session_id=sessions,
    key=keys,
    limits=st.builds(
        Limits,
        budget_microusd=st.sampled_from([1_000, 10**15 + 1, 400, None]),
        since=st.sampled_from(["", "1970-01-02"]),
        max_sessions=rarely,
        max_tokens_per_minute=rarely,
    ),
    spent_microusd=st.integers(0, 300),
    want_microusd=st.integers(-5, 500) | st.just(10**15),
    tokens=st.just(0) | st.integers(1, 50),
    ends=st.booleans(),
)
records = st.builds(
    make_record,
    unit=st.sampled_from("12"),
    session=sessions,
    key=keys,
    kind=st.sampled_from(["response", "residual"]),
    source=st.sampled_from(["reported", "estimated", "unknown"]),
    ended_at=st.sampled_from([DAY - 0.001, DAY]),
    cost_usd=st.none() | st.integers(-5, 500).map(lambda n: Decimal(n).scaleb(-6)),
)
steps = st.lists(
    st.tuples(st.sampled_from([0.0, 60.0]), st.lists(asks, min_size=3, max_size=6))
    | st.lists(records, min_size=3, max_size=6)
    | st.sampled_from([30.0, 60.0, KEEP_SECONDS, -DAY]),
    min_size=10,
    max_size=20,
)
runs = itertools.count()


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.reuse, Phase.generate],  # to find a smaller one takes minutes
)
@given(steps=steps)
def test_what_redis_answers_is_what_the_arithmetic_says(
    redis_url: str, operator: redis.Redis, steps: list[Any]
) -> None:
    url = f"{redis_url}-{next(runs)}"
    memory = MemoryStore()
    store = OnThread(open_store(url))
    for step in steps:
        if isinstance(step, float):
            pass_in_memory(memory, step)
            pass_in_redis(operator, url, step)
        elif isinstance(step, list):
            memory.write(step)
            store.write(*step)
        else:
            seconds, asked = step
            assert store.lease(*asked, seconds=seconds) == memory.lease(asked, seconds=seconds)
    store.close()


def pass_in_memory(memory: MemoryStore, seconds: float) -> None:
    """Make everything ``seconds`` older."""
    for leases in memory._leases.values():
        for held in leases.values():
            held.lapses_at -= seconds
    for name, used in memory._seconds.items():
        memory._seconds[name] = Counter({at - int(seconds): used[at] for at in used})


def test_what_a_key_has_spent_can_be_looked_up_by_its_name(
    store: OnThread, operator: redis.Redis, redis_url: str
) -> None:
    store.write(costing(300, "1", ended_at=0.0), costing(2**53 + 1, "2", ended_at=DAY))
    spending = key(redis_url, "spending:team-a")
    assert operator.hgetall(spending) == {"1970-01-01": "300", "1970-01-02": f"{2**53 + 1}"}


def test_a_record_that_is_replaced_by_one_of_another_key_moves_its_cost(
    store: OnThread, operator: redis.Redis, redis_url: str
) -> None:
    before = [costing(n, str(n), key=f"old-{n % 3}", ended_at=0.0) for n in range(1, 31)]
    store.write(*before)
    store.write(*(costing(2, str(n), key="new", ended_at=0.0) for n in range(1, 31)))
    for old in range(3):
        assert operator.hgetall(key(redis_url, f"spending:old-{old}")) == {"1970-01-01": "0"}
    assert operator.hgetall(key(redis_url, "spending:new")) == {"1970-01-01": "60"}
    assert {record.key for record in store.records()} == {"new"}


def test_sums_that_no_integer_holds_cost_no_record(store: OnThread) -> None:
    vast = [costing(10**18 - 1, str(n)) for n in range(12)]
    store.write(*vast)
    assert len(store.records()) == 12
    assert store.ask("a", 1).refusal == "budget"


def test_more_asks_than_one_script_answers_are_answered_in_their_order(store: OnThread) -> None:
    asked = [make_ask(str(n), 1, budget=BATCH_ASKS + 5) for n in range(BATCH_ASKS + 10)]
    answers = store.lease(*asked)
    assert [lease.left_microusd for lease in answers[:3]] == [
        BATCH_ASKS + 4, BATCH_ASKS + 3, BATCH_ASKS + 2,
    ]  # fmt: skip
    assert [lease.refusal for lease in answers[-6:]] == ["", *["budget"] * 5]
    assert answers[-1].sessions == BATCH_ASKS + 5


def test_thousands_of_sessions_share_one_key(store: OnThread) -> None:
    for start in range(0, 2_500, 500):
        store.lease(*(make_ask(f"{start + n}", 2, budget=10_000) for n in range(500)))
    assert store.ask("last", 9_999, budget=10_000).held_microusd == 5_000


def test_leases_that_lapsed_long_ago_are_let_go_of(
    store: OnThread, operator: redis.Redis, redis_url: str
) -> None:
    for n in range(3):
        store.ask(f"old-{n}", 10)
    pass_in_redis(operator, redis_url, 60.0 + KEEP_SECONDS)
    store.ask("new", 10)
    assert operator.hkeys(key(redis_url, "leases:team-a")) == ["new"]
    assert operator.zrange(key(redis_url, "lapses:team-a"), 0, -1) == ["new"]


def test_tokens_older_than_a_minute_are_let_go_of(
    store: OnThread, operator: redis.Redis, redis_url: str
) -> None:
    store.ask("a", tokens=5)
    pass_in_redis(operator, redis_url, MINUTE_SECONDS)
    assert store.ask("a").tokens == 0
    assert operator.hlen(key(redis_url, "tokens:team-a")) == 0


def test_an_account_that_nobody_asks_for_again_expires(
    store: OnThread, operator: redis.Redis, redis_url: str
) -> None:
    store.ask("long", 10, tokens=5, seconds=500.0)
    store.ask("short", 10, seconds=5.0)
    for name in ("leases", "lapses", "sums"):
        remembered = operator.ttl(key(redis_url, f"{name}:team-a"))
        assert KEEP_SECONDS + 400 < remembered <= KEEP_SECONDS + 500
    assert 0 < operator.ttl(key(redis_url, "tokens:team-a")) <= MINUTE_SECONDS + 1
    store.write(costing(5, "1", "long"))
    assert operator.ttl(key(redis_url, "leases:team-a")) > KEEP_SECONDS
    assert operator.ttl(key(redis_url, "spending:team-a")) == -1


def test_all_keys_are_on_one_slot_of_a_cluster(
    store: OnThread, operator: redis.Redis, redis_url: str
) -> None:
    store.ask("a", 10, key="{x}", tokens=5)
    store.write(costing(5, "1", "a", key="{x}"))
    prefix = redis_url.rpartition("prefix=")[2]
    found = operator.keys(f"*{prefix}*")
    assert len(found) == 8
    assert len({operator.execute_command("CLUSTER", "KEYSLOT", name) for name in found}) == 1


def test_a_lease_waits_for_no_log(redis_url: str, operator: redis.Redis) -> None:
    store = OnThread(open_store(redis_url + "&wait_aof=yes&timeout=1"))
    operator.config_set("appendonly", "no")  # whoever waits for it is told so
    try:
        assert store.ask("a", 10).held_microusd == 10
    finally:
        operator.config_set("appendonly", "yes")
    store.close()


def test_a_lease_over_a_connection_that_was_cut_while_idle_is_given(redis_url: str) -> None:
    port = urlsplit(redis_url).port
    assert port is not None
    with wire(port) as proxy:
        store = OnThread(open_store(redis_url.replace(f":{port}", f":{proxy.port}")))
        for n in range(1, 4):
            assert store.ask(str(n), 10).left_microusd == 1_000 - 10 * n
            proxy.cut()
        store.close()


def test_a_record_of_a_session_that_has_no_lease_makes_none(
    store: OnThread, operator: redis.Redis, redis_url: str
) -> None:
    record: UsageRecord = costing(5, "1", "nobody")
    store.write(record)
    assert not operator.exists(key(redis_url, "leases:team-a"))


def test_sums_of_a_clock_that_was_set_back_are_added_up_anew(
    store: OnThread, operator: redis.Redis, redis_url: str
) -> None:
    store.ask("a", 100)
    sums = key(redis_url, "sums:team-a")
    as_of = float(operator.hget(sums, "as_of") or 0)
    # The last call was an hour later, when "a" had lapsed.
    operator.hset(sums, mapping={"as_of": f"{as_of + 3_600:.6f}", "open": 0, "held": 0})
    assert store.ask("a", 50, max_sessions=1).sessions == 1
    assert store.ask("b", 0, max_sessions=5).left_microusd == 950
    assert operator.hmget(sums, "open", "held") == ["2", "50"]
    assert store.ask("c", max_sessions=2).refusal == "sessions"


def test_leases_that_the_server_evicted_are_no_longer_counted(
    store: OnThread, operator: redis.Redis, redis_url: str
) -> None:
    store.ask("a", 100)
    store.ask("b", 100)
    operator.hdel(key(redis_url, "leases:team-a"), "a")
    pass_in_redis(operator, redis_url, 61.0)
    assert store.ask("c", 100) == Lease(100, 900, sessions=1, tokens=0)
