"""The sums of an account are those of its leases; what a lease is, the contract's tests say."""

import random
from copy import deepcopy

from ledger_support import make_ask

from relay_app.ledger.stores.accounts import KEEP_SECONDS, Account, Held, answer

NOW = 1_000_000.0


def lease(**values: object) -> Held:
    return Held(**({"microusd": 100, "lapses_at": NOW + 1.0} | values))  # type: ignore[arg-type]


def test_what_has_lapsed_or_ended_is_left_out_of_the_sums() -> None:
    leases = {
        "open": lease(recorded=30),
        "ended": lease(open=False),
        "overspent": lease(recorded=500),
        "of another period": lease(since="1970-01-11"),
        "lapsed": lease(lapses_at=NOW),
    }
    account = Account.of(leases, NOW)
    assert account.sessions == 3
    assert account.outstanding == {"": 170, "1970-01-11": 100}
    assert len(account.leases) == 5


def test_what_lapsed_long_ago_is_forgotten() -> None:
    long_ago = lease(recorded=7, lapses_at=NOW - KEEP_SECONDS)
    assert Account.of({"a": long_ago}, NOW).leases == {}
    account = Account({"a": long_ago})  # as a store may still have it
    assert account.take("a", NOW) is None
    assert (account.leases, account.sessions) == ({}, 0)


def test_sums_stay_what_adding_up_says_whatever_is_asked() -> None:
    chance = random.Random(7)
    account = Account()
    for _ in range(500):
        ask = make_ask(
            chance.choice("abcdef"),
            chance.randrange(400),
            spent=chance.randrange(300),
            ends=chance.random() < 0.2,
            since=chance.choice(["", "1970-01-11"]),
        )
        answer(ask, account, spent=0, tokens=0, now=NOW, seconds=chance.choice([0.0, 60.0]))
        again = Account.of(deepcopy(account.leases), NOW)
        assert account.sessions == again.sessions
        assert +account.outstanding == +again.outstanding
