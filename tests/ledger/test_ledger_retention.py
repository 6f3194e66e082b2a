"""Old records are forgotten, young ones never, and nobody waits for it."""

import threading
from collections.abc import Callable, Iterator

import gevent
import pytest
from ledger_support import make_record

from relay_app.ledger.retention import (
    FIRST_SECONDS,
    HOUR_SECONDS,
    Retention,
    _pause,
    first_day_kept,
)
from relay_app.ledger.stores.base import StoreError
from relay_app.ledger.stores.memory import MemoryStore
from relay_app.meter.usage import UsageRecord

SECONDS = 20.0
DAY = 86_400.0
NOON = 1_767_268_800.0  # 2026-01-01T12:00Z
HUB = threading.get_ident()


class Watched(MemoryStore):
    error: Exception | None = None

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.looked = 0

    def records(self, **filters) -> Iterator[UsageRecord]:
        self.looked += 1
        return super().records(**filters)

    def forget(self, day: str) -> int:
        assert threading.get_ident() != HUB, "the hub was blocked"
        self.asked.append(day)
        if self.error is not None:
            raise self.error
        return super().forget(day)


def until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(SECONDS):
        while not condition():
            gevent.sleep(0.001)


@pytest.fixture
def store() -> Iterator[Watched]:
    store = Watched()
    # Noon of today and of each of the five days before it.
    store.write([make_record(str(n), ended_at=NOON - n * DAY) for n in range(6)])
    return store


def many_days(*days: int) -> Watched:
    """A store with a record of noon so many days ago, of each of ``days``."""
    store = Watched()
    store.write([make_record(str(n), ended_at=NOON - n * DAY) for n in days])
    return store


def kept(store: Watched) -> set[str]:
    return {record.unit_id for record in store.records()}


def running(store: Watched, days: int, clock: Callable[[], float] = lambda: NOON) -> Retention:
    retention = Retention(store, days, clock=clock, pause=lambda first: 0.001)
    retention.start()
    return retention


@pytest.mark.parametrize(
    ("days", "units"), [(1, "01"), (2, "012"), (4, "01234"), (5, "012345"), (9, "012345")]
)
def test_today_and_so_many_days_before_it_are_kept(store, days, units):
    retention = running(store, days)
    until(lambda: len(store.asked) > 1)
    retention.stop()
    assert kept(store) == set(units)
    assert retention.forgotten == 6 - len(units)


@pytest.mark.parametrize("days", [1, 0, -5])
@pytest.mark.parametrize("second", [0.0, DAY - 0.001])
def test_yesterday_is_never_forgotten(days, second):
    midnight = NOON - DAY / 2
    assert first_day_kept(days, midnight + second) == "2025-12-31"


def test_the_day_is_that_of_utc():
    assert first_day_kept(30, NOON) == "2025-12-02"


def test_how_many_went_is_one_line_and_none_is_none(store, caplog):
    caplog.set_level("INFO")
    retention = running(store, 3)
    until(lambda: len(store.asked) > 3)
    retention.stop()
    said = [r.getMessage() for r in caplog.records if r.name.endswith("retention")]
    assert said == ["forgot 2 usage records that ended before 2025-12-29"]


def test_a_store_that_fails_is_asked_again_and_complained_of_once(store, caplog):
    store.error = StoreError("no such host postgres://user:hunter2@db/relay")
    retention = running(store, 3)
    until(lambda: len(store.asked) > 3)
    store.error = None
    until(lambda: retention.forgotten == 2)
    retention.stop()
    [said] = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert said.startswith("old usage records cannot be forgotten: ")
    assert "hunter2" not in said


def test_workers_ask_at_different_times_about_once_an_hour():
    assert all(0 <= _pause(True) <= FIRST_SECONDS for _ in range(100))
    pauses = {_pause(False) for _ in range(100)}
    assert len(pauses) > 50
    assert all(0.75 * HOUR_SECONDS <= pause <= 1.25 * HOUR_SECONDS for pause in pauses)


def test_a_clock_that_is_set_forward_costs_no_record(store):
    clock = [NOON]
    retention = running(store, 5, lambda: clock[0])
    until(lambda: len(store.asked) > 1)
    clock[0] += 3_650 * DAY
    asked = len(store.asked)
    until(lambda: len(store.asked) > asked + 2)
    retention.stop()
    assert kept(store) == set("012345")
    assert max(store.asked) == first_day_kept(5, NOON)


def test_one_that_was_wrong_from_the_start_costs_a_week_at_a_time(caplog):
    caplog.set_level("INFO")
    store = many_days(*range(30))
    retention = running(store, 3, lambda: NOON + 3_650 * DAY)
    until(lambda: retention.forgotten >= 7)
    retention.stop()
    days = [day for day in store.asked if day < first_day_kept(1, NOON)]
    assert days[0] == first_day_kept(22, NOON)
    said = [r.getMessage() for r in caplog.records if r.name.endswith("retention")]
    assert said[0] == f"forgot 7 usage records that ended before {days[0]}"


def test_years_are_forgotten_all_the_same():
    store = many_days(*range(0, 2_000, 50), *range(20))
    retention = running(store, 10)
    until(lambda: len(kept(store)) == 11)
    retention.stop()
    assert max(int(unit) for unit in kept(store)) == 10


def test_where_nothing_is_kept_nothing_is_asked():
    store = Watched()
    retention = Retention(store, 3, clock=lambda: NOON, pause=lambda first: 0.001)
    retention.start()
    until(lambda: store.looked > 2)
    retention.stop()
    assert store.asked == []
