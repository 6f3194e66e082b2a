"""What every store promises the sessions of a key: no more together than its limits.

Money is in micro-dollars. Nothing waits for a lease to lapse: one for 0 seconds has lapsed.
"""

import itertools
from decimal import Decimal

import pytest
from gevent.threadpool import ThreadPool
from ledger_support import OnThread, costing, make_ask, make_record, spend_all

from relay_app.ledger.stores import Store, StoreError
from relay_app.ledger.stores.leases import Lease

DAY = 86_400.0


def spend(store: OnThread, microusd: int, session: str = "before") -> None:
    """What the ledger shows already, of a session without a lease."""
    store.write(costing(microusd, "spent", session))


def left(store: OnThread, **values: object) -> int | None:
    """What a session that comes now finds, and does not take."""
    return store.ask("who looks", ends=True, **values).left_microusd


def test_a_session_is_given_what_it_wants_while_it_is_there(store: OnThread) -> None:
    assert store.ask("a", 300) == Lease(300, 700, sessions=1, tokens=0)
    assert store.ask("b", 300) == Lease(300, 400, sessions=2, tokens=0)
    assert store.ask("c", 600) == Lease(400, 0, sessions=3, tokens=0)
    assert store.ask("d", 1) == Lease(0, 0, sessions=3, tokens=0, refusal="budget")


def test_asks_of_one_call_are_answered_one_after_the_other_in_their_order(store: OnThread) -> None:
    asks = [
        make_ask("a", 700),
        make_ask("x", 700, key="team-b"),
        make_ask("b", 700),
        make_ask("c", 700, key="team-a"),
        make_ask("y", 700, key="team-b"),
    ]
    leases = store.lease(*asks)
    assert [lease.held_microusd for lease in leases] == [700, 700, 300, 0, 300]
    assert [lease.refusal for lease in leases] == ["", "", "", "budget", ""]
    assert store.lease() == []


def test_the_same_session_may_ask_twice_in_one_call(store: OnThread) -> None:
    first, second = store.lease(make_ask("a", 100), make_ask("a", 300, spent=50))
    assert (first.held_microusd, second.held_microusd) == (100, 350)
    assert left(store) == 650


def test_a_renewal_takes_the_place_of_what_was_held(store: OnThread) -> None:
    store.ask("a", 900)
    assert store.ask("a", 100, spent=200) == Lease(300, 700, sessions=1, tokens=0)
    assert store.ask("b", 1_000).held_microusd == 700


def test_what_the_ledger_shows_is_not_there_for_anybody(store: OnThread) -> None:
    spend(store, 850)
    assert store.ask("a", 300) == Lease(150, 0, sessions=1, tokens=0)


def test_a_key_has_an_account_of_its_own(store: OnThread) -> None:
    spend(store, 1_000)
    store.ask("a", 0)
    assert store.ask("a", 1_000, key="team-b") == Lease(1_000, 0, sessions=1, tokens=0)


def test_a_session_that_overspent_leaves_less_than_nothing_to_the_others(store: OnThread) -> None:
    store.ask("a", 100)
    assert store.ask("a", 100, spent=1_500) == Lease(1_500, 0, sessions=1, tokens=0)
    assert store.ask("b", 1).refusal == "budget"


def test_a_record_that_arrives_is_shown_and_no_longer_held(store: OnThread) -> None:
    store.ask("a", 300)
    store.write(costing(100, "1", "a"))
    assert left(store) == 700
    store.ask("a", 300, spent=100)
    assert left(store) == 600
    store.write(costing(250, "2", "a"))
    assert left(store) == 600
    store.write(costing(250, "3", "a"))  # beyond what it held
    assert left(store) == 400


@pytest.mark.parametrize("order", list(itertools.permutations(["record", "record", "renewal"])))
def test_nothing_is_counted_twice_whatever_arrives_first(
    store: OnThread, order: tuple[str, ...]
) -> None:
    store.ask("a", 100)
    for what in order:
        if what == "record":
            store.write(costing(80, "1", "a"))  # a replay, the second time
        else:
            store.ask("a", 100, spent=80)
    assert left(store) == 1_000 - 180


def test_a_record_that_is_replaced_counts_what_it_costs_now(store: OnThread) -> None:
    store.ask("a", 500)
    store.write(costing(100, "1", "a", source="estimated"))
    store.write(costing(40, "1", "a"))
    store.write(costing(90, "1", "a", source="estimated"))  # too late to count
    store.ask("a", 0, spent=40)
    assert left(store) == 960
    store.ask("a", 0, spent=40, ends=True)
    assert left(store) == 960


