"""A message that was noted is read as any other."""

import json

import pytest
from meter_fakes import TRANSCRIPTS

from relay_app.meter.message import WholeText
from relay_app.meter.names import ASKED, CLIENT, COUNTED, SERVER
from relay_app.meter.notes import MAX_MESSAGE_BYTES
from relay_app.meter.reading import read, read_noted

RECORDED = [
    json.dumps(said, separators=(",", ":")).encode()
    for path in TRANSCRIPTS
    for line in path.read_text(encoding="utf-8").splitlines()
    if (said := json.loads(line).get("frame"))
]
ODD = [
    b'{"type":"response.created","response":{"id":"resp_1"}',
    b'{"type":"response.created","response":{"id":"resp_1"}} ',
    b'{"type":"response.created","response":{"id":"resp_1"}}]',
    b'{"type":"response.created","response":{"id":"resp_1"},"type":"response.done"}',
    b'{"type":"response.created","response":{"id":"resp_1"},"type":"made.up"}',
    b'{"type":"response.created","response":{"id":"resp_1"},"type":7}',
    b'{"type":"response.created","a":"\xff"}',
    b'{"type":"response.created","a":"\\u0000"}',
    b'{"type":"input_audio_buffer.cleared","event_id":"event_1"}',
    b'{"type":"input_audio_buffer.cleared","event_id":"event_1"',
    b'{"type":"response.create"}',
    b'{"type":"response.create","response":{},"type":"input_audio_buffer.append"}',
    b'{ "type" : "response.create" }',
    b'{"type":"made.up"}',
    b'["response.create"]',
    b"",
]


@pytest.mark.parametrize(("known", "counted"), [(CLIENT, ASKED), (SERVER, COUNTED)])
def test_what_was_noted_is_read_as_if_it_had_been_looked_at(
    known: frozenset[str], counted: frozenset[str]
) -> None:
    short = [payload for payload in RECORDED if len(payload) <= MAX_MESSAGE_BYTES]
    assert len(short) > 100
    for payload in [*short, *ODD]:
        read_whole = read(WholeText(payload), known, counted)[:2]
        assert read_noted(payload, known, counted) == read_whole, payload
