"""Ends: two real connections, and what each side is told when one of them ends."""

import gevent
import pytest
from session_support import (
    DRAINING,
    MANY,
    SECONDS,
    Peer,
    SetStage,
    SlowAccountant,
    Stage,
    converse,
    response_done,
    trickle,
    until,
    was_reset,
)
from websockets.frames import Opcode

from relay_app import codec
from relay_app.meter.meter import ANSWER_SECONDS, Meter
from relay_app.wire.rooms import Rooms

# -- what has ended ------------------------------------------------------------------------------


def test_whoever_asks_what_has_ended_before_or_behind_it_is_told(stage: SetStage) -> None:
    on = stage()
    converse(on)
    asked_before = on.session.client_closed
    assert not asked_before.is_set()
    on.client.close(1000)
    assert asked_before.wait(SECONDS)
    on.target.part()
    on.ended()
    assert on.session.client_closed is asked_before
    assert on.session.target_closed.is_set()
    assert not on.session.failed.is_set()
    assert not on.session.cancelled.is_set()


# -- one side closes -----------------------------------------------------------------------------


def test_messages_cross_as_they_came(stage: SetStage) -> None:
    on = stage()
    converse(on)
    on.client.send(Opcode.BINARY, b"not for us to judge")
    assert bytes(on.target.receive().data) == b"not for us to judge"


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "tab closed"), (4999, "é" * 61)])
def test_a_close_of_the_client_is_mirrored(stage: SetStage, code: int, reason: str) -> None:
    on = stage()
    converse(on)
    on.client.close(code, reason)
    assert on.target.part() == (code, reason)
    assert on.client.part() == (code, "")
    on.ended()
    assert on.client.at_end()
    assert on.target.at_end()


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "expired"), (3000, "x" * 123)])
def test_a_close_of_the_upstream_is_mirrored_without_an_error_event(
    stage: SetStage, code: int, reason: str
) -> None:
    on = stage()
    converse(on)
    on.target.close(code, reason)
    assert on.client.part() == (code, reason)
    assert on.target.part() == (code, "")
    on.ended()
    assert on.client.at_end()


@pytest.mark.parametrize("side", ["client", "target"])
def test_a_close_without_a_code_is_an_empty_close_to_the_other(stage: SetStage, side: str) -> None:
    on = stage()
    converse(on)
    closing, other = (on.client, on.target) if side == "client" else (on.target, on.client)
    closing.send(Opcode.CLOSE)
    assert other.part() == (None, "")
    assert closing.part() == (None, "")
    on.ended()


def test_an_upstream_that_vanishes_is_an_error_event_and_1011(stage: SetStage) -> None:
    on = stage()
    converse(on)
    on.target.sock.close()
    event = on.client.told()
    assert event["type"] == "error"
    assert event["error"]["code"] == "upstream_connection_lost"
    assert event["event_id"].startswith("event_")
    assert on.client.part() == (1011, "the upstream connection was lost")
    on.ended()


def test_a_client_that_vanishes_is_1011_to_the_upstream(stage: SetStage) -> None:
    on = stage()
    converse(on)
    on.client.sock.close()
    assert on.target.part() == (1011, "the client connection was lost")
    on.ended()


def test_the_upstreams_code_is_mirrored_though_the_client_talks_into_its_reset(
    stage: SetStage,
) -> None:
    on = stage()
    converse(on)
    on.client.say("input_audio_buffer.append", audio="BBBB")
    until(lambda: on.target_link.bytes_out > 100)
    on.target.close(4008, "session expired")
    on.target.sock.close()  # with unread bytes: a reset, at which our writes fail

    def talk() -> None:
        while True:
            on.client.say("input_audio_buffer.append", audio="CCCC")
            gevent.idle()

    talking = gevent.spawn(talk)
    talking.link_exception(lambda _: None)
    try:
        assert on.client.part() == (4008, "session expired")
    finally:
        talking.kill()
    on.ended()


def test_what_was_said_before_a_close_in_the_same_packet_arrives_before_it(
    stage: SetStage,
) -> None:
    on = stage()
    converse(on)
    words = b"".join(on.target.frame(Opcode.TEXT, b'{"n":%d}' % n) for n in range(50))
    on.target.sock.sendall(words + on.target.frame(Opcode.CLOSE, b"\x03\xe8"))
    assert [on.client.told()["n"] for _ in range(50)] == list(range(50))
    assert on.client.part() == (1000, "")
    on.ended()