def test_the_end_of_a_unit_replaces_its_residual(store: OnThread) -> None:
    store.ask("a", 500)
    store.write(costing(100, "1", "a", kind="residual", source="estimated"))
    store.write(costing(300, "1", "a", source="estimated"))
    store.ask("a", 0, spent=300)
    assert left(store) == 700


def test_a_record_may_lose_its_price_and_gain_one(store: OnThread) -> None:
    store.write(costing(300, "1"), make_record("2", cost_usd=None))
    assert left(store) == 700
    store.write(make_record("1", cost_usd=None), costing(100, "2"))
    assert left(store) == 900


def test_versions_of_a_record_in_one_write_count_once(store: OnThread) -> None:
    store.ask("a", 500)
    versions = [costing(cost, "1", "a", source="estimated") for cost in (100, 70)]
    store.write(*versions, costing(300, "1", "a"), *versions)
    store.ask("a", 0, spent=300)
    assert left(store) == 700


def test_unpriced_records_cost_nothing(store: OnThread) -> None:
    store.ask("a", 100)
    store.write(make_record("1", "a", cost_usd=None), make_record("2", "b", cost_usd=Decimal(0)))
    assert left(store) == 900


def test_a_session_that_ends_gives_back_what_it_has_not_spent(store: OnThread) -> None:
    store.ask("a", 800)
    assert store.ask("a", 800, spent=300, ends=True) == Lease(300, 700, sessions=0, tokens=0)


def test_a_session_that_ended_is_kept_until_it_is_recorded(store: OnThread) -> None:
    store.ask("a", 800)
    store.ask("a", spent=300, ends=True)
    assert left(store) == 700
    store.write(costing(200, "1", "a"))
    assert left(store) == 700
    store.write(costing(100, "2", "a"))
    assert left(store) == 700


def test_what_never_comes_is_kept_no_longer_than_a_lease(store: OnThread) -> None:
    store.ask("a", 800)
    store.ask("a", spent=300, ends=True, seconds=0.0)
    assert left(store) == 1_000


def test_a_lease_that_lapsed_frees_its_slot_and_its_money(store: OnThread) -> None:
    store.ask("a", 1_000, max_sessions=1, seconds=0.0)
    assert store.ask("b", 1_000, max_sessions=1) == Lease(1_000, 0, sessions=1, tokens=0)


def test_a_session_that_comes_back_after_lapsing_finds_what_was_recorded(store: OnThread) -> None:
    store.ask("a", 500, seconds=0.0)
    store.write(costing(300, "1", "a"))
    assert left(store) == 700
    assert store.ask("a", 400, spent=300) == Lease(700, 300, sessions=1, tokens=0)


def test_a_session_that_comes_back_is_not_refused(store: OnThread) -> None:
    store.ask("a", 500, max_sessions=1, seconds=0.0)
    store.ask("b", 500, max_sessions=1)
    spend(store, 1_000)
    back = store.ask("a", 500, max_sessions=1, spent=20)
    assert back == Lease(20, 0, sessions=2, tokens=0)


def test_a_period_counts_what_was_used_in_it(store: OnThread) -> None:
    store.write(
        costing(600, "1", ended_at=9.0 * DAY),
        costing(50, "2", ended_at=10.0 * DAY),
        costing(7, "3", ended_at=11.0 * DAY),
    )
    assert left(store) == 343
    assert left(store, since="1970-01-11") == 943
    assert left(store, since="1970-01-12") == 993
    assert left(store, since="1970-01-13") == 1_000


def test_a_new_period_begins_with_nothing_held(store: OnThread) -> None:
    store.ask("a", 900, since="1970-01-10")
    store.write(costing(500, "1", "a", ended_at=9.0 * DAY))
    assert left(store, since="1970-01-10") == 100
    assert left(store, since="1970-01-11") == 1_000
    store.ask("a", 200, since="1970-01-11")
    assert left(store, since="1970-01-11") == 800
    store.write(costing(150, "2", "a", ended_at=10.0 * DAY))
    assert left(store, since="1970-01-11") == 800


def test_a_record_of_the_last_period_brings_nothing_into_this_one(store: OnThread) -> None:
    store.ask("a", 900, since="1970-01-11")
    store.write(costing(500, "late", "a", ended_at=10.0 * DAY - 1.0))
    assert left(store, since="1970-01-11") == 100


def test_a_record_that_is_replaced_may_move_to_another_day(store: OnThread) -> None:
    store.ask("a", 900, since="1970-01-11")
    store.write(costing(100, "1", "a", kind="residual", ended_at=10.0 * DAY - 1.0))
    store.write(costing(300, "1", "a", ended_at=10.0 * DAY))
    store.ask("a", 0, spent=300, since="1970-01-11")
    assert left(store, since="1970-01-11") == 700
    assert left(store) == 700


