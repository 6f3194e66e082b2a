import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_app.web import turnstile
from relay_app.web.turnstile import Turnstile


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_minutes_requests_may_come_at_once_and_then_evenly(clock: Clock):
    turns = Turnstile(3, clock=clock)
    assert [turns.ask("203.0.113.9") for _ in range(4)] == [0, 0, 0, 20]
    clock.now += 19
    assert turns.ask("203.0.113.9") == 1
    clock.now += 1
    assert turns.ask("203.0.113.9") == 0
    assert turns.ask("203.0.113.9") == 20


def test_who_is_refused_may_come_back_when_it_was_told(clock: Clock):
    turns = Turnstile(7, clock=clock)
    for _ in range(50):
        clock.now += turns.ask("203.0.113.9")
        assert turns.ask("203.0.113.9") == 0 or clock.now


def test_a_quiet_client_saves_no_more_than_a_minutes_requests(clock: Clock):
    turns = Turnstile(2, clock=clock)
    turns.ask("203.0.113.9")
    clock.now += 100_000
    assert [turns.ask("203.0.113.9") for _ in range(3)] == [0, 0, 30]


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        ("203.0.113.10", False),
        ("2001:db8:1:2:ffff::1", True),
        ("2001:db8:1:3::1", False),
        ("-", False),
    ],
)
def test_addresses_have_buckets_of_their_own_and_a_64_shares_one(
    clock: Clock, other: str, shared: bool
):
    turns = Turnstile(1, clock=clock)
    assert turns.ask("203.0.113.9") == 0
    assert turns.ask("2001:db8:1:2::1") == 0
    assert (turns.ask(other) > 0) is shared


def test_only_so_many_addresses_are_known(clock: Clock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turnstile, "MAX_ADDRESSES", 3)
    turns = Turnstile(1, clock=clock)
    for last in (1, 2, 3, 1, 4):  # 1 is refused, and still is the one that was heard of last
        turns.ask(f"203.0.113.{last}")
    assert len(turns) == 3
    assert turns.ask("203.0.113.1") > 0
    assert turns.ask("203.0.113.2") == 0, "the oldest is forgotten"


@given(st.integers(1, 1_000), st.lists(st.floats(0, 100), max_size=60))
def test_no_minute_lets_more_than_two_buckets_through(per_minute: int, pauses: list[float]):
    clock = Clock()
    turns = Turnstile(per_minute, clock=clock)
    passed = []
    for pause in pauses:
        clock.now += pause
        for _ in range(per_minute // 10 + 1):
            if not turns.ask("203.0.113.9"):
                passed.append(clock.now)
    for moment in passed:
        assert sum(moment <= other < moment + 60 for other in passed) <= 2 * per_minute
