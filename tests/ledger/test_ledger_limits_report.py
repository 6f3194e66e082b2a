"""What the holder of a key is told about its limits: what its sessions would be told."""

import time
from decimal import Decimal
from typing import Any

from ledger_support import OnThread, make_record

from relay_app.ledger.limits_report import limits_values
from relay_app.ledger.periods import limits_of
from relay_app.ledger.stores.leases import Ask
from relay_app.settings import Key


def key(**limits: Any) -> Key:
    return Key(name="team-a", key_sha256="0" * 64, **limits)


def test_each_limit_is_told_with_what_is_left_or_used(store: OnThread):
    now = time.time()
    limited = key(
        budget_usd=Decimal("2.50"), budget_period="day", max_sessions=4, max_tokens_per_minute=900
    )
    store.write(make_record(ended_at=now, cost_usd=Decimal("1.00")))
    limits = limits_of(limited, now)
    ask = Ask("s1", "team-a", limits, want_microusd=200_000, tokens=33)
    store.direct.lease([ask], seconds=35.0)
    for _ in range(2):  # to be asked changes nothing
        assert limits_values(store.direct, limited, now) == {
            "budget_usd": "2.50",
            "budget_period": "day",
            "budget_left_usd": "1.300000",
            "max_sessions": 4,
            "sessions": 1,
            "max_tokens_per_minute": 900,
            "tokens_last_minute": 33,
        }


def test_limits_that_a_key_does_not_have_are_not_told(store: OnThread):
    assert limits_values(store.direct, key(max_sessions=4), time.time()) == {
        "max_sessions": 4,
        "sessions": 0,
    }
