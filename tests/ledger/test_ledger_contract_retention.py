"""What every store promises of forgetting."""

from decimal import Decimal
from typing import get_args

import pytest
from gevent.threadpool import ThreadPool
from ledger_support import OnThread, costing, make_record

from relay_app.ledger.stores import By, Store, StoreError
from relay_app.ledger.stores.totals import add_up

DAY = 86_400.0


def test_whole_days_are_forgotten_and_counted(store: OnThread) -> None:
    store.write(
        make_record("1", ended_at=0.0),
        make_record("2", ended_at=2 * DAY - 0.001),
        make_record("3", ended_at=2 * DAY),
        make_record("4", ended_at=3 * DAY),
    )
    assert store.forget("1970-01-01") == 0
    assert store.forget("1970-01-03") == 2
    assert [record.unit_id for record in store.records()] == ["3", "4"]
    assert store.forget("1970-01-03") == 0
    assert store.forget("9999-12-31") == 2
    assert store.records() == []
    assert store.totals("key") == []


def test_totals_agree_with_the_records_that_are_left(store: OnThread) -> None:
    store.write(
        *(
            make_record(
                str(n),
                f"s{n % 7}",
                ended_at=n * DAY / 4,
                key=f"k{n % 3}",
                model=f"m{n % 2}",
                cost_usd=None if n % 5 == 0 else Decimal(n).scaleb(-6),
                source="unknown" if n % 11 == 0 else "reported",
            )
            for n in range(80)
        )
    )
    for day in ("1970-01-04", "1970-01-12", "1970-01-25"):
        store.forget(day)
        records = store.records()
        for by in get_args(By):
            assert store.totals(by) == add_up(records, by)
            mine = [record for record in records if record.key == "k1"]
            assert store.totals(by, key="k1") == add_up(mine, by)


def test_a_record_that_is_replaced_stands_in_the_totals_of_its_new_day_alone(
    store: OnThread,
) -> None:
    store.write(make_record("1", kind="residual", ended_at=DAY - 1.0))
    store.write(make_record("1", ended_at=DAY, model="m2"))
    for by in get_args(By):
        assert store.totals(by) == add_up(store.records(), by)
    assert store.forget("1970-01-02") == 0
    assert len(store.totals("day")) == 1


def test_more_than_one_step_is_forgotten(store: OnThread) -> None:
    for start in range(0, 6_000, 1_000):
        batch = range(start, start + 1_000)
        store.write(*(make_record(str(n), f"s{n % 9}", ended_at=float(n)) for n in batch))
    store.write(make_record("kept", ended_at=DAY))
    assert store.forget("1970-01-02") == 6_000
    assert [record.unit_id for record in store.records()] == ["kept"]
    (total,) = store.totals("day")
    assert (total.records, total.cost_usd) == (1, Decimal("0.0123"))


def test_a_total_budget_stays_spent(store: OnThread) -> None:
    store.ask("open", 200)
    store.write(costing(300, "1", "gone", ended_at=1.0), costing(50, "1", "open", ended_at=1.0))
    assert store.ask("b", ends=True).left_microusd == 500
    store.forget("1970-01-02")
    assert store.ask("b", ends=True).left_microusd == 500
    store.ask("open", 0, spent=50)
    assert store.ask("b", ends=True).left_microusd == 650


@pytest.mark.parametrize("day", ["", "yesterday", "1970-1-2", "1970-02-30", "19700102", "z"])
def test_what_is_no_day_forgets_nothing(store: OnThread, day: str) -> None:
    store.write(make_record(ended_at=1.0))
    with pytest.raises(ValueError, match="day"):
        store.forget(day)
    assert len(store.records()) == 1


def test_relays_that_write_and_forget_at_once_end(relays: list[Store]) -> None:
    """Nobody waits for somebody who waits for him, and each record is forgotten once."""

    def work(relay: int) -> int:
        forgotten = 0
        for n in range(15):
            units = range(8) if relay % 2 else reversed(range(8))
            relays[relay].write(
                [make_record(f"{relay} {n} {m}", key=f"k{m}", ended_at=1.0) for m in units]
            )
            if n % 5 == 4:
                forgotten += relays[relay].forget("1970-01-02")
        return forgotten

    pool = ThreadPool(len(relays))
    forgotten = sum(each.get() for each in [pool.spawn(work, n) for n in range(len(relays))])
    pool.kill()
    store = OnThread(relays[0])
    left = store.records()
    assert forgotten + len(left) == len(relays) * 15 * 8
    assert store.totals("key") == add_up(left, "key")


def test_a_view_does_not_change_while_records_are_forgotten(store: OnThread) -> None:
    store.write(*(make_record(str(n), ended_at=float(n)) for n in range(2_000)))
    view = store.direct.records()
    next(view)
    store.forget("1970-01-02")
    assert 1 + len(list(view)) == 2_000
    assert store.records() == []


def test_a_closed_store_forgets_nothing(store: OnThread) -> None:
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.forget("1970-01-02")
