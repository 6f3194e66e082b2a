"""Collector: what runs is cancelled, the client goes at once, and what is reported is billed."""

import socket
import struct
import time
from collections.abc import Callable

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
    response_done,
    trickle,
    until,
)
from websockets.frames import Opcode

from relay_app.errors import ClientFault
from relay_app.meter.usage import Usage
from relay_app.session.keeper import Keeper

SPENT = ClientFault("the budget is spent", code="insufficient_quota", close_code=1008)
Units = list[tuple[str, str, str]]


def answering(on: Stage, *responses: str) -> Stage:
    """Responses run."""
    for response in responses or ("resp_1",):
        on.target.say("response.created", response={"id": response})
        assert on.client.told()["type"] == "response.created"
    return on


def cancelled_done(response: str = "resp_1") -> dict[str, object]:
    done = response_done(response)
    done["response"]["status"] = "cancelled"
    return done


def billed(on: Stage) -> Units:
    return [(record.unit_id, record.source, record.status) for record in on.recorded]


def transcribing(on: Stage) -> None:
    transcription = {"audio": {"input": {"transcription": {"model": "whisper-1"}}}}
    on.target.say("session.updated", session=transcription)
    on.target.say("input_audio_buffer.committed", item_id="item_1")
    on.client.told()
    on.client.told()


def transcribed(on: Stage) -> None:
    on.target.say(
        "conversation.item.input_audio_transcription.completed",
        item_id="item_1",
        transcript="Hello",
        usage={"type": "duration", "seconds": 3},
    )


# -- the client leaves ---------------------------------------------------------------------------


def close(on: Stage) -> None:
    on.client.close(1000)
    assert on.client.part() == (1000, "")
    assert on.client.at_end()


def reset(on: Stage) -> None:
    on.client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    on.client.sock.close()


def break_framing(on: Stage) -> None:
    on.client.sock.sendall(b"\xff\xff")
    assert on.client.part()[0] == 1002


def be_cancelled(on: Stage) -> None:
    on.session.cancel(DRAINING)
    assert on.client.told()["type"] == "error"
    assert on.client.part()[0] == 1001


@pytest.mark.parametrize("leave", [close, reset, break_framing, be_cancelled])
def test_a_client_that_leaves_amid_an_answer_pays_what_the_provider_reports(
    stage: SetStage, leave: Callable[[Stage], None]
) -> None:
    on = answering(stage())
    leave(on)  # which it hears of at once: nothing was cancelled yet
    assert on.target.cancelled() == "resp_1"
    on.target.say("response.output_audio.delta", delta="AAAA", response_id="resp_1")
    assert billed(on) == []
    on.target.say(**cancelled_done())
    on.target.part()
    on.ended()
    assert billed(on) == [("resp_1", "reported", "cancelled")]


def test_a_client_that_stalls_amid_an_answer_pays_too(stage: SetStage) -> None:
    on = answering(stage(max_message_bytes=60_000_000))
    sender = gevent.spawn(on.target.send, Opcode.BINARY, bytes(30_000_000))
    until(lambda: on.client_link.blocked_since is not None)
    gevent.sleep(0.05)  # until loopback has delivered what fits
    on.tick(1.0)
    on.tick(16.0)
    sender.get(timeout=SECONDS)
    assert on.target.cancelled() == "resp_1"
    on.target.say(**cancelled_done())
    assert on.target.part()[0] == 1013
    on.ended()
    assert billed(on) == [("resp_1", "reported", "cancelled")]


def test_a_client_that_takes_nothing_of_a_trickle_pays_too(stage: SetStage) -> None:
    on = answering(stage(receive_buffer=4_096, user_timeout_seconds=1.0))
    trickle(on, "client")
    on.tick(1.0)
    on.now += 15.0  # and now the kernel gives up
    assert on.target.cancelled() == "resp_1"
    on.target.say(**cancelled_done())
    assert on.target.part()[0] == 1013
    on.ended()
    assert billed(on) == [("resp_1", "reported", "cancelled")]


def test_every_running_response_is_cancelled_once_and_so_is_one_that_begins_meanwhile(
    stage: SetStage,
) -> None:
    on = answering(stage(), "a", "b")
    on.client.close(1000)
    assert [on.target.cancelled(), on.target.cancelled()] == ["a", "b"]
    on.target.say("response.created", response={"id": "c"})
    assert on.target.cancelled() == "c"
    for response in "bca":
        on.target.say(**cancelled_done(response))
    on.target.part()
    on.ended()
    assert sorted(unit for unit, *_ in billed(on)) == ["a", "b", "c"]


