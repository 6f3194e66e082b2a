"""The limits of keys, kept for the sessions of one worker through a store."""

import time
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import gevent
import pytest
from ledger_support import make_record, until

from relay_app.errors import Fault
from relay_app.ledger.allowance import Allowance, Standing
from relay_app.ledger.budgets import Budgets
from relay_app.ledger.stores import StoreError
from relay_app.ledger.stores.leases import Ask, Lease
from relay_app.ledger.stores.memory import MemoryStore
from relay_app.ledger.stores.native import make_lock
from relay_app.meter.usage import Usage
from relay_app.settings import Key


class Store(MemoryStore):
    """A memory store that keeps what it was asked, and can fail or stand still."""

    def __init__(self) -> None:
        super().__init__()
        self.asks: list[Ask] = []
        self.fails = False
        self.gate = make_lock()

    def lease(self, asks: Sequence[Ask], *, seconds: float) -> list[Lease]:
        self.asks += asks
        with self.gate:
            if self.fails:
                raise StoreError("down: redis://me:secret@store")
            return super().lease(asks, seconds=seconds)

    def of(self, session_id: str) -> list[Ask]:
        return [ask for ask in self.asks if ask.session_id == session_id]


Make = Callable[..., Budgets]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def budgets(store: Store) -> Iterator[Make]:
    """A maker of what a worker has, of which each is closed."""
    made: list[Budgets] = []

    def make(**options: Any) -> Budgets:
        made.append(Budgets(store, **options))
        return made[-1]

    yield make
    for each in made:
        each.close(1.0)


def key(**limits: Any) -> Key:
    return Key(name="team-a", key_sha256="0" * 64, **limits)


def reserve(budgets: Budgets, session: str = "s1", **limits: Any) -> Allowance:
    allowance = budgets.reserve(session, key(**limits))
    assert allowance is not None
    return allowance