def test_a_slow_client_still_gets_everything_and_the_close(stage: SetStage) -> None:
    on = stage(max_message_bytes=2 * MANY)
    converse(on)
    sender = gevent.spawn(on.target.send, Opcode.BINARY, bytes(MANY))
    until(lambda: on.client_link.blocked_since is not None)
    late = gevent.spawn(on.target.close, 1000, "all said")
    frame = on.client.receive()
    assert len(frame.data) == MANY
    assert on.client.part() == (1000, "all said")
    gevent.joinall([sender, late], timeout=SECONDS, raise_error=True)
    on.ended()


def test_what_the_upstream_reports_after_the_client_left_is_billed(stage: SetStage) -> None:
    on = stage()
    converse(on)
    on.client.close(1000)
    assert on.target.receive().opcode is Opcode.CLOSE
    on.target.say(**response_done())
    on.target.close(1000)
    on.ended()
    assert [record.unit_id for record in on.recorded] == ["resp_1"]


def test_no_frame_is_held_for_a_client_that_left(stage: SetStage) -> None:
    accountant = SlowAccountant()
    on = stage(accountant=accountant, hold_seconds=60)
    converse(on)
    on.client.close(1000)
    assert on.target.receive().opcode is Opcode.CLOSE
    for n in range(3):
        on.target.say(**response_done(f"resp_{n}"))
    on.target.close(1000)
    until(lambda: len(on.recorded) == 3)
    for ticket in accountant.tickets:
        ticket.settle()
    on.ended()


# -- one side misbehaves -------------------------------------------------------------------------


def test_a_client_that_breaks_framing_gets_1002_and_the_upstream_a_clean_close(
    stage: SetStage,
) -> None:
    on = stage()
    converse(on)
    on.client.sock.sendall(on.client.frame(Opcode.TEXT, b"{}") + b"\xff\xff")
    assert on.target.told() == {}
    code, reason = on.client.part()
    assert code == 1002
    assert "the client sent" in reason
    assert on.target.part() == (1000, "")
    on.ended()


def test_an_upstream_that_breaks_framing_gets_1002_and_the_client_1011(stage: SetStage) -> None:
    on = stage()
    converse(on)
    on.target.sock.sendall(b"\xff\xff")
    assert on.client.told()["error"]["code"] == "websocket_protocol_error"
    assert on.client.part()[0] == 1011
    assert on.target.part()[0] == 1002
    on.ended()


def test_a_close_reason_that_is_not_utf8_is_1007(stage: SetStage) -> None:
    on = stage()
    converse(on)
    on.client.send(Opcode.CLOSE, b"\x03\xe8\xff")
    assert on.client.part()[0] == 1007
    assert on.target.part() == (1000, "")
    on.ended()


def test_a_message_too_big_is_1009_behind_an_error_event(stage: SetStage) -> None:
    on = stage(max_message_bytes=1_000)
    converse(on)
    on.client.sock.sendall(on.client.frame(Opcode.TEXT, bytes(1_001))[:8])
    assert on.client.told()["error"]["code"] == "message_too_big"
    assert on.client.part()[0] == 1009
    assert on.target.part() == (1000, "")
    on.ended()


def test_a_message_too_big_in_its_middle_is_1011_to_the_upstream(stage: SetStage) -> None:
    on = stage(max_message_bytes=1_000)
    converse(on)
    on.client.send(Opcode.TEXT, bytes(900), fin=False)
    assert len(on.target.receive().data) == 900
    on.client.send(Opcode.CONT, bytes(101))
    assert on.client.told()["error"]["code"] == "message_too_big"
    assert on.client.part()[0] == 1009
    assert on.target.part()[0] == 1011
    on.ended()