def test_a_response_without_an_id_is_cancelled_without_one(stage: SetStage) -> None:
    on = stage()
    on.target.say("response.created")
    on.client.told()
    on.client.close(1000)
    event = on.target.told()
    assert (event["type"], "response_id" in event) == ("response.cancel", False)
    on.target.say("response.done", response={"status": "cancelled"})
    on.target.part()
    on.ended()
    assert [status for _, _, status in billed(on)] == ["cancelled"]


def test_a_transcription_that_is_awaited_is_waited_for(stage: SetStage) -> None:
    on = stage()
    transcribing(on)
    on.client.close(1000)
    on.client.part()
    transcribed(on)
    on.target.part()
    on.ended()
    assert billed(on) == [("item_1", "reported", "completed")]
    assert on.session.tally().usage == Usage(transcription_seconds=3.0)


def test_nothing_that_the_client_still_says_goes_upstream(stage: SetStage) -> None:
    on = answering(stage())
    on.session.cancel(DRAINING)
    assert on.target.cancelled() == "resp_1"
    on.client.say("response.create")
    on.client.told()
    on.client.part()
    assert on.client.at_end()
    on.target.say(**cancelled_done())
    assert on.target.part()[0] == 1001
    on.ended()


def test_nothing_is_waited_for_where_nothing_runs(stage: SetStage) -> None:
    on = stage()
    converse(on)
    on.target.say(**response_done())
    on.client.told()
    on.client.close(1000)
    assert on.target.part() == (1000, "")
    on.ended()


# -- the upstream does not play along ------------------------------------------------------------


def test_an_upstream_that_ignores_a_cancel_is_left_after_drain_seconds(stage: SetStage) -> None:
    on = answering(stage(drain_seconds=0.8))
    began = time.monotonic()
    on.client.close(1000)
    assert on.target.cancelled() == "resp_1"
    on.target.say("response.output_text.delta", delta="Hi", response_id="resp_1")
    on.target.part()
    assert 0.7 < time.monotonic() - began < 5
    on.ended()
    assert billed(on) == [("resp_1", "estimated", "dropped")]
    assert on.recorded[0].usage.output_text_tokens == 1 + 2


def test_an_upstream_that_vanishes_meanwhile_is_not_waited_for(stage: SetStage) -> None:
    on = answering(stage())
    on.client.close(1000)
    assert on.target.cancelled() == "resp_1"
    on.target.sock.close()
    on.ended()
    assert [status for _, _, status in billed(on)] == ["dropped"]


def test_an_upstream_that_breaks_the_framing_meanwhile_is_not_waited_for(stage: SetStage) -> None:
    on = answering(stage())
    on.client.close(1000)
    assert on.target.cancelled() == "resp_1"
    on.target.sock.sendall(b"\xff\xff")
    on.target.part()
    on.ended()


def test_an_upstream_amid_a_message_cannot_be_told_and_is_left(stage: SetStage) -> None:
    on = answering(stage())
    on.client.send(Opcode.TEXT, b'{"type":', fin=False)
    on.target.receive()
    on.client.sock.close()
    assert on.target.part()[0] == 1011
    on.ended()
    assert [status for _, _, status in billed(on)] == ["dropped"]


# -- the relay goes too --------------------------------------------------------------------------


def test_a_quick_stop_ends_the_waiting(stage: SetStage) -> None:
    on = answering(stage())
    on.client.close(1000)
    assert on.target.cancelled() == "resp_1"
    on.session.drain(DRAINING, 0)
    with gevent.Timeout(5):
        assert on.target.part() == (1000, "")
        on.ended()
    assert [status for _, _, status in billed(on)] == ["dropped"]


def test_a_drain_is_the_latest_that_is_waited_for(stage: SetStage) -> None:
    on = answering(stage())
    on.session.drain(DRAINING, 20)
    on.now += 20 - 1
    on.client.close(1000)
    assert on.target.cancelled() == "resp_1"
    with gevent.Timeout(5):
        on.target.part()
        on.ended()


def test_a_session_drains_when_its_transcriptions_have_come(stage: SetStage) -> None:
    on = stage()
    transcribing(on)
    on.session.drain(DRAINING, 30)
    on.tick(1.0)
    assert not on.session.cancelled.is_set()
    transcribed(on)
    on.client.told()
    until(lambda: not on.session._down.busy)
    on.tick(1.0)
    on.client.told()
    assert on.client.part()[0] == 1001
    on.target.part()
    on.ended()
    assert billed(on) == [("item_1", "reported", "completed")]


