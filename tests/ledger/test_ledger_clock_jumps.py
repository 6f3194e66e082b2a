"""A store's clock that is set forward or back holds nothing for long, and gives nothing twice.

Set back, what was given before lies in the future; set forward, it has lapsed long ago. So it is
what the store keeps that is moved here, and not the clock.
"""

from collections.abc import Callable

import pytest
from ledger_support import OnThread, costing
from store_support import pass_in

from relay_app.ledger.stores.leases import Lease
from relay_app.ledger.stores.sql_leases import SWEEP_CALLS

DAY = 86_400.0
Move = Callable[[float], None]


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def store_url(request: pytest.FixtureRequest) -> str:
    """Not that in memory, which needs no clock that others know."""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def set_forward(store: OnThread, store_url: str) -> Move:
    return lambda seconds: pass_in(store_url, seconds)


@pytest.fixture
def set_back(store: OnThread, store_url: str) -> Move:
    return lambda seconds: pass_in(store_url, -seconds)


def test_set_back_what_a_dead_worker_held_is_free(store: OnThread, set_back: Move) -> None:
    store.ask("dead", 700, max_sessions=1)
    set_back(DAY)
    assert store.ask("b", 700, max_sessions=1) == Lease(700, 300, sessions=1, tokens=0)


def test_nor_is_it_held_again_when_its_time_comes(
    store: OnThread, set_back: Move, set_forward: Move
) -> None:
    store.ask("dead", 700)
    set_back(DAY)
    for _ in range(SWEEP_CALLS):
        store.ask("b")
    set_forward(DAY - 30)
    assert store.ask("b", 1_000).held_microusd == 1_000


def test_set_back_who_is_there_counts_again_with_its_next_ask(
    store: OnThread, set_back: Move
) -> None:
    store.ask("a", 300, max_sessions=1)
    set_back(DAY)
    store.ask("a", 300, max_sessions=1)
    assert store.ask("b", 1, max_sessions=1).refusal == "sessions"
    assert store.ask("b", 1_000).held_microusd == 700


def test_set_back_what_is_recorded_is_still_counted_once(store: OnThread, set_back: Move) -> None:
    store.ask("a", 300)
    store.write(costing(200, "1", "a"))
    set_back(DAY)
    assert store.ask("a", 300, spent=200).left_microusd == 500
    store.write(costing(100, "2", "a"))
    assert store.ask("a", 0, spent=300).left_microusd == 700


@pytest.mark.parametrize("seconds", [120.0, DAY])
def test_set_back_tokens_of_the_future_are_none_of_the_last_minute(
    store: OnThread, set_back: Move, seconds: float
) -> None:
    store.ask("a", tokens=500)
    set_back(seconds)
    assert store.ask("a", tokens=7).tokens == 7
    assert store.ask("b", max_tokens_per_minute=100).refusal == ""


def test_set_forward_within_the_hour_who_is_there_finds_all_as_it_was(
    store: OnThread, set_forward: Move
) -> None:
    store.ask("a", 300)
    store.write(costing(200, "1", "a"))
    set_forward(1_800.0)
    assert store.ask("a", 300, spent=200, max_sessions=0) == Lease(500, 500, sessions=1, tokens=0)


def test_set_forward_by_a_day_nobody_is_given_more_than_there_is(
    store: OnThread, set_forward: Move
) -> None:
    """What a session has spent may count twice until it ends: too careful, and not for long."""
    store.ask("a", 300)
    store.write(costing(200, "1", "a"))
    set_forward(DAY)
    assert store.ask("a", 300, spent=200).held_microusd == 500
    assert store.ask("b", 1_000).held_microusd == 300
    store.ask("a", 0, spent=200, ends=True, seconds=0.0)
    assert store.ask("b", 1_000).held_microusd == 800