def test_a_client_that_stalls_is_reset_and_the_upstream_gets_1013(stage: SetStage) -> None:
    on = stage(max_message_bytes=2 * MANY)
    converse(on)
    sender = gevent.spawn(on.target.send, Opcode.BINARY, bytes(MANY))
    until(lambda: on.client_link.blocked_since is not None)
    gevent.sleep(0.05)  # until loopback has delivered what fits
    on.tick(1.0)
    on.tick(14.9)
    assert not on.session.failed.is_set()
    on.tick(1.0)
    assert on.target.part()[0] == 1013
    sender.get(timeout=SECONDS)
    on.ended()
    assert was_reset(on.client.sock)
    assert on.session.ending is not None
    assert on.session.ending.code == 1013


def test_an_upstream_that_stalls_is_reset_and_the_client_gets_1013(stage: SetStage) -> None:
    on = stage(max_message_bytes=2 * MANY)
    converse(on)
    sender = gevent.spawn(on.client.send, Opcode.BINARY, bytes(MANY))
    until(lambda: on.target_link.blocked_since is not None)
    gevent.sleep(0.05)  # until loopback has delivered what fits
    on.tick(1.0)
    on.tick(16.0)
    assert on.client.told()["error"]["code"] == "upstream_stalled"
    assert on.client.part()[0] == 1013
    sender.get(timeout=SECONDS)
    on.ended()
    assert was_reset(on.target.sock)


def others(on: Stage, side: str) -> tuple[Peer, Peer]:
    """Who is at ``side``, and the other."""
    return (on.client, on.target) if side == "client" else (on.target, on.client)


def has_stalled(on: Stage, side: str) -> None:
    """The session ends, and everybody is told that it is because ``side`` takes nothing."""
    stalled, other = others(on, side)
    code = "client_stalled" if side == "client" else "upstream_stalled"
    on.session.failed.wait(SECONDS)
    while (frame := other.receive()).opcode is not Opcode.CLOSE:
        if frame.opcode is Opcode.TEXT:
            assert codec.loads_object(bytes(frame.data))["error"]["code"] == code
    assert int.from_bytes(frame.data[:2], "big") == 1013
    on.ended()
    assert was_reset(stalled.sock)
    assert on.session.ending is not None
    assert on.session.ending.fault is not None
    assert (on.session.ending.fault.code, on.session.ending.code) == (code, 1013)


@pytest.mark.parametrize("side", ["client", "target"])
def test_who_takes_nothing_of_a_trickle_stalls_too_but_may_be_in_a_tunnel(
    stage: SetStage, side: str
) -> None:
    on = stage(receive_buffer=4_096, stall_seconds=15, ping_seconds=20)
    converse(on)
    trickle(on, side)
    on.tick(1.0)
    on.tick(34.9)
    assert not on.session.failed.is_set()
    on.tick(0.2)
    has_stalled(on, side)


@pytest.mark.parametrize("side", ["client", "target"])
def test_who_is_back_from_a_tunnel_has_lost_nothing(stage: SetStage, side: str) -> None:
    on = stage(receive_buffer=4_096, stall_seconds=15, ping_seconds=20)
    converse(on)
    link = trickle(on, side)
    on.tick(1.0)
    on.tick(34.0)
    reader, _ = others(on, side)
    while link.connection.unacknowledged():
        reader.sock.recv(65_536)
    on.tick(2.0, times=30)
    assert not on.session.failed.is_set()


@pytest.mark.parametrize("side", ["client", "target"])
def test_it_is_a_stall_if_the_kernel_is_the_first_to_give_up(stage: SetStage, side: str) -> None:
    on = stage(receive_buffer=4_096, user_timeout_seconds=1.0)
    converse(on)
    trickle(on, side)
    on.tick(1.0)
    on.now += 15.0
    has_stalled(on, side)


@pytest.mark.parametrize("side", ["client", "target"])
def test_it_is_a_stall_if_a_ping_is_the_first_to_give_up(
    stage: SetStage, side: str, caplog: pytest.LogCaptureFixture
) -> None:
    on = stage(receive_buffer=4_096, stall_seconds=15, ping_seconds=9)
    converse(on)
    trickle(on, side)
    _, other = others(on, side)
    on.tick(1.0)
    for _ in range(2):
        on.tick(9.0)
        before = on.client_link.bytes_in + on.target_link.bytes_in
        other.send(Opcode.PONG)
        until(lambda: on.client_link.bytes_in + on.target_link.bytes_in > before)  # noqa: B023
    has_stalled(on, side)
    assert "silent" not in caplog.text