def refusal(budgets: Budgets, session: str = "s1", **limits: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        budgets.reserve(session, key(**limits))
    return caught.value


def test_a_key_without_limits_costs_nothing(budgets: Make, store: Store):
    made = budgets()
    assert made.reserve("s1", key()) is None
    assert not store.asks
    assert made._asker is None


def test_a_session_that_begins_has_its_slice(budgets: Make):
    allowance = reserve(budgets(), budget_usd=Decimal(5))
    assert allowance.standing(10_000.0) is Standing.GOOD


def test_a_spent_budget_refuses_with_402_and_says_when_it_renews(budgets: Make, store: Store):
    told: list[str] = []
    made = budgets(on_refused=told.append)
    store.write([make_record(cost_usd=Decimal("1.00"), ended_at=time.time())])
    fault = refusal(made, budget_usd=Decimal(1))
    assert (fault.status, fault.code, fault.type) == (402, fault.type, "insufficient_quota")
    assert "Retry-After" not in fault.headers
    assert "$" not in fault.message
    fault = refusal(made, budget_usd=Decimal(1), budget_period="day")
    assert 0 < int(fault.headers["Retry-After"]) <= 86_400
    assert told == ["budget", "budget"]


def test_sessions_beyond_their_number_are_refused_with_429(budgets: Make):
    made = budgets()
    reserve(made, "s1", max_sessions=2)
    second = reserve(made, "s2", max_sessions=2)
    fault = refusal(made, "s3", max_sessions=2)
    assert (fault.status, fault.code) == (429, "rate_limit_exceeded")
    assert int(fault.headers["Retry-After"]) > 0
    made.release(second)
    until(lambda: len(made) == 1)
    reserve(made, "s4", max_sessions=2)


def test_tokens_of_the_minute_are_refused_with_429(budgets: Make):
    made = budgets()
    first = reserve(made, "s1", max_tokens_per_minute=100)
    first.charge(make_record("r1", usage=Usage(input_text_tokens=200)))
    fault = refusal(made, "s2", max_tokens_per_minute=100)
    assert (fault.status, fault.code) == (429, "rate_limit_exceeded")
    assert fault.headers["Retry-After"] == "30"


def test_a_store_that_fails_admits_nobody_blind(budgets: Make, store: Store, caplog: Any):
    store.fails = True
    told: list[float | None] = []
    made = budgets(on_leased=told.append)
    fault = refusal(made, max_sessions=1)
    assert (fault.status, fault.code) == (503, "budget_unavailable")
    assert None in told
    assert "secret" not in caplog.text
    store.fails = False
    reserve(made, "s2", max_sessions=1)


def test_a_store_that_hangs_admits_nobody_and_keeps_no_slot(
    budgets: Make, store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("relay_app.ledger.budgets.RESERVE_SECONDS", 0.05)
    made = budgets()
    store.gate.acquire()
    try:
        assert refusal(made, max_sessions=1).status == 503
    finally:
        store.gate.release()
    until(lambda: len(made) == 0)
    monkeypatch.setattr("relay_app.ledger.budgets.RESERVE_SECONDS", 3)
    reserve(made, "s2", max_sessions=1)


def test_a_client_that_is_killed_while_it_waits_keeps_no_slot(budgets: Make, store: Store):
    made = budgets()
    store.gate.acquire()
    waiting = gevent.spawn(reserve, made, "s1", max_sessions=1)
    until(lambda: store.asks)
    waiting.kill()
    store.gate.release()
    until(lambda: len(made) == 0)
    reserve(made, "s2", max_sessions=1)


def test_leases_are_renewed_before_they_lapse(budgets: Make, store: Store):
    made = budgets(lease_seconds=2.1)
    reserve(made, "s1", max_sessions=1)
    begun = time.monotonic()
    until(lambda: len(store.of("s1")) == 5)
    assert 4 * 0.8 * 0.6 <= time.monotonic() - begun < 4 * 2.1
    assert refusal(made, "s2", max_sessions=1).status == 429


def test_a_worker_that_is_gone_keeps_no_slot(budgets: Make):
    dead, alive = budgets(lease_seconds=0.3), budgets(lease_seconds=0.3)
    reserve(dead, "s1", max_sessions=1)
    dead._asker.kill()
    assert refusal(alive, "s2", max_sessions=1).status == 429

    def admitted() -> bool:
        try:
            return bool(reserve(alive, "s3", max_sessions=1))
        except Fault:
            return False

    until(admitted)
    dead._empty.set()  # nobody is left there to give anything back


def test_questions_that_come_up_during_a_call_are_put_together(budgets: Make, store: Store):
    made = budgets()
    calls: list[int] = []
    lease = store.lease

    def counted(asks: Sequence[Ask], *, seconds: float) -> list[Lease]:
        calls.append(len(asks))
        return lease(asks, seconds=seconds)

    store.lease = counted  # type: ignore[method-assign]
    store.gate.acquire()
    sessions = [gevent.spawn(reserve, made, "first", max_sessions=99)]
    until(lambda: calls)
    sessions += [gevent.spawn(reserve, made, f"s{i}", max_sessions=99) for i in range(50)]
    gevent.sleep(0)
    store.gate.release()
    gevent.joinall(sessions, raise_error=True)
    assert calls == [1, 50]


def test_what_a_session_spent_is_told_when_it_ends(budgets: Make, store: Store):
    made = budgets()
    allowance = reserve(made, budget_usd=Decimal(5))
    allowance.charge(make_record(cost_usd=Decimal("0.25"), ended_at=time.time()))
    allowance.standing(0.0)
    made.release(allowance)
    made.release(allowance)
    until(lambda: len(made) == 0)
    last = store.asks[-1]
    assert (last.ends, last.spent_microusd, last.want_microusd) == (True, 250_000, 0)
    assert sum(ask.ends for ask in store.asks) == 1


def test_what_could_not_be_given_back_is_tried_again(budgets: Make, store: Store):
    told: list[float | None] = []
    made = budgets(backoff=lambda failures: 0.01, on_leased=told.append)
    allowance = reserve(made, max_sessions=1)
    store.fails = True
    made.release(allowance)
    until(lambda: told.count(None) >= 2)
    store.fails = False
    until(lambda: len(made) == 0)


def test_what_could_not_be_given_back_is_forgotten_when_it_has_lapsed(budgets: Make, store: Store):
    made = budgets(lease_seconds=0.1, backoff=lambda failures: 0.01)
    allowance = reserve(made, max_sessions=1)
    store.fails = True
    made.release(allowance)
    until(lambda: len(made) == 0)


def test_a_worker_that_closes_gives_all_back(budgets: Make, store: Store):
    made, other = budgets(), budgets()
    for i in range(3):
        reserve(made, f"s{i}", max_sessions=3)
    assert made.close(5.0)
    assert made._asker.dead
    reserve(other, "s4", max_sessions=1)


def test_two_workers_share_one_budget(budgets: Make):
    one, two = budgets(), budgets()
    limits = {"budget_usd": Decimal("0.10")}
    allowances = [reserve(one, "s1", **limits), reserve(two, "s2", **limits)]
    running, going = 0.0, list(allowances)
    spent = dict.fromkeys(allowances, 0.0)
    while going:
        running += 250.0
        for allowance in list(going):
            if allowance.standing(running) is not Standing.GOOD:
                going.remove(allowance)
            else:
                spent[allowance] = running
        gevent.sleep(0.001)
    assert 90_000 <= sum(spent.values()) <= 100_000 + 2 * 250


def test_changed_limits_are_asked_about_at_once(budgets: Make, store: Store):
    made = budgets()
    allowance = reserve(made, budget_usd=Decimal(5))
    made.update(lambda name: key(budget_usd=Decimal(1)))
    until(lambda: store.asks[-1].limits.budget_microusd == 1_000_000)
    assert allowance.key.budget_usd == 1
    asked = len(store.asks)
    made.update(lambda name: key(budget_usd=Decimal(1)))
    made.update(lambda name: None)
    gevent.sleep(0.02)
    assert len(store.asks) == asked


def test_a_key_that_is_too_fast_is_looked_at_until_it_is_not(
    budgets: Make, store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("relay_app.ledger.budgets.RUNNING_DRY_SECONDS", 0.02)
    made = budgets()
    allowances = [reserve(made, f"s{i}", max_tokens_per_minute=10) for i in range(5)]
    allowances[0].charge(make_record("r1", usage=Usage(input_text_tokens=20)))
    until(lambda: len(store.asks) > 12)
    polls = store.asks[6:]
    assert len({ask.session_id for ask in polls}) < 5, "one asks for all"
    assert allowances[4].too_fast
    store._seconds.clear()
    until(lambda: not allowances[4].too_fast)


def test_what_an_ended_session_used_is_told_once(budgets: Make, store: Store):
    made = budgets()
    stays = reserve(made, "s1", max_tokens_per_minute=100)
    ends = reserve(made, "s2", max_tokens_per_minute=100)
    ends.charge(make_record("r1", usage=Usage(input_text_tokens=60)))
    made.release(ends)
    until(lambda: len(made) == 1)
    assert stays.tokens == 60
    store._seconds.clear()
    stays.catch_up()
    made._wake(stays)
    until(lambda: stays.tokens == 0)


def test_what_can_never_be_told_is_not_counted_for_ever(budgets: Make, store: Store):
    made = budgets(lease_seconds=0.1, backoff=lambda failures: 0.01)
    stays = reserve(made, "s1", max_tokens_per_minute=100)
    ends = reserve(made, "s2", max_tokens_per_minute=100)
    store.fails = True
    ends.charge(make_record("r1", usage=Usage(input_text_tokens=60)))
    made.release(ends)
    until(lambda: len(made) == 1)
    assert stays.tokens == 0


def test_what_others_used_is_looked_up_unless_it_is_fresh(budgets: Make, store: Store):
    now = [100.0]
    made, other = budgets(timer=lambda: now[0]), budgets()
    allowance = reserve(made, "s1", max_tokens_per_minute=100)
    elsewhere = reserve(other, "s2", max_tokens_per_minute=100)
    elsewhere.charge(make_record("r1", usage=Usage(input_text_tokens=100)))
    until(lambda: elsewhere.minute.untold == 0)
    allowance.catch_up()
    assert not allowance.too_fast, "it was asked a moment ago"
    now[0] += 2
    allowance.catch_up()
    assert allowance.too_fast


def test_a_session_that_cannot_be_asked_about_does_not_cost_the_others_their_leases(
    budgets: Make, store: Store, caplog: Any
):
    made = budgets(backoff=lambda failures: 0.01)
    broken, fine = reserve(made, "s1", max_sessions=2), reserve(made, "s2", max_sessions=2)
    broken.key = None  # type: ignore[assignment]
    made._wake(broken)
    until(lambda: "asking about budgets failed" in caplog.text)
    broken.key = fine.key
    asked = len(store.of("s2"))
    made._wake(fine)
    until(lambda: len(store.of("s2")) > asked)
