"""When a budget's period begins, and when the next one does."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from relay_app.ledger.periods import is_limited, limits_of, seconds_to_renewal
from relay_app.ledger.stores.leases import Limits
from relay_app.settings import Key


def key(**limits: object) -> Key:
    return Key(name="k", key_sha256="0" * 64, **limits)  # type: ignore[arg-type]


def at(*moment: int) -> float:
    return datetime(*moment, tzinfo=UTC).timestamp()  # type: ignore[misc,arg-type]


def test_a_key_is_limited_by_any_one_of_its_limits():
    assert not is_limited(key(budget_period="day"))
    assert is_limited(key(budget_usd=Decimal(0)))
    assert is_limited(key(max_sessions=1))
    assert is_limited(key(max_tokens_per_minute=1))


@pytest.mark.parametrize(
    ("period", "since"), [("total", ""), ("day", "2026-11-22"), ("month", "2026-11-01")]
)
def test_limits_are_those_of_the_period(period: str, since: str):
    limits = limits_of(
        key(budget_usd=Decimal("1.50"), budget_period=period), at(2026, 11, 22, 23, 59)
    )
    assert limits == Limits(budget_microusd=1_500_000, since=since)


@pytest.mark.parametrize(
    ("period", "now", "then"),
    [
        ("day", (2026, 11, 22, 23, 59, 30), (2026, 11, 23)),
        ("day", (2026, 12, 31, 0, 0, 0), (2027, 1, 1)),
        ("month", (2026, 11, 22), (2026, 12, 1)),
        ("month", (2026, 12, 31, 23), (2027, 1, 1)),
        ("month", (2028, 2, 29), (2028, 3, 1)),
    ],
)
def test_a_budget_renews_with_the_next_day_or_month_in_utc(period: str, now: tuple, then: tuple):
    seconds = seconds_to_renewal(key(budget_period=period), at(*now))
    assert seconds == at(*then) - at(*now)


def test_a_total_budget_never_renews():
    assert seconds_to_renewal(key(), at(2026, 11, 22)) is None


def test_the_last_moment_of_a_day_has_a_second_left():
    assert seconds_to_renewal(key(budget_period="day"), at(2026, 11, 23) - 0.001) == 1
