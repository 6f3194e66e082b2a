"""What a client is told at a limit: its own limit, and when to come back."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from relay_app.ledger.limit_faults import budget_spent, budget_unavailable, too_fast, too_many
from relay_app.settings import Key

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()


def key(**limits: object) -> Key:
    return Key(name="k", key_sha256="0" * 64, **limits)  # type: ignore[arg-type]


def test_a_spent_budget_says_when_it_renews_if_it_does():
    spent = budget_spent(key(budget_usd=Decimal(1), budget_period="day"), NOON)
    assert (spent.status, spent.close_code) == (402, 1008)
    assert spent.headers == {"Retry-After": "43200"}
    assert budget_spent(key(budget_usd=Decimal(1)), NOON).headers == {}


@pytest.mark.parametrize(("used", "seconds"), [(100, 1), (101, 1), (200, 30), (6_000, 59)])
def test_too_many_tokens_are_waited_for_as_if_they_had_come_evenly(used: int, seconds: int):
    fault = too_fast(key(max_tokens_per_minute=100), used)
    assert fault.status == 429
    assert fault.headers == {"Retry-After": str(seconds)}
    assert "100 tokens a minute" in fault.message
    assert str(used) not in fault.message.replace("100 tokens", ""), "what others used is theirs"


def test_the_number_of_sessions_is_said_in_words():
    assert "1 session open" in too_many(key(max_sessions=1)).message
    assert "3 sessions open" in too_many(key(max_sessions=3)).message


def test_limits_that_cannot_be_looked_up_are_our_fault():
    fault = budget_unavailable()
    assert (fault.status, fault.close_code, fault.type) == (503, 1011, "server_error")