@pytest.mark.parametrize("side", ["client", "target"])
def test_who_leaves_before_a_stall_is_over_has_left(stage: SetStage, side: str) -> None:
    on = stage(receive_buffer=4_096)
    converse(on)
    trickle(on, side)
    on.tick(1.0)
    on.now += 14.0
    leaver, other = others(on, side)
    leaver.sock.close()
    if side == "target":
        assert other.told()["error"]["code"] == "upstream_connection_lost"
    assert other.part()[0] == 1011
    on.ended()
    assert on.session.ending is not None
    assert (on.session.ending.cause.value, on.session.ending.code) == (side, 1006)


@pytest.mark.parametrize("side", ["client", "target"])
def test_a_peer_that_answers_no_ping_is_given_up_for_lost(stage: SetStage, side: str) -> None:
    on = stage(ping_seconds=20)
    converse(on)
    silent, other = (on.client, on.target) if side == "client" else (on.target, on.client)
    for _ in range(9):
        on.tick(5.0)
        before = on.client_link.bytes_in + on.target_link.bytes_in
        other.send(Opcode.PONG)
        until(lambda: on.client_link.bytes_in + on.target_link.bytes_in > before)  # noqa: B023
    if side == "target":
        assert other.told()["error"]["code"] == "upstream_connection_lost"
    assert other.part()[0] == 1011
    on.ended()
    assert silent.receive().opcode is Opcode.PING


def test_who_hoards_room_that_others_wait_for_is_ended(stage: SetStage) -> None:
    rooms = Rooms(100_000)
    on = stage(rooms=rooms)
    converse(on)
    on.client.sock.sendall(on.client.frame(Opcode.BINARY, bytes(90_000))[:80_000])
    until(lambda: rooms.taken_bytes)
    other = gevent.spawn(rooms.take, 90_000)
    until(lambda: rooms.crowded)
    on.tick(10.0, times=6)
    assert not on.session.failed.is_set()
    on.now += 1
    on.client.send(Opcode.PING)  # it lives, but that is not enough
    on.tick(1.0)
    assert on.target.part()[0] == 1013
    on.ended()
    other.get(timeout=SECONDS)


# -- we end it -----------------------------------------------------------------------------------


def test_a_silent_session_is_ended_with_an_error_event_and_1008(stage: SetStage) -> None:
    on = stage(idle_seconds=30)
    converse(on)
    on.tick(1.0)
    on.tick(29.0)
    assert not on.session.cancelled.is_set()
    on.tick(2.0)
    assert on.client.told()["error"]["code"] == "session_idle"
    assert on.client.part()[0] == 1008
    assert on.target.part()[0] == 1008
    on.ended()


def test_messages_of_either_side_keep_a_session_from_being_idle(stage: SetStage) -> None:
    on = stage(idle_seconds=30)
    for _ in range(4):
        on.client.say("input_audio_buffer.append", audio="AAAA")
        on.target.told()
        on.tick(25.0)
        on.target.say("rate_limits.updated")
        on.client.told()
        on.tick(25.0)
    assert not on.session.cancelled.is_set()


def test_a_session_may_last_so_long_and_no_longer(stage: SetStage) -> None:
    on = stage(max_session_seconds=60, idle_seconds=1_000)
    converse(on)
    on.tick(60.0)
    assert not on.session.cancelled.is_set()
    on.tick(1.0)
    assert on.client.told()["error"]["code"] == "session_expired"
    assert on.client.part()[0] == 1008
    assert on.target.part()[0] == 1008
    on.ended()


TRANSCRIBED = "conversation.item.input_audio_transcription.completed"


def test_an_idle_session_drains_at_once(stage: SetStage) -> None:
    on = stage()
    converse(on)
    on.session.drain(DRAINING, 30)
    assert on.client.told()["error"]["code"] == "draining"
    assert on.client.part() == (1001, "the relay restarts")
    assert on.target.part() == (1001, "the relay restarts")
    on.ended()


