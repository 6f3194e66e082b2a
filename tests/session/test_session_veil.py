"""What a client sees of what its upstream says about the account it is asked with."""

import json
from typing import Any

import gevent
import pytest
from session_support import SetStage, SlowAccountant, Stage, response_done, until
from websockets.frames import Frame, Opcode

from relay_app.meter.meter import Meter
from relay_app.session.veil import Veil
from relay_app.wire.scanner import Scanner

SECRET = "sk-proj-planted-provider-key-0001"
RATE_LIMITS = {
    "type": "rate_limits.updated",
    "rate_limits": [{"name": "tokens", "limit": 40_000, "remaining": 39_950, "reset_seconds": 0.1}],
}
TOLD = f"Incorrect API key provided: {SECRET}, of organization org-AbCdEf123456."
CLEAN = "Incorrect API key provided: [redacted], of organization [redacted]."


def veiled(stage: SetStage, *, rate_limits: bool = False, **options: Any) -> Stage:
    veil = Veil(SECRET, rate_limits=rate_limits)
    meter = Meter(
        "rs_test", key="k", upstream="u", model="m", upstream_model="m", clock=lambda: 0.0,
        shown=veil.looks_at,
    )  # fmt: skip
    return stage(veil=veil, meter=meter, **options)


def error(**fields: Any) -> dict[str, Any]:
    return {"type": "error", "event_id": "event_1", "error": {"message": TOLD, **fields}}


def failed(**fields: Any) -> dict[str, Any]:
    event = response_done()
    details = {"type": "failed", "error": {"code": "rate_limit_exceeded", "message": TOLD}}
    event["response"] |= {"status": "failed", "status_details": details, **fields}
    return event


def test_an_error_that_quotes_our_key_is_told_without_it(stage: SetStage):
    made = veiled(stage)
    made.target.say(**error(type="invalid_request_error", code="invalid_api_key", param=None))
    assert made.client.told() == {
        "type": "error",
        "event_id": "event_1",
        "error": {
            "message": CLEAN,
            "type": "invalid_request_error",
            "code": "invalid_api_key",
            "param": None,
        },
    }


def test_so_are_a_response_and_a_transcription_that_failed(stage: SetStage):
    made = veiled(stage)
    made.target.say(**failed())
    event = made.client.told()
    assert event["response"]["status_details"]["error"]["message"] == CLEAN
    assert event["response"]["usage"]["output_tokens"] == 7
    [record] = made.recorded
    assert record.status == "failed"
    kind = "conversation.item.input_audio_transcription.failed"
    made.target.say(kind, item_id="item_1", error={"message": TOLD})
    assert made.client.told()["error"]["message"] == CLEAN


def test_what_replaces_a_response_waits_for_its_record_as_it_would(stage: SetStage):
    accountant = SlowAccountant()
    made = veiled(stage, accountant=accountant)
    made.target.say("session.updated")
    made.target.say(**failed())
    made.target.say("session.updated", event_id="behind")
    until(lambda: accountant.tickets)
    assert made.client.told()["type"] == "session.updated"
    waiting = gevent.spawn(made.client.told)
    assert not waiting.join(0.05)
    assert not waiting.ready()
    accountant.tickets[0].settle()
    assert waiting.get()["response"]["status_details"]["error"]["message"] == CLEAN
    assert made.client.told()["event_id"] == "behind"


@pytest.mark.parametrize(
    "payload",
    [
        json.dumps(error()).replace(TOLD, "The model  'x' was not found.").encode(),
        b'{"type" : "error","error":{"message":"caf\\u00e9 \\/ 1.50"},"n":1e2}',
        b'{"type":"error","error":"org-AbCdEf123456"}',
        b'{"type":"error"}',
        b'{"type":"error","error":{"message":17}}',
        b'{"type":"error","error":{"message":"org-AbCdEf123456"}',
        json.dumps({"type": "response.output_text.done", "text": TOLD, "error": None}).encode(),
        json.dumps(response_done() | {"said": TOLD}).encode(),
        b'{"type":["error"],"error":{"message":"org-AbCdEf123456"}}',
        b'{"no":"type","error":{"message":"org-AbCdEf123456"}}',
        json.dumps(RATE_LIMITS).encode(),
    ],
)
def test_all_else_comes_as_it_was_said(stage: SetStage, payload: bytes):
    made = veiled(stage)
    made.target.send(Opcode.TEXT, payload)
    assert bytes(made.client.receive().data) == payload
    assert made.session.tally().unobserved == 0


def test_without_a_veil_everything_does(stage: SetStage):
    made = stage()
    made.target.say(**error())
    assert made.client.told() == error()


def test_rate_limits_are_hidden_if_so_wished_and_nothing_else_is(stage: SetStage):
    made = veiled(stage, rate_limits=True)
    said = [
        {"type": "response.output_text.delta", "delta": "rate_limits.updated"},
        RATE_LIMITS,
        {"type": "input_audio_buffer.cleared"},
        {"rate_limits": [], "type": "rate_limits.updated"},
        {"type": "response.output_text.delta", "delta": "the end"},
    ]
    for event in said:
        made.target.say(**event)
    assert [made.client.told() for _ in range(3)] == [said[0], said[2], said[4]]
    assert made.session.tally().messages_received == 5


def test_only_who_hides_rate_limits_pays_for_looking_at_them():
    scanner = Scanner(masked=False, max_message_bytes=1_000_000)
    payload = json.dumps(RATE_LIMITS, separators=(",", ":")).encode()
    run = scanner.feed(Frame(Opcode.TEXT, payload).serialize(mask=False))
    usual, hiding = (
        Meter("s", key="k", upstream="u", model="m", upstream_model="m", clock=float, shown=shown)
        for shown in (frozenset(), Veil(SECRET, rate_limits=True).looks_at)
    )
    assert usual.skim_received(run.data, run.frames, 0) == 1
    assert hiding.skim_received(run.data, run.frames, 0) == 0


def test_an_audit_keeps_no_key_either(stage: SetStage):
    class Audit:
        def write(self, session_id: str, entries: list[Any]) -> None:
            kept.extend(entries)

        def close(self) -> None:
            pass

    kept: list[Any] = []
    made = veiled(stage, audit=Audit())
    made.target.say(**error())
    made.client.told()
    until(lambda: kept)
    [entry] = kept
    assert entry.type == "error"
    assert CLEAN in entry.payload


def test_a_close_reason_of_the_providers_is_cleaned_too(stage: SetStage):
    made = veiled(stage)
    made.target.close(4_001, f"bad key {SECRET}")
    assert made.client.part() == (4_001, "bad key [redacted]")
    made.target.part()
    made.ended()


def test_what_was_begun_cannot_be_taken_back(stage: SetStage):
    made = veiled(stage)
    payload = json.dumps(error()).encode()
    made.target.send(Opcode.TEXT, payload[:20], fin=False)
    first = made.client.receive()
    made.target.send(Opcode.CONT, payload[20:])
    assert bytes(first.data) + bytes(made.client.receive().data) == payload
