"""Session: it goes on when something of ours breaks, settles once, and leaves nothing behind."""

import gc
import random
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from session_support import (
    DRAINING,
    SECONDS,
    QuickAccountant,
    SetStage,
    SlowAccountant,
    Stage,
    converse,
    greenlets_left,
    leave_amid,
    response_done,
    until,
)
from websockets.frames import Opcode

from relay_app.ledger.accountant import Accountant
from relay_app.ledger.stores.memory import MemoryStore
from relay_app.meter.drift import Drift
from relay_app.meter.usage import Usage
from relay_app.session.keeper import Keeper
from relay_app.upstream.blame import Blame
from relay_app.wire.link import Link
from relay_app.wire.rooms import Rooms

# -- how it begins -------------------------------------------------------------------------------


def test_the_first_words_of_an_upstream_tell_whether_it_works(stage: SetStage) -> None:
    told: list[Any] = []
    on = stage(on_debut=lambda *what: told.append(what))
    on.target.say("session.created", session={})
    assert on.client.told()["type"] == "session.created"
    assert told == []
    for _ in range(3):
        on.target.say("rate_limits.updated")
        assert on.client.told()["type"] == "rate_limits.updated"
        converse(on)
    assert told == [(None, "")]
    on.client.close(1000)
    on.target.part()
    on.ended()
    assert told == [(None, "")]


def test_an_error_at_the_beginning_is_passed_on_and_told(stage: SetStage) -> None:
    told: list[Any] = []
    on = stage(on_debut=lambda *what: told.append(what))
    on.target.say("error", error={"code": "insufficient_quota"})
    assert on.client.told()["error"]["code"] == "insufficient_quota"
    assert told == [(Blame.KEY, "error_key")]
    on.target.close(1008, "no money")
    assert on.client.part() == (1008, "no money")
    on.ended()
    assert told == [(Blame.KEY, "error_key")]


def test_an_upstream_that_leaves_without_a_word_is_told(stage: SetStage) -> None:
    told: list[Any] = []
    on = stage(on_debut=lambda *what: told.append(what))
    on.target.close(1013, "too much to do")
    assert on.client.part()[0] == 1013
    on.ended()
    assert told == [(Blame.UPSTREAM, "closed_1013")]


def test_a_verdict_that_nobody_can_take_harms_no_conversation(stage: SetStage) -> None:
    on = stage(on_debut=lambda due_to, why: 1 / 0)
    for _ in range(3):
        on.target.say("rate_limits.updated")
        assert on.client.told()["type"] == "rate_limits.updated"
        converse(on)
    on.client.close(1000)
    on.target.part()
    on.ended()


# -- something of ours breaks --------------------------------------------------------------------