def test_a_key_has_so_many_sessions_at_once(store: OnThread) -> None:
    limits = {"budget": None, "max_sessions": 2}
    assert [store.ask(each, **limits).refusal for each in "abc"] == ["", "", "sessions"]
    assert store.ask("a", **limits).sessions == 2
    store.ask("b", **limits, ends=True)
    assert store.ask("c", **limits).refusal == ""


def test_tokens_of_the_last_minute_add_up(store: OnThread) -> None:
    limits = {"budget": None, "max_tokens_per_minute": 100}
    store.ask("a", **limits)
    assert store.ask("a", tokens=60, **limits).tokens == 60
    assert store.ask("b", **limits) == Lease(0, None, sessions=2, tokens=60)
    assert store.ask("b", tokens=40, **limits).tokens == 100
    assert store.ask("c", **limits) == Lease(0, None, sessions=2, tokens=100, refusal="tokens")
    assert store.ask("x", key="team-b", **limits).refusal == ""


def test_a_session_that_ends_leaves_its_last_tokens(store: OnThread) -> None:
    store.ask("a")
    store.ask("a", tokens=30, ends=True)
    assert store.ask("b").tokens == 30


@pytest.mark.parametrize(
    "limits", [{"budget": 100}, {"max_sessions": 1}, {"max_tokens_per_minute": 5}]
)
def test_who_is_in_is_never_refused(store: OnThread, limits: dict[str, int]) -> None:
    store.ask("a", 10)
    store.ask("b", 10)
    spend(store, 500)
    assert store.ask("a", 10, spent=10, tokens=50, **limits).refusal == ""
    assert store.ask("c", 10, **limits).refusal != ""


def test_who_is_refused_holds_nothing(store: OnThread) -> None:
    assert store.ask("a", 500, max_tokens_per_minute=5, tokens=5).refusal == "tokens"
    assert store.ask("b", 100) == Lease(100, 900, sessions=1, tokens=5)


def test_without_limits_everything_is_given(store: OnThread) -> None:
    spend(store, 10**12)
    for n in range(5):
        lease = store.ask(f"s{n}", 10**12, budget=None, tokens=10**9)
        assert lease == Lease(10**12, None, sessions=n + 1, tokens=(n + 1) * 10**9)


def test_who_has_no_budget_holds_from_those_who_have(store: OnThread) -> None:
    store.ask("a", 300, budget=None)
    assert left(store) == 700


def test_the_largest_amounts_are_exact(store: OnThread) -> None:
    budget = 999_999_999 * 10**6 + 1  # as large as settings take, and odd
    store.write(costing(10**14 + 1, "1"), costing(10**14 + 1, "2"))
    assert left(store, budget=budget) == budget - 2 * 10**14 - 2
    assert store.ask("a", budget, budget=budget).held_microusd == budget - 2 * 10**14 - 2


def test_names_of_any_script_have_accounts_too(store: OnThread) -> None:
    session, key = "sess\N{PILE OF POO}'\"; --\n{}:*", "clé:模型"
    store.ask(session, 300, key=key)
    store.write(costing(300, "1", session, key=key))
    assert left(store, key=key) == 700


def test_a_budget_of_nothing_lets_nobody_in(store: OnThread) -> None:
    assert store.ask("a", 1, budget=0) == Lease(0, 0, sessions=0, tokens=0, refusal="budget")


def test_relays_together_spend_the_budget_and_no_more(relays: list[Store]) -> None:
    pool = ThreadPool(len(relays))
    spending = [pool.spawn(spend_all, each, f"r{n}", 400) for n, each in enumerate(relays)]
    for each in spending:
        each.get()
    pool.kill()
    store = OnThread(relays[0])
    assert sum(record.cost_usd for record in store.records()) == Decimal("0.000400")
    assert left(store, budget=400) == 0


def test_asks_for_several_keys_in_different_orders_wait_for_each_other_and_end(
    relays: list[Store],
) -> None:
    keys = [f"team-{n}" for n in range(6)]
    pool = ThreadPool(len(relays))

    def ask(relay: int) -> None:
        ordered = keys if relay % 2 else keys[::-1]
        for n in range(15):
            session = f"{relay}-{n}"
            relays[relay].lease([make_ask(session, 5, key=key) for key in ordered], seconds=60)
            # The records' own order is neither that of keys nor that of ids.
            relays[relay].write([costing(5, f"{n} {key}", session, key=key) for key in ordered])

    for each in [pool.spawn(ask, n) for n in range(len(relays))]:
        each.get()
    pool.kill()
    store = OnThread(relays[0])
    assert {left(store, key=key) for key in keys} == {1_000 - 5 * 15 * len(relays)}


def test_a_closed_store_gives_no_leases(store: OnThread) -> None:
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.ask("a")
