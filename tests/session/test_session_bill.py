"""Bill: the client learns of an end behind its record, and no record is lost in silence."""

from collections.abc import Callable, Sequence
from typing import Any

import gevent
import pytest
from session_support import (
    SECONDS,
    QuickAccountant,
    SetStage,
    SlowAccountant,
    Stage,
    leave_amid,
    response_done,
    until,
)
from websockets.frames import Opcode

from relay_app.breath import give_way
from relay_app.codec import dumps
from relay_app.ledger.outbox import LedgerClosed, LedgerFull
from relay_app.meter.usage import UsageRecord


def end_at_once(on: Stage, *names: str) -> None:
    """Responses end in one segment, so that they are read together."""
    ends = [dumps(response_done(name)).encode() for name in names]
    on.target.sock.sendall(b"".join(on.target.frame(Opcode.TEXT, end) for end in ends))


def end_killed(on: Stage, accountant: SlowAccountant, *names: str) -> None:
    """Responses end, and the session is killed while the first of them waits for its record."""
    end_at_once(on, *names)
    until(lambda: accountant.tickets)
    on.runner.kill(block=False)
    until(lambda: len(accountant.tickets) == len(names))
    for ticket in accountant.tickets:
        ticket.settle()
    on.ended()


# -- holding -------------------------------------------------------------------------------------


def test_the_end_of_a_response_is_held_until_its_record_is_durable(stage: SetStage) -> None:
    accountant = SlowAccountant()
    holds: list[bool] = []
    on = stage(accountant=accountant, on_hold=lambda seconds, kept: holds.append(kept))
    on.target.say("response.output_audio.delta", delta="AAAA")
    on.target.say(**response_done())
    on.target.say("rate_limits.updated")
    assert on.client.told()["type"] == "response.output_audio.delta"
    until(lambda: accountant.tickets)
    on.client.say("input_audio_buffer.append", audio="AAAA")
    on.target.told()  # the other direction does not wait
    on.client.send(Opcode.PING, b"?")
    assert on.client.receive().opcode is Opcode.PONG  # nor do control frames
    accountant.tickets[0].settle()
    assert on.client.told()["type"] == "response.done"
    assert on.client.told()["type"] == "rate_limits.updated"
    assert holds == [True]


def test_a_record_that_does_not_become_durable_holds_a_frame_only_so_long(
    stage: SetStage, caplog: pytest.LogCaptureFixture
) -> None:
    holds: list[bool] = []
    on = stage(
        accountant=SlowAccountant(),
        hold_seconds=0.02,
        on_hold=lambda seconds, kept: holds.append(kept),
    )
    on.target.say(**response_done())
    assert on.client.told()["type"] == "response.done"
    assert holds == [False]
    assert "forwarded before its record was durable" in caplog.text


def test_nothing_is_held_when_durability_is_not_awaited(stage: SetStage) -> None:
    on = stage(accountant=SlowAccountant(), before_forward=False, hold_seconds=60)
    on.target.say(**response_done())
    assert on.client.told()["type"] == "response.done"
    assert len(on.recorded) == 1


def test_what_was_read_counts_though_the_session_is_killed_while_a_frame_before_it_is_held(
    stage: SetStage,
) -> None:
    accountant = SlowAccountant()
    on = stage(accountant=accountant, hold_seconds=60)
    end_killed(on, accountant, "resp_1", "resp_2")
    assert [(r.unit_id, r.source) for r in on.recorded] == [
        ("resp_1", "reported"),
        ("resp_2", "reported"),
    ]


# -- a ledger that refuses -----------------------------------------------------------------------


class Audit:
    """An audit sink that keeps the types of what it is told."""

    def __init__(self) -> None:
        self.types: list[str | None] = []

    def write(self, session_id: str, entries: list[Any]) -> None:
        self.types += [entry.type for entry in entries]

    def close(self) -> None:
        """There is nothing to close."""


def test_who_is_killed_while_others_have_their_turn_has_recorded_what_was_metered(
    stage: SetStage,
) -> None:
    turns: list[int] = []

    def give_way() -> None:
        turns.append(len(turns))
        if len(turns) == 2:  # the first is before the message is metered
            gevent.sleep(1_000)

    audit = Audit()
    on = stage(give_way=give_way, audit=audit)
    on.target.say(**response_done())
    until(lambda: len(turns) == 2)
    assert on.recorded == []
    on.runner.kill(block=False)
    on.ended()
    assert [(r.unit_id, r.source) for r in on.recorded] == [("resp_1", "reported")]
    assert audit.types == ["response.done"]


def test_what_was_read_counts_though_its_session_is_killed_a_second_time(
    stage: SetStage,
) -> None:
    accountant = SlowAccountant()

    def others() -> None:
        if on.recorded:  # of the second response, which is metered because of the first kill
            on.runner.kill(block=False)
            gevent.sleep(SECONDS)

    on = stage(accountant=accountant, hold_seconds=60, give_way=others)
    names = [f"resp_{n}" for n in range(4)]
    for name in names:
        on.target.say("response.created", response={"id": name})
        on.client.told()
    end_killed(on, accountant, *names)
    assert [(r.unit_id, r.source) for r in on.recorded] == [(name, "reported") for name in names]


def test_what_others_hear_goes_first_at_each_step_of_an_end(stage: SetStage) -> None:
    beside = stage(give_way=lambda: None)
    heard: list[tuple[int, int]] = []

    def others_speak_up() -> None:
        beside.target.say("response.output_audio.delta", delta="AAAA")
        give_way()
        heard.append((beside.session.tally().messages_received, len(on.recorded)))

    on = stage(give_way=others_speak_up)
    on.target.say(**response_done())
    assert on.client.told()["type"] == "response.done"
    assert heard == [(1, 0), (2, 0)]  # before it is metered, and before its record is made


