"""Checkpoints: they join what is written, cost nobody anything, and yield to every end."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
from ledger_support import OnThread, ScriptedStore, make_record, until

from relay_app.ledger.accountant import Accountant
from relay_app.ledger.journal import Journal
from relay_app.ledger.outbox import LedgerFull
from relay_app.ledger.stores import StoreError
from relay_app.meter.usage import UsageRecord

Maker = Callable[..., Accountant]


def residual(unit: str = "resp_1", **changes: Any) -> UsageRecord:
    values = {"kind": "residual", "source": "estimated", "status": "dropped"}
    return make_record(unit, **(values | changes))


@pytest.mark.parametrize("source", ["unknown", "estimated", "reported"])
def test_whatever_ends_a_unit_replaces_its_checkpoint_and_no_checkpoint_replaces_it(
    store: OnThread, accountant: Maker, source: Any
) -> None:
    ledger = accountant(store.direct)
    ledger.checkpoint([residual(ended_at=1.0)])
    until(lambda: store.records() != [])
    ledger.checkpoint([residual(ended_at=2.0)])
    until(lambda: [record.ended_at for record in store.records()] == [2.0])
    end = make_record(source=source)
    assert ledger.record([end]).wait(30)
    ledger.checkpoint([residual(ended_at=3.0)])
    assert ledger.record([make_record("another")]).wait(30)
    (record,) = [record for record in store.records() if record.unit_id == "resp_1"]
    assert record == end


def test_a_checkpoint_is_written_by_itself_in_a_while(accountant: Maker) -> None:
    store = ScriptedStore()
    ledger = accountant(store)
    ledger.checkpoint([residual()])
    assert (ledger.pending, ledger.lag_seconds, ledger.unwritten) == (0, 0.0, [])
    assert ledger.flush(0)
    until(lambda: store.written == [residual()])
    assert ledger.records_written == 0  # no unit has ended


def test_what_begins_is_asked_for_its_checkpoint_in_a_while(accountant: Maker) -> None:
    store = ScriptedStore()
    ledger = accountant(store)
    running = [residual("a"), residual("b")]
    ledger.checkpoint_soon(lambda: running[:1])
    ledger.checkpoint_soon(lambda: running[1:])
    ledger.checkpoint_soon(list)  # it has ended meanwhile
    until(lambda: store.calls != [])
    assert store.calls == [running]
    ledger.checkpoint_soon(lambda: [residual("c")])
    until(lambda: len(store.calls) == 2)


def test_each_that_begins_is_given_the_time_to_end(
    accountant: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay_app.ledger.accountant.CHECKPOINT_SECONDS", 0.1)
    ledger = accountant(ScriptedStore())
    for _ in range(3):
        begun, asked = time.monotonic(), []
        ledger.checkpoint_soon(lambda asked=asked: asked.append(time.monotonic()) or [])
        until(lambda asked=asked: asked != [])
        assert asked[0] - begun >= 0.09


def test_what_begins_while_others_are_asked_is_asked_too(
    accountant: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay_app.breath.HOLD_SECONDS", 0.0)
    store = ScriptedStore()
    ledger = accountant(store)

    def first() -> list[UsageRecord]:
        gevent.spawn(ledger.checkpoint_soon, lambda: [residual("later")])
        return [residual("first")]

    ledger.checkpoint_soon(first)
    ledger.checkpoint_soon(lambda: [residual("second")])
    until(lambda: store.calls != [])
    assert store.calls == [[residual("first"), residual("second"), residual("later")]]


def test_what_ends_at_once_is_no_row_of_a_write(
    accountant: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay_app.ledger.accountant.CHECKPOINT_SECONDS", 1_000.0)
    store = ScriptedStore()
    ledger = accountant(store)
    ledger.checkpoint_soon(lambda: [residual()])
    assert ledger.record([make_record()]).wait(30)
    assert store.calls == [[make_record()]]
    assert ledger.close(30)
    ledger.checkpoint_soon(lambda: [residual()])
    assert store.calls == [[make_record()]]


def test_a_checkpoint_waits_for_a_write_it_can_join(
    accountant: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay_app.ledger.accountant.CHECKPOINT_SECONDS", 1_000.0)
    store = ScriptedStore()
    ledger = accountant(store)
    ledger.checkpoint([residual("a")])
    ledger.checkpoint([residual("b", ended_at=1.0)])
    ledger.checkpoint([residual("b", ended_at=2.0)])
    ledger.checkpoint([residual("c")])
    assert ledger.record([make_record("c")]).wait(30)
    assert store.calls == [[residual("a"), residual("b", ended_at=2.0), make_record("c")]]
    assert ledger.record([make_record("d")]).wait(30)
    assert store.calls[1:] == [[make_record("d")]]
    assert ledger.records_written == 2


def test_of_the_records_of_a_unit_in_one_write_the_best_is_written(accountant: Maker) -> None:
    store = ScriptedStore()
    ledger = accountant(store)
    store.hold()
    ledger.record([make_record("first")])
    until(lambda: len(store.calls) == 1)
    commits = [ledger.record([make_record(source=s)]) for s in ("estimated", "reported", "unknown")]
    store.release()
    assert all(commit.wait(30) for commit in commits)
    assert store.calls[1:] == [[make_record()]]


def test_a_newer_checkpoint_than_the_one_being_written_is_written_next(accountant: Maker) -> None:
    store = ScriptedStore()
    ledger = accountant(store)
    store.hold()
    ledger.checkpoint([residual(ended_at=1.0)])
    until(lambda: len(store.calls) == 1)
    ledger.checkpoint([residual(ended_at=2.0)])
    store.release()
    until(lambda: len(store.written) == 2)
    assert list(store.records()) == [residual(ended_at=2.0)]


def test_checkpoints_take_half_of_the_room_at_most_and_none_from_records(
    accountant: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay_app.ledger.accountant.CHECKPOINT_SECONDS", 1_000.0)
    store = ScriptedStore()
    ledger = accountant(store, max_pending=4)
    ledger.checkpoint([residual(str(n)) for n in range(4)])
    ledger.checkpoint([residual("0", ended_at=2.0)])
    store.hold()
    for n in range(4):
        ledger.record([make_record(f"end {n}")])
    with pytest.raises(LedgerFull):
        ledger.record([make_record("end 4")])
    store.release()
    assert ledger.flush(30)
    assert store.calls[0][:2] == [residual("0", ended_at=2.0), residual("1")]
    assert len(store.written) == 2 + 4


def test_a_checkpoint_that_could_not_be_written_is_tried_again(accountant: Maker) -> None:
    store = ScriptedStore(StoreError("full"))
    ledger = accountant(store)
    ledger.checkpoint([residual()])
    until(lambda: store.written == [residual()])
    until(lambda: ledger.healthy)
    assert ledger.failures == 1


def test_after_the_close_there_are_none(accountant: Maker) -> None:
    store = ScriptedStore()
    ledger = accountant(store)
    assert ledger.close(30)
    ledger.checkpoint([residual()])
    assert store.calls == []


def test_a_checkpoint_in_the_journal_reaches_the_store_and_yields_there(
    tmp_path: Path, accountant: Maker
) -> None:
    store = ScriptedStore()
    store.local = False
    ledger = accountant(store, journal=Journal(tmp_path))
    ledger.checkpoint([residual("left"), residual("ended")])
    until(lambda: len(store.written) == 2)
    assert ledger.record([make_record("ended")]).wait(30)
    until(lambda: len(store.written) == 3)
    kinds = {record.unit_id: record.kind for record in store.records()}
    assert kinds == {"left": "residual", "ended": "response"}
