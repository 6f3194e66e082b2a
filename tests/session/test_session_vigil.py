"""A client that sends too many messages: warned of in the log first, then told, then ended."""

import logging
from typing import Any

import pytest
from session_support import SetStage, until
from websockets.frames import Opcode

LIMIT = 10


def send(stage, count: int) -> None:
    for _ in range(count):
        stage.client.say("input_audio_buffer.append", audio="AAAA")
    for _ in range(count):
        stage.target.told()


def test_a_recording_that_is_sent_at_once_passes(stage: SetStage):
    made = stage(max_messages_per_second=LIMIT)
    send(made, LIMIT * 59)
    made.tick()
    made.client.say("response.create")
    assert made.target.told()["type"] == "response.create"
    assert made.session.ending is None


def test_a_flood_ends_the_session_with_1008_and_says_which_rate(stage: SetStage):
    why: list[str] = []
    made = stage(max_messages_per_second=LIMIT, on_limit=why.append)
    send(made, LIMIT * 62)
    made.tick()
    error = made.client.told()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_exceeded", "rate_limit_exceeded")
    assert "620 messages in a second. This relay takes 10," in error["message"]
    # What a close frame has no room for would be cut off.
    assert made.client.part() == (1008, error["message"])
    made.target.part()
    made.ended()
    assert why == ["messages"]


def test_a_client_that_is_a_little_too_fast_is_warned_of_once_before(
    stage: SetStage, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING, "relay_app")
    made = stage(max_messages_per_second=LIMIT)
    warned = None
    for second in range(1, 200):
        send(made, LIMIT * 2)
        made.tick()
        if "sends many messages" in caplog.text:
            warned = warned or second
        if made.session.cancelled.is_set():
            break
    assert warned == 31, "at half of a minute's messages"
    assert second == 61
    assert caplog.text.count("sends many messages") == 1
    assert "per_second=20 limit=10" in caplog.text


def test_at_the_limit_a_session_goes_on_for_ever(stage: SetStage):
    made = stage(max_messages_per_second=LIMIT)
    for _ in range(200):
        send(made, LIMIT)
        made.tick()
    until(lambda: made.session.tally().messages_sent == 200 * LIMIT)
    assert made.session.ending is None


@pytest.mark.parametrize(
    "flood",
    [
        {"opcode": Opcode.PING},
        {"opcode": Opcode.PONG},
        {"opcode": Opcode.CONT, "fin": False},
    ],
    ids=["pings", "pongs", "parts of a message"],
)
def test_what_is_no_message_is_counted_too(stage: SetStage, flood: dict[str, Any]):
    made = stage(max_messages_per_second=LIMIT)
    made.client.send(Opcode.TEXT, b'{"type":', fin=False)
    if flood["opcode"] is not Opcode.CONT:
        made.client.send(Opcode.CONT, b'"x"}')
    for _ in range(LIMIT * 62):
        made.client.send(**flood)
    until(lambda: made.session._up.fragments + made.client_link.controls >= LIMIT * 62)
    made.tick()
    assert made.session.cancelled.is_set()


def test_what_the_upstream_sends_is_not_counted(stage: SetStage):
    made = stage(max_messages_per_second=1)
    for _ in range(200):
        made.target.say("session.updated")
        made.client.told()
    made.tick()
    assert made.session.ending is None


def test_without_a_limit_nobody_is_counted(stage: SetStage):
    made = stage(max_messages_per_second=0)
    send(made, 500)
    made.tick()
    assert made.session.ending is None