def test_a_pump_that_breaks_is_1011_to_both(
    stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = stage()
    converse(on)

    def broken(link: Link, data: Any, *, ends_message: bool = True, sent: int = 0) -> None:
        assert link is on.target_link
        raise MemoryError

    monkeypatch.setattr(Link, "send", broken)
    on.client.say("session.update")  # which no express takes
    assert on.client.told()["error"]["code"] == "relay_error"
    assert on.client.part()[0] == 1011
    assert on.target.part()[0] == 1011
    on.ended()


class BrokenMeter:
    """Stands for a bug of ours; its counts are a meter's."""

    units_open = expecting = opaque_sent = opaque_received = records = inexact = 0

    def __init__(self, usage: Any) -> None:
        self.usage = usage
        self.drift = Drift()

    def skim_sent(self, data: Any, frames: Any, begin: int) -> int:
        return begin

    skim_received = skim_sent

    def note_down(self, tell: Any) -> None: ...

    def sent(self, message: Any) -> None:
        raise KeyError("sent")

    def received(self, message: Any) -> Any:
        raise KeyError("received")

    def responses(self) -> list[str]:
        return []

    def close(self) -> Any:
        raise KeyError("close")


def test_a_meter_that_breaks_does_not_stop_the_conversation(stage: SetStage) -> None:
    on = stage(meter=BrokenMeter(Usage()))
    for _ in range(3):
        converse(on)
    assert on.session.tally().unobserved == 6
    on.client.close(1000)
    on.target.part()
    on.ended()


class BrokenSink:
    """An audit sink with a bug."""

    def write(self, session_id: str, entries: Any) -> None:
        raise KeyError("write")

    def close(self) -> None:
        pass


def test_an_audit_that_breaks_stops_neither_the_conversation_nor_the_bill(
    stage: SetStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = stage(audit=BrokenSink())
    converse(on)
    monkeypatch.setattr("relay_app.session.tap.peek", lambda head: 1 / 0)
    on.target.say(**response_done())
    assert on.client.told()["type"] == "response.done"
    assert len(on.recorded) == 1
    on.client.close(1000)
    on.target.part()
    on.ended()
    assert on.session.tally().tap_drops > 0


# -- settling ------------------------------------------------------------------------------------


def test_it_settles_exactly_once_and_says_so_in_two_lines(
    stage: SetStage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "relay_app")
    on = stage()
    on.target.say("response.created", response={"id": "resp_open"})
    on.target.say(**response_done())
    on.client.told()
    on.client.told()
    leave_amid(on)
    on.ended()
    assert sorted(r.unit_id for r in on.recorded) == ["resp_1", "resp_open"]
    lines = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    assert [line.split(" session=")[0] for line in lines] == ["session open", "session close"]
    assert "by=client code=1000" in lines[1]
    assert "records=2" in lines[1]


@pytest.mark.parametrize("error", [gevent.GreenletExit, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("moment", ["talking", "collecting", "parting", "settling"])
def test_whatever_is_thrown_into_it_it_settles_and_disposes(
    stage: SetStage, error: type[BaseException], moment: str
) -> None:
    raised: list[BaseException] = []
    accountant = SlowAccountant()

    def run(session: Any) -> None:
        try:
            session.run()
        except BaseException as caught:  # noqa: BLE001 - the hub would print it
            raised.append(caught)

    on = stage(accountant=accountant, run=run, drain_seconds=30 if moment == "collecting" else 0)
    on.target.say("response.created", response={"id": "resp_open"})
    on.client.told()
    if moment != "talking":
        on.client.close(1000)
        assert on.target.cancelled() == "resp_open"
    if moment in ("parting", "settling"):
        assert on.target.receive().opcode is Opcode.CLOSE  # which it leaves unanswered
    if moment == "settling":
        on.target.sock.close()
        on.client.sock.close()
        until(lambda: accountant.tickets)
    on.runner.kill(error(), block=False)
    until(lambda: accountant.tickets)
    accountant.tickets[0].settle()
    on.ended()
    assert [type(caught) for caught in raised] == [error]
    assert [record.unit_id for record in on.recorded] == ["resp_open"]
    assert on.client_link.end is not None
    assert on.target_link.end is not None
    assert on.session.ending is not None
    if moment == "talking":
        assert on.client.part() == (1001, "the relay is going away")
        assert on.target.part() == (1001, "the relay is going away")
    if moment == "collecting":
        assert on.target.part() == (1000, "")


def test_a_second_kill_while_settling_loses_no_record(stage: SetStage) -> None:
    accountant = SlowAccountant()

    def run(session: Any) -> None:
        try:
            session.run()
        except gevent.GreenletExit:
            pass

    on = stage(accountant=accountant, run=run)
    on.target.say("response.created", response={"id": "resp_open"})
    on.client.told()
    on.runner.kill(block=False)
    until(lambda: accountant.tickets)
    on.runner.kill(block=False)
    on.ended()
    assert len(on.recorded) == 1


# -- many, and under pressure --------------------------------------------------------------------


def end_somehow(on: Stage, how: int) -> None:
    client, target = on.client, on.target
    endings: list[Callable[[], object]] = [
        lambda: client.close(1000),
        lambda: target.close(1011, "so it goes"),
        lambda: client.sock.close(),
        lambda: target.sock.close(),
        lambda: client.sock.sendall(b"\xff\xff"),
        lambda: target.sock.sendall(b"\xff\xff"),
        lambda: on.session.cancel(DRAINING),
        lambda: on.runner.kill(block=False),
        lambda: (client.sock.close(), target.sock.close(), on.session.cancel(DRAINING)),
        lambda: (
            client.sock.sendall(client.frame(Opcode.BINARY, bytes(90_000))[:80_000])
            or client.sock.close()
        ),
    ]
    endings[how % len(endings)]()
    for peer in (client, target):
        gevent.spawn(_read_out, peer)


def _read_out(peer: Any) -> None:
    try:
        while peer.receive().opcode is not Opcode.CLOSE:
            pass
        peer.send(Opcode.CLOSE)
        peer.sock.close()
    except (OSError, EOFError):
        pass


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_left_of_sessions_that_ended_in_whatever_way(stage: SetStage, seed: int) -> None:
    chance = random.Random(seed)
    accountant = Accountant(MemoryStore())
    accountant.start()
    rooms = Rooms(200_000)
    until(lambda: True)
    greenlets = greenlets_left()
    watchers = gevent.get_hub().loop.activecnt
    stages = []
    for _ in range(12):
        on = Stage(accountant=accountant, rooms=rooms)
        stages.append(on)
        for _ in range(chance.randrange(3)):
            converse(on)
        if chance.random() < 0.5:
            on.target.say("response.created", response={"id": f"resp_{chance.random()}"})
        end_somehow(on, chance.randrange(10))
    for on in stages:
        on.ended()
        on.leave()
    assert rooms.taken_bytes == 0
    assert accountant.flush(SECONDS)
    until(lambda: greenlets_left() <= greenlets)
    assert gevent.get_hub().loop.activecnt <= watchers
    accountant.close(SECONDS)


@pytest.mark.parametrize("drained", [False, True])
def test_a_session_goes_when_nobody_has_it_and_is_not_left_to_the_collector(drained: bool) -> None:
    on = Stage(accountant=QuickAccountant())
    gc.collect()
    gc.disable()
    try:
        converse(on)
        on.target.say("response.created", response={"id": "resp_1"})
        on.target.say(**response_done("resp_1"))
        if drained:
            until(lambda: on.session._down.messages == 3)
            on.session.drain(DRAINING, 60)
        on.client.close(1000)
        for peer in (on.client, on.target):
            gevent.spawn(_read_out, peer)
        on.ended()
        on.leave()
        made = [weakref.ref(each) for each in (on.session, on.meter)]
        on.__dict__.clear()
        until(lambda: not any(ref() for ref in made))
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_pressure_in_both_directions_while_pings_flow_is_no_deadlock(
    stage: SetStage, kind: str
) -> None:
    on = stage(max_message_bytes=40_000_000, kind=kind)
    data = random.Random(0).randbytes(1_000_000) * 5
    count = 6

    def send(peer: Any) -> None:
        for _ in range(count):
            peer.sock.sendall(peer.frame(Opcode.PING, b"still there?"))
            peer.send(Opcode.BINARY, data)

    def receive(peer: Any) -> tuple[int, int]:
        messages = pongs = 0
        while messages < count:
            frame = peer.receive()
            if frame.opcode is Opcode.BINARY:
                assert bytes(frame.data) == data
                messages += 1
            else:
                pongs += frame.opcode is Opcode.PONG
        return messages, pongs

    senders = [gevent.spawn(send, peer) for peer in (on.client, on.target)]
    until(lambda: on.client_link.blocked_since and on.target_link.blocked_since)
    for _ in range(20):
        on.tick(0.5)  # 10 seconds of nobody reading: late, but not too late
    readers = [gevent.spawn(receive, peer) for peer in (on.client, on.target)]
    while not all(reader.ready() for reader in readers):
        gevent.sleep(0.005)
        on.tick(0.5)
    assert [reader.get()[0] for reader in readers] == [count, count]
    gevent.joinall(senders, timeout=SECONDS, raise_error=True)
    assert not on.session.failed.is_set()
    assert not on.session.client_closed.is_set()
    on.client.close(1000)
    while on.target.receive().opcode is not Opcode.CLOSE:
        pass
    on.target.close(1000)
    on.ended()


def test_a_keeper_runs_it_and_counts_how_it_ended(stage: SetStage) -> None:
    keeper = Keeper(tick_seconds=0.01)
    on = stage(run=keeper.run)
    converse(on)
    assert len(keeper) == 1
    on.client.close(1000)
    on.target.part()
    on.ended()
    assert keeper.closes == {("client", 1000): 1}
    assert (keeper.tally().messages_sent, keeper.tally().messages_received) == (1, 1)