def test_a_running_response_is_forwarded_to_its_end_before_a_session_drains(
    stage: SetStage,
) -> None:
    accountant = SlowAccountant()
    on = stage(accountant=accountant)
    on.target.say("response.created", response={"id": "resp_1"})
    on.client.told()
    on.session.drain(DRAINING, 30)
    on.tick(1.0)
    assert not on.session.cancelled.is_set()
    on.target.say(**response_done())
    until(lambda: accountant.tickets)
    on.tick(1.0)
    assert not on.session.cancelled.is_set()  # it waits for its record
    accountant.tickets[0].settle()
    assert on.client.told()["type"] == "response.done"
    # Nobody had to come by: one who asks for the next at once would never be idle then.
    assert on.client.told()["type"] == "error"
    assert on.client.part()[0] == 1001
    on.target.part()
    on.ended()


def test_a_response_that_was_just_asked_for_is_waited_for(stage: SetStage) -> None:
    on = stage()
    converse(on)
    on.client.say("response.create")
    assert on.target.told()["type"] == "response.create"
    on.session.drain(DRAINING, 30)
    on.tick(1.0)
    assert not on.session.cancelled.is_set()
    on.target.say("response.created", response={"id": "resp_1"})
    on.target.say(**response_done())
    assert on.client.told()["type"] == "response.created"
    assert on.client.told()["type"] == "response.done"
    assert on.client.told()["type"] == "error"
    assert on.client.part()[0] == 1001
    on.target.part()
    on.ended()


def test_what_was_just_committed_is_waited_for_and_its_transcription_too(stage: SetStage) -> None:
    on = stage()
    transcribes = {"audio": {"input": {"transcription": {"model": "whisper-1"}}}}
    on.target.say("session.updated", session=transcribes)
    assert on.client.told()["type"] == "session.updated"
    on.client.say("input_audio_buffer.commit")
    assert on.target.told()["type"] == "input_audio_buffer.commit"
    on.session.drain(DRAINING, 30)
    on.tick(1.0)
    assert not on.session.cancelled.is_set()
    on.target.say("input_audio_buffer.committed", item_id="item_1")
    assert on.client.told()["type"] == "input_audio_buffer.committed"
    on.tick(1.0)
    assert not on.session.cancelled.is_set()
    on.target.say(TRANSCRIBED, item_id="item_1", transcript="Yes.")
    assert on.client.told()["type"] == TRANSCRIBED
    assert on.client.told()["type"] == "error"
    assert on.client.part()[0] == 1001
    on.target.part()
    on.ended()


def test_a_response_that_was_refused_is_not_waited_for(stage: SetStage) -> None:
    now = [0.0]
    names = {"key": "k", "upstream": "u", "model": "m", "upstream_model": "m"}
    on = stage(meter=Meter("rs_test", **names, clock=lambda: now[0]))
    converse(on)
    on.client.say("response.create")
    assert on.target.told()["type"] == "response.create"
    on.session.drain(DRAINING, 30)
    now[0] += ANSWER_SECONDS
    on.tick(1.0)
    assert on.client.told()["type"] == "error"
    assert on.client.part()[0] == 1001
    on.target.part()
    on.ended()


def test_a_response_that_does_not_end_is_not_waited_for_longer_than_it_may(
    stage: SetStage,
) -> None:
    on = stage()
    on.target.say("response.created", response={"id": "resp_1"})
    on.client.told()
    on.session.drain(DRAINING, 30)
    on.tick(29.0)
    assert not on.session.cancelled.is_set()
    on.tick(1.0)
    assert on.target.cancelled() == "resp_1"
    assert on.client.told()["type"] == "error"
    assert on.client.part()[0] == 1001
    on.target.part()
    on.ended()
    assert [(record.unit_id, record.status) for record in on.recorded] == [("resp_1", "dropped")]


def test_a_session_can_be_cancelled_before_it_began(stage: SetStage) -> None:
    on = stage(start=False)
    on.session.cancel(DRAINING)
    on.runner.start()
    assert on.client.told()["type"] == "error"
    assert on.client.part()[0] == 1001
    on.target.part()
    on.ended()


def test_an_error_event_never_gets_into_a_fragmented_message(stage: SetStage) -> None:
    on = stage()
    on.target.send(Opcode.TEXT, b'{"half":', fin=False)
    assert on.client.receive().fin is False
    on.session.cancel(DRAINING)
    assert on.client.part()[0] == 1001
    on.target.part()
    on.ended()