def test_it_is_open_and_counted_until_all_is_settled(
    stage: SetStage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "relay_app")
    keeper = Keeper(tick_seconds=0.01)
    on = answering(stage(run=keeper.run))
    on.client.close(1000)
    assert on.target.cancelled() == "resp_1"
    assert on.client.part() == (1000, "")
    assert (len(keeper), dict(keeper.closes)) == (1, {})
    assert "session close" not in caplog.text
    on.target.say(**cancelled_done())
    on.target.part()
    on.ended()
    assert (len(keeper), dict(keeper.closes)) == (0, {("client", 1000): 1})
    assert keeper.tally().usage.output_text_tokens == 7
    (line,) = [r.getMessage() for r in caplog.records if "session close" in r.getMessage()]
    assert "tokens=17 records=1" in line


# -- finishing -----------------------------------------------------------------------------------


def test_a_client_that_is_to_go_still_hears_what_its_answer_came_to(stage: SetStage) -> None:
    accountant = SlowAccountant()
    on = answering(stage(accountant=accountant))
    on.session.finish(SPENT)
    on.session.finish(DRAINING)
    assert on.target.cancelled() == "resp_1"
    on.target.say("response.output_audio.delta", delta="AAAA", response_id="resp_1")
    assert on.client.told()["type"] == "response.output_audio.delta"
    on.client.say("response.create")
    on.target.say(**cancelled_done())
    until(lambda: accountant.tickets)
    on.tick(1.0)
    assert not on.session.cancelled.is_set()  # the client is yet to hear of the end
    accountant.tickets[0].settle()
    assert on.client.told()["response"]["status"] == "cancelled"
    until(lambda: not on.session._down.busy)
    on.tick(1.0)
    assert on.client.told()["error"]["code"] == "insufficient_quota"
    assert on.client.part() == (1008, "the budget is spent")
    assert on.target.part() == (1008, "the budget is spent")
    on.ended()
    assert billed(on) == [("resp_1", "reported", "cancelled")]


def test_an_upstream_that_ignores_the_cancel_delays_the_end_by_seconds(stage: SetStage) -> None:
    on = answering(stage())
    on.session.finish(SPENT)
    on.tick(4.9)
    assert not on.session.cancelled.is_set()
    on.tick(0.1)
    began = time.monotonic()
    assert on.client.told()["error"]["code"] == "insufficient_quota"
    assert on.target.cancelled() == "resp_1"
    assert on.target.part()[0] == 1008
    assert time.monotonic() - began < 3
    on.ended()
    assert [status for _, _, status in billed(on)] == ["dropped"]


def test_a_session_where_nothing_runs_is_finished_at_once(stage: SetStage) -> None:
    on = stage()
    converse(on)
    on.session.finish(SPENT)
    assert on.client.told()["error"]["code"] == "insufficient_quota"
    assert on.target.part()[0] == 1008
    on.ended()


def test_a_client_that_leaves_while_it_is_finished_pays_as_any_other(stage: SetStage) -> None:
    on = answering(stage())
    on.session.finish(SPENT)
    assert on.target.cancelled() == "resp_1"
    on.client.close(1000)
    on.client.part()
    on.target.say(**cancelled_done())
    assert on.target.part() == (1000, "")
    on.ended()
    assert billed(on) == [("resp_1", "reported", "cancelled")]


def test_a_client_does_not_hear_that_a_cancel_of_ours_came_too_late(stage: SetStage) -> None:
    on = answering(stage(accountant=QuickAccountant()))
    on.session.finish(SPENT)
    event = on.target.told()
    error = {"code": "response_cancel_not_active", "event_id": event["event_id"]}
    on.target.say(**response_done())
    on.target.say("error", error=error)
    on.target.say("error", error={"code": "server_error"})
    assert on.client.told()["type"] == "response.done"
    assert on.client.told()["error"]["code"] == "server_error"
    until(lambda: not on.session._down.busy)
    on.tick(1.0)
    assert on.client.told()["error"]["code"] == "insufficient_quota"
    on.client.part()
    on.target.part()
    on.ended()


# -- one response alone ---------------------------------------------------------------------------


def test_one_response_is_cancelled_once_and_the_others_go_on(stage: SetStage):
    on = answering(stage(), "resp_1", "resp_2")
    for _ in range(2):
        on.session._collector.cancel("resp_2")
    on.session._collector.cancel("resp_that_ended")
    assert on.target.told()["response_id"] == "resp_2"
    on.target.say(**cancelled_done("resp_2"))
    on.client.told()
    converse(on)
    assert on.meter.responses() == ["resp_1"]