def test_a_full_ledger_ends_the_session_after_its_response_and_settles_later(
    stage: SetStage,
) -> None:
    accountant = QuickAccountant()
    on = stage(accountant=accountant)
    on.target.say("response.created", response={"id": "resp_2"})
    on.client.told()
    accountant.refusals.append(LedgerFull("usage cannot be recorded", code="ledger_full"))
    on.target.say(**response_done("resp_1"))
    assert on.client.told()["type"] == "response.done"
    on.tick(1.0)
    assert not on.session.cancelled.is_set()
    on.target.say(**response_done("resp_2"))
    assert on.client.told()["type"] == "response.done"
    until(lambda: not on.session._down.busy)
    accountant.refusals.clear()
    on.tick(1.0)
    assert on.client.told()["error"]["code"] == "ledger_full"
    assert on.client.part()[0] == 1011
    on.target.part()
    on.ended()
    assert [record.unit_id for record in on.recorded] == ["resp_1", "resp_2"]


def test_a_ledger_that_is_full_at_the_end_is_tried_again(stage: SetStage) -> None:
    accountant = QuickAccountant()
    on = stage(accountant=accountant)
    accountant.refusals.append(LedgerFull("full", code="ledger_full"))
    on.target.say(**response_done())
    on.client.told()
    on.client.close(1000)
    on.target.part()
    gevent.spawn_later(0.5, accountant.refusals.clear)
    on.ended()
    assert [record.unit_id for record in on.recorded] == ["resp_1"]


@pytest.mark.parametrize("refusal", [LedgerClosed("closed"), RuntimeError("another hub")])
def test_a_record_that_nobody_takes_is_in_the_log_whole(
    stage: SetStage, caplog: pytest.LogCaptureFixture, refusal: Exception
) -> None:
    accountant = QuickAccountant()
    on = stage(accountant=accountant)
    accountant.refusals.append(refusal)
    on.target.say("response.created", response={"id": "resp_open"})
    on.client.told()
    on.target.say(**response_done())
    assert on.client.told()["type"] == "response.done"
    leave_amid(on)
    on.ended()
    lost = [r.getMessage() for r in caplog.records if "usage record lost" in r.getMessage()]
    assert len(lost) == 2
    assert "resp_1" in lost[0]
    assert "output_text_tokens" in lost[0]


# -- checkpoints ---------------------------------------------------------------------------------


class LateAccountant(QuickAccountant):
    """What has begun is asked for its checkpoints when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[Callable[[], Sequence[UsageRecord]]] = []

    def checkpoint_soon(self, make: Callable[[], Sequence[UsageRecord]]) -> None:
        self.begun.append(make)


def test_what_runs_is_checkpointed_when_it_begins_and_every_few_seconds(stage: SetStage) -> None:
    on = stage(accountant=QuickAccountant())
    noted = on.accountant.checkpoints
    on.target.say("response.created", response={"id": "resp_1"})
    on.client.told()
    assert [(record.unit_id, record.kind) for record in noted] == [("resp_1", "residual")]
    on.tick(1.0)
    for words in range(1, 3):
        on.target.say("response.output_text.delta", delta="Hi", response_id="resp_1")
        on.client.told()
        on.tick(1.0, times=4)
        assert noted[-1].usage.output_text_tokens == words + 2
    assert len(noted) == 1 + 2
    assert on.session.tally().usage.tokens == 0
    on.target.say(**response_done())
    on.client.told()
    on.tick(5.0)
    assert len(noted) == 3
    assert [record.kind for record in on.recorded] == ["response"]


def test_a_response_that_ended_before_its_checkpoint_puts_no_other_off(stage: SetStage) -> None:
    accountant = LateAccountant()
    on = stage(accountant=accountant)
    wants = {"audio": {"input": {"transcription": {"model": "whisper-1"}}}}
    on.target.say("session.created", session=wants)
    on.target.say("response.created", response={"id": "resp_1"})
    on.target.say(**response_done())
    for _ in range(3):
        on.client.told()
    on.tick(1.0)
    assert [list(make()) for make in accountant.begun] == [[]]
    on.target.say("input_audio_buffer.committed", item_id="item_1")
    on.client.told()
    on.tick(1.0)
    assert [record.unit_id for record in on.accountant.checkpoints] == ["item_1"]


def test_what_ran_before_another_began_is_checkpointed_in_its_own_time(stage: SetStage) -> None:
    on = stage(accountant=QuickAccountant())
    noted = on.accountant.checkpoints
    for unit in ("resp_1", "resp_2"):
        on.target.say("response.created", response={"id": unit})
        on.client.told()
        on.tick(1.0, times=3)
    assert [record.unit_id for record in noted] == ["resp_1", "resp_2", "resp_1", "resp_2"]


def test_a_checkpoint_that_fails_is_in_the_log_and_stops_nothing(
    stage: SetStage, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = stage()
    monkeypatch.setattr(on.accountant, "checkpoint", lambda records: 1 / 0)
    on.target.say("response.created", response={"id": "resp_1"})
    on.target.say(**response_done())
    assert [on.client.told()["type"] for _ in range(2)] == ["response.created", "response.done"]
    assert len(on.recorded) == 1
    assert "no checkpoint" in caplog.text


# -- a store that hangs --------------------------------------------------------------------------


def test_a_store_that_hangs_delays_the_end_only_so_long(
    stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay_app.session.bill.SETTLE_SECONDS", 0.05)
    on = stage(accountant=SlowAccountant(), hold_seconds=0.01)
    on.target.say("response.created", response={"id": "resp_open"})
    on.client.told()
    leave_amid(on)
    with gevent.Timeout(5):
        on.ended()
