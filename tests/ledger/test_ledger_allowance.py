"""What a session may still cost: by its slice, by the store's answers, by its records."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import gevent
import pytest
from ledger_support import make_record

from relay_app.ledger.allowance import PATIENCE_SECONDS, Allowance, Minute, Standing
from relay_app.ledger.stores.leases import Ask, Lease
from relay_app.ledger.stores.memory import MemoryStore
from relay_app.meter.usage import Usage
from relay_app.settings import Key

MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC).timestamp()
NOON = MIDNIGHT + 43_200
PACE = 1_000.0
"""Micro-dollars a second of an answer."""


class Teller:
    """An allowance, a store that is asked when the test says so, and a clock that stands still."""

    def __init__(self, *, pace: float = PACE, **limits: Any) -> None:
        self.now = NOON
        self.store = MemoryStore()
        self.key = Key(name="team-a", key_sha256="0" * 64, **limits)
        self.minute = Minute()
        self.wakes = 0
        self.allowance = self.session("sess_1", pace)

    def session(self, name: str, pace: float = PACE) -> Allowance:
        return Allowance(
            name,
            self.key,
            self.minute,
            wake=self._woken,
            pace=pace,
            clock=lambda: self.now,
            timer=lambda: self.now,
        )

    def _woken(self, allowance: Allowance) -> None:
        self.wakes += 1

    def ask(self, allowance: Allowance | None = None) -> tuple[Ask, Lease]:
        allowance = allowance or self.allowance
        ask = allowance.ask()
        [lease] = self.store.lease([ask], seconds=35.0)
        allowance.answer(ask, lease, self.now)
        return ask, lease

    def another_spends(self, dollars: str) -> None:
        self.store.write([make_record("other", "sess_0", cost_usd=Decimal(dollars))])


def charge(allowance: Allowance, dollars: str | None, unit: str = "r1", **changes: Any) -> None:
    cost = None if dollars is None else Decimal(dollars)
    record = make_record(unit, **{"ended_at": NOON, "cost_usd": cost} | changes)
    allowance.charge(record)


def test_an_idle_session_holds_a_cent_of_a_large_budget_and_a_hundredth_of_a_small_one():
    for budget, held in (("5.00", 10_000), ("0.50", 5_000), ("0.000001", 1)):
        teller = Teller(budget_usd=Decimal(budget))
        assert teller.ask()[1].held_microusd == held


def test_a_running_session_holds_what_the_next_seconds_cost():
    teller = Teller(budget_usd=Decimal("5.00"))
    teller.ask()
    teller.allowance.standing(500.0)
    ask, lease = teller.ask()
    assert ask.spent_microusd == 500
    assert lease.held_microusd == 500 + 20 * PACE


def test_an_answer_that_comes_faster_than_it_is_heard_has_a_larger_slice():
    teller = Teller(budget_usd=Decimal("500.00"))
    teller.ask()
    teller.allowance.standing(1.0)
    teller.ask()
    teller.now += 1
    teller.allowance.standing(1.0 + 13 * PACE)
    assert teller.ask()[0].want_microusd == 20 * 13 * PACE


def test_no_slice_is_a_large_part_of_what_is_left():
    teller = Teller(budget_usd=Decimal("0.05"))
    teller.ask()
    teller.allowance.standing(0.5)
    ask, _ = teller.ask()
    assert ask.want_microusd <= 50_000 / 8 + 1
    assert ask.want_microusd >= PACE, "but it is worth a second of the answer"


def test_the_slice_of_a_session_that_rests_is_given_back():
    teller = Teller(budget_usd=Decimal("5.00"))
    teller.ask()
    teller.allowance.standing(500.0)
    teller.ask()
    charge(teller.allowance, "0.000700")
    teller.allowance.standing(0.0)
    assert teller.ask()[1].held_microusd == 700 + 10_000


def test_more_is_asked_for_when_half_of_the_slice_is_used_and_not_twice_at_a_time():
    teller = Teller(budget_usd=Decimal("5.00"))
    teller.ask()
    assert teller.allowance.standing(4_999.0) is Standing.GOOD
    assert teller.wakes == 0
    assert teller.allowance.standing(5_001.0) is Standing.GOOD
    assert teller.wakes == 1
    ask = teller.allowance.ask()
    assert teller.allowance.standing(5_002.0) is Standing.GOOD
    assert teller.wakes == 1
    teller.allowance.failed(ask)
    assert teller.allowance.standing(5_003.0) is Standing.GOOD
    assert teller.wakes == 2


def test_a_budget_that_is_used_up_is_spent_once_the_store_has_said_so():
    teller = Teller(budget_usd=Decimal("0.010000"))
    teller.ask()
    teller.another_spends("0.009900")
    assert teller.allowance.standing(150.0) is Standing.GOOD, "the store is asked first"
    assert teller.wakes == 1
    ask, lease = teller.ask()
    assert (ask.spent_microusd, lease.held_microusd, lease.left_microusd) == (150, 150, 0)
    assert teller.allowance.standing(150.0) is Standing.SPENT


def test_a_response_whose_input_is_more_than_what_is_left_is_over_it_at_once():
    teller = Teller(budget_usd=Decimal("0.300000"))
    teller.ask()
    teller.now += 60
    assert teller.allowance.standing(400_000.0) is Standing.GOOD
    teller.ask()
    assert teller.allowance.standing(400_000.0) is Standing.SPENT


def test_a_budget_that_others_gave_back_is_used():
    teller = Teller(budget_usd=Decimal("0.010000"))
    other = teller.session("sess_2")
    other.standing(9_900.0)
    teller.ask(other)
    teller.ask()
    assert teller.allowance.standing(150.0) is Standing.SPENT
    other.ended = True
    other.standing(0.0)
    teller.ask(other)
    teller.ask()
    assert teller.allowance.standing(500.0) is Standing.GOOD


def test_that_nothing_is_left_is_not_believed_for_long():
    teller = Teller(budget_usd=Decimal("0.010000"))
    teller.another_spends("0.009999")
    teller.ask()
    teller.now += 1.5
    assert teller.allowance.standing(5.0) is Standing.GOOD
    assert teller.wakes == 1
    teller.ask()
    assert teller.allowance.standing(5.0) is Standing.SPENT


def test_a_session_lives_on_its_slice_while_the_store_does_not_answer_and_no_longer():
    teller = Teller(budget_usd=Decimal("5.00"))
    teller.ask()
    teller.now += 3_600
    teller.allowance.failed(teller.allowance.ask())
    assert teller.allowance.standing(9_999.0) is Standing.GOOD
    assert teller.allowance.standing(10_001.0) is Standing.GOOD
    teller.now += PATIENCE_SECONDS + 0.1
    assert teller.allowance.standing(10_002.0) is Standing.UNKNOWN


def test_a_record_takes_the_place_of_what_ran_and_of_its_like():
    teller = Teller(budget_usd=Decimal("5.00"))
    teller.ask()
    charge(teller.allowance, "0.001000")
    charge(teller.allowance, "0.000400", "r2")
    charge(teller.allowance, "0.000900")
    assert teller.ask()[0].spent_microusd == 1_300
    charge(teller.allowance, None, "r3")
    assert teller.ask()[0].spent_microusd == 1_300, "what is unpriced costs nothing"


def test_a_record_of_a_response_that_still_runs_is_not_counted_twice():
    teller = Teller(budget_usd=Decimal("5.00"))
    charge(teller.allowance, "0.001000", kind="residual", source="estimated")
    teller.allowance.standing(1_100.0)
    assert teller.ask()[0].spent_microusd == 1_100


def test_a_response_may_begin_if_its_input_fits():
    teller = Teller(budget_usd=Decimal("5.00"))
    teller.ask()
    assert teller.allowance.may_begin(10_000.0) is Standing.GOOD
    assert teller.wakes == 0


def answering(teller: Teller) -> None:
    """From now on the store is asked when the allowance wishes."""

    def wake(allowance: Allowance) -> None:
        teller.wakes += 1
        gevent.spawn(teller.ask)

    teller.allowance._wake = wake


def test_a_response_whose_input_needs_more_waits_for_the_store():
    teller = Teller(budget_usd=Decimal("5.00"))
    teller.ask()
    answering(teller)
    assert teller.allowance.may_begin(400_000.0) is Standing.GOOD
    assert teller.wakes == 1
    assert teller.allowance.standing(400_000.0) is Standing.GOOD


def test_a_response_whose_input_is_more_than_what_is_left_may_not_begin():
    teller = Teller(budget_usd=Decimal("0.30"))
    teller.ask()
    answering(teller)
    assert teller.allowance.may_begin(400_000.0) is Standing.SPENT


def test_nobody_waits_long_for_a_store_that_does_not_answer():
    teller = Teller(budget_usd=Decimal("5.00"))
    teller.ask()
    teller.now += 10

    def wake(allowance: Allowance) -> None:
        teller.now += 2 * PATIENCE_SECONDS

    teller.allowance._wake = wake
    assert teller.allowance.may_begin(400_000.0) is Standing.UNKNOWN


def test_without_a_budget_everything_fits():
    teller = Teller(max_sessions=3)
    teller.ask()
    assert teller.allowance.standing(1e12) is Standing.GOOD
    assert teller.allowance.may_begin(1e12) is Standing.GOOD


def test_tokens_are_told_once_and_again_only_if_they_were_not_heard():
    teller = Teller(max_tokens_per_minute=100)
    teller.ask()
    charge(teller.allowance, "0", usage=Usage(input_text_tokens=30, output_text_tokens=10))
    assert teller.wakes == 1
    assert teller.allowance.tokens == 40
    ask = teller.allowance.ask()
    assert ask.tokens == 40
    teller.allowance.failed(ask)
    assert teller.ask()[0].tokens == 40
    assert teller.ask()[0].tokens == 0
    assert teller.allowance.tokens == 40


def test_a_replaced_record_tells_the_tokens_it_has_more():
    teller = Teller(max_tokens_per_minute=100)
    charge(teller.allowance, "0", usage=Usage(input_text_tokens=30))
    charge(teller.allowance, "0", usage=Usage(input_text_tokens=50))
    charge(teller.allowance, "0", usage=Usage(input_text_tokens=20))
    assert teller.allowance.tokens == 50


def test_all_sessions_of_a_key_are_too_fast_together():
    teller = Teller(max_tokens_per_minute=100)
    other = teller.session("sess_2")
    charge(other, "0", usage=Usage(input_text_tokens=99))
    assert not teller.allowance.too_fast
    teller.ask(other)
    charge(teller.allowance, "0", usage=Usage(input_text_tokens=1))
    assert teller.allowance.too_fast
    assert other.too_fast


@pytest.mark.parametrize(("period", "kept"), [("day", 400), ("month", 1_400)])
def test_a_session_that_lives_over_midnight_starts_a_new_day(period: str, kept: int):
    teller = Teller(budget_usd=Decimal("5.00"), budget_period=period)
    teller.ask()
    charge(teller.allowance, "0.001000")
    assert teller.ask()[0].spent_microusd == 1_000
    teller.now = MIDNIGHT + 86_400 + 1
    charge(teller.allowance, "0.000400", "r2", ended_at=teller.now)
    ask, lease = teller.ask()
    assert (ask.limits.since > "2026-11-22") is (period == "day")
    assert ask.spent_microusd == kept
    assert teller.allowance.standing(lease.held_microusd - kept) is Standing.GOOD


def test_until_the_store_was_asked_of_the_new_day_the_old_slice_holds():
    teller = Teller(budget_usd=Decimal("5.00"), budget_period="day")
    teller.ask()
    teller.now += 86_400
    charge(teller.allowance, "0.001000", ended_at=teller.now)
    assert teller.allowance.standing(9_000.0) is Standing.GOOD
    assert teller.allowance.standing(9_001.0) is Standing.GOOD
    teller.now += PATIENCE_SECONDS + 0.1
    assert teller.allowance.standing(9_002.0) is Standing.UNKNOWN


def test_a_changed_limit_goes_into_the_next_question():
    teller = Teller(budget_usd=Decimal("5.00"))
    teller.ask()
    teller.allowance.key = Key(name="team-a", key_sha256="0" * 64, budget_usd=Decimal("0.001"))
    ask, lease = teller.ask()
    assert ask.limits.budget_microusd == 1_000
    assert lease.held_microusd == 10


def test_a_session_whose_lease_the_store_lost_holds_what_it_spent():
    teller = Teller(budget_usd=Decimal("0.010000"))
    teller.ask()
    charge(teller.allowance, "0.004000")
    teller.ask()
    teller.another_spends("0.010000")
    teller.store._leases.clear()
    _, lease = teller.ask()
    assert lease.refusal == "budget"
    assert teller.allowance.standing(0.0) is Standing.GOOD
    assert teller.allowance.standing(1.0) is Standing.SPENT
