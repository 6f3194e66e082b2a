"""What a provider says of what failed: its errors reach the client without our key, and all else of
them as it was said.

An input is a byte that says whether rate limits are hidden, and a message.
"""

import json
from collections.abc import Iterator
from typing import Any

from fuzz.parsed import fields, plain
from fuzz.target import Target
from relay_app.meter.message import WholeText
from relay_app.session.pump import DROP, Instead
from relay_app.session.veil import RATE_LIMITS, Veil

__all__ = ["TARGET", "check"]

SECRET = "kq-planted-secret-0123456789"
FAILED = ["error", "response.done", "conversation.item.input_audio_transcription.failed"]


def check(data: bytes) -> None:
    """An error that quotes the key is sent without it; nothing else is changed or held back."""
    hides, payload = data[:1] >= b"\x80", data[1:]
    verdict = Veil(SECRET, rate_limits=hides).over(WholeText(payload))
    assert verdict is None or verdict is DROP or isinstance(verdict, Instead)
    said = plain(fields(payload))
    if said is None:
        return
    if hides and said.get("type") == RATE_LIMITS and b'"rate_limits"' in payload:
        assert verdict is DROP
    if verdict is DROP:
        assert hides
        assert said["type"] == RATE_LIMITS
    if isinstance(verdict, Instead):
        assert said["type"] in FAILED
        now = json.loads(verdict.payload)
        assert SECRET not in "".join(_messages(now))
        assert len(list(_messages(said))) > 0
        assert now == said
    elif said.get("type") in FAILED and b'"error"' in payload:
        assert SECRET not in "".join(_messages(said))


def _messages(event: dict[str, Any]) -> Iterator[str]:
    """Takes out of ``event`` what failed in words, and says it."""
    response = event.get("response")
    for told in (event, response.get("status_details") if isinstance(response, dict) else None):
        error = told.get("error") if isinstance(told, dict) else None
        if isinstance(error, dict) and isinstance(error.get("message"), str):
            yield error.pop("message")


def _seeds() -> Iterator[bytes]:
    key = SECRET.encode()
    error = b'{"type":"invalid_request_error","code":"x","message":"%b","param":null}'
    yield b'\x00{"type":"error","event_id":"e","error":' + error % (b"Bad key " + key) + b"}"
    yield b'\x00{"type":"error","error":' + error % b"plain, of org-AbCdEf123456 \\u00e9" + b"}"
    yield (b'\x00{"type":"response.done","response":{"id":"r","status":"failed","usage":{"n":1.5},'
           b'"status_details":{"type":"failed","error":' + error % key + b"}}}")  # fmt: skip
    yield (b'\x00{"event_id":"e","error":' + error % (b"x" * 500 + key)
           + b',"type":"conversation.item.input_audio_transcription.failed"}')  # fmt: skip
    for hides in (b"\x00", b"\xff"):
        yield hides + b'{"type":"rate_limits.updated","rate_limits":[{"name":"tokens","limit":1}]}'
        yield hides + b'{"rate_limits":[' + b"0," * 300 + b'0],"type":"rate_limits.updated"}'
    yield b'\xff{"type":"response.output_text.delta","delta":"' + key + b'"}'


TARGET = Target(
    check,
    _seeds,
    max_bytes=1_200,
    words=(b'"type":"error"', b'"error":', b'"message":"', b'"response":{', b'"status_details":',
           b'"response.done"', b'"rate_limits.updated"', b'"rate_limits":[]', SECRET.encode(),
           b"kq\\u002dplanted", b"\\ud83d\\ude00", b"1e-7", b"[]", b"{}", b"\xff"),
)  # fmt: skip
