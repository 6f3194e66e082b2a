"""The events of a usual turn: what is read of them is what a parse of the whole says."""

import json
import random
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meter_fakes import TRANSCRIPTS, Clock, Whole, new_meter

from relay_app.meter import meter as meter_module
from relay_app.meter import usual
from relay_app.meter.meter import Meter
from relay_app.meter.usage import UsageRecord
from relay_app.meter.usual import Usual, python_read_usual, read_usual

READERS = {"python": python_read_usual, "in use": read_usual}
each_reader = pytest.mark.parametrize("read", READERS.values(), ids=READERS)
Reader = Callable[[bytes], Usual | None]

RECORDED = [
    [(line["dir"], line["frame"]) for line in map(json.loads, lines) if "frame" in line]
    for path in TRANSCRIPTS
    for lines in [path.read_text(encoding="utf-8").splitlines()]
]
USAGE = {
    "total_tokens": 253,
    "input_tokens": 132,
    "output_tokens": 121,
    "input_token_details": {
        "text_tokens": 112,
        "audio_tokens": 20,
        "image_tokens": 0,
        "cached_tokens": 64,
        "cached_tokens_details": {"text_tokens": 64, "audio_tokens": 0, "image_tokens": 0},
    },
    "output_token_details": {"text_tokens": 26, "audio_tokens": 95},
}
ITEM = {"id": "item_1", "type": "message", "content": [{"transcript": 'Grüß dich, "Marcelo" 🙂\n'}]}
DONE = {
    "type": "response.done",
    "event_id": "event_1",
    "response": {
        "id": "resp_1",
        "status": "completed",
        "status_details": None,
        "output": [ITEM],
        "metadata": None,
        "usage": USAGE,
    },
}
CREATED = {
    "type": "response.created",
    "event_id": "event_1",
    "response": {
        "id": "resp_1",
        "status": "in_progress",
        "output": [],
        "conversation_id": "conv_1",
        "audio": {"output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "marin"}},
        "usage": None,
        "metadata": None,
    },
}
ADDED = {
    "type": "conversation.item.added",
    "previous_item_id": None,
    "item": {"id": "item_1", "status": "in_progress", "role": "assistant", "content": []},
}
CREATE = {"type": "response.create", "event_id": "mine_1"}


def encoded(event: Any, **how: Any) -> bytes:
    return json.dumps(event, separators=(",", ":"), **how).encode("utf-8", "surrogatepass")


def with_(event: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """``event`` with another value in one place."""
    changed: dict[str, Any] = json.loads(json.dumps(event))
    *names, last = path.split(".")
    place = changed
    for name in names:
        place = place[name]
    place[last] = value
    return changed


def test_the_compiled_one_is_in_use_where_it_is_built() -> None:
    built = pytest.importorskip("relay_app.meter._skim", reason="the compiled parts are not built")
    assert usual.read_usual is built.read_usual


@each_reader
@pytest.mark.parametrize("ascii_alone", [True, False])
def test_the_end_of_a_response_says_what_it_used(read: Reader, ascii_alone: bool) -> None:
    counts = (112, 20, 0, 64, 0, 0, 26, 95, 0)
    raw = json.dumps(USAGE, separators=(",", ":"))
    said = ("response.done", "resp_1", "completed", counts, raw, ("item_1",))
    assert read(encoded(DONE, ensure_ascii=ascii_alone)) == said


@each_reader
def test_a_report_with_reasoning_and_with_more_items_says_so(read: Reader) -> None:
    reasoned = with_(DONE, "response.usage.output_token_details.reasoning_tokens", 9)
    answer = read(encoded(with_(reasoned, "response.output", [ITEM, {"type": "x"}, ITEM])))
    assert answer is not None
    assert answer[0] == "response.done"
    assert (answer[3][-1], answer[5]) == (9, ("item_1", None))


@each_reader
def test_a_report_is_kept_without_the_spaces_that_it_was_written_with(read: Reader) -> None:
    spaced = encoded(DONE).replace(b'{"text_tokens":26,', b' {"text_tokens" :26 ,\n\t')
    assert len(spaced) > len(encoded(DONE))
    assert read(spaced) == read(encoded(DONE)) is not None


@each_reader
def test_the_beginning_of_a_response_says_how_it_answers(read: Reader) -> None:
    assert read(encoded(CREATED)) == ("response.created", "resp_1", False, "audio/pcm", 24000)
    outside = with_(CREATED, "response.conversation_id", None)
    assert read(encoded(outside)) == ("response.created", "resp_1", True, "audio/pcm", 24000)
    beta = {"type": "response.created", "response": {"id": "r", "output_audio_format": "g711_ulaw"}}
    assert read(encoded(beta)) == ("response.created", "r", False, "g711_ulaw", None)
    silent = {"type": "response.created", "response": {"id": "r"}}
    assert read(encoded(silent)) == ("response.created", "r", False, None, None)


@each_reader
def test_what_says_nothing_of_its_own_is_told_by_its_type(read: Reader) -> None:
    assert read(encoded(CREATE)) == ("response.create",)
    assert read(encoded(ADDED)) == ("conversation.item.added",)


UNUSUAL = {
    "no report": with_(DONE, "response.usage", None),
    "an empty report": with_(DONE, "response.usage", {}),
    "a sum that is off": with_(DONE, "response.usage.input_tokens", 133),
    "more from a cache than there is": with_(
        DONE, "response.usage.input_token_details.cached_tokens_details.image_tokens", 1
    ),
    "a count that is a float": with_(DONE, "response.usage.output_tokens", 121.0),
    "a count that is a string": with_(DONE, "response.usage.output_tokens", "121"),
    "a count below zero": with_(DONE, "response.usage.output_token_details.text_tokens", -26),
    "images put out": with_(DONE, "response.usage.output_token_details.image_tokens", 0),
    "no id": with_(DONE, "response.id", None),
    "an empty id": with_(DONE, "response.id", ""),
    "output that is no list": with_(DONE, "response.output", {"a": 1}),
    "a status that is a number": with_(DONE, "response.status", 7),
    "metadata": with_(CREATED, "response.metadata", {"topic": "weather"}),
    "a rate that is a string": with_(CREATED, "response.audio.output.format.rate", "24000"),
    "a format that is a name": with_(CREATED, "response.audio.output.format", "pcm16"),
    "a finished item": with_(ADDED, "item.status", "completed"),
    "an item with content": with_(ADDED, "item.content", [{"type": "input_text", "text": "Hi"}]),
    "no item": with_(ADDED, "item", None),
    "a request with settings": with_(CREATE, "response", {"instructions": "Be brief."}),
    "another type": with_(CREATE, "type", "input_audio_buffer.append"),
}


@each_reader
@pytest.mark.parametrize("event", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_not_usual_is_left_to_a_parse(read: Reader, event: dict[str, Any]) -> None:
    assert read(encoded(event)) is None


@each_reader
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        encoded(DONE)[:-1],
        encoded(DONE) + b"}",
        encoded(DONE)[:-1] + b',"type":"response.create"}',
        encoded(DONE).replace(b"Marcelo", b"Marcelo\xff"),
        encoded(DONE).replace(b'"status_details":null', b'"status_details":nul'),
        b" " + encoded(DONE),
    ],
)
def test_what_is_no_event_or_begins_otherwise_is_left_to_a_parse(
    read: Reader, payload: bytes
) -> None:
    assert read(payload) is None


def test_what_is_no_bytes_is_refused_by_the_compiled_one() -> None:
    built = pytest.importorskip("relay_app.meter._skim", reason="the compiled parts are not built")
    with pytest.raises(TypeError, match="bytes"):
        built.read_usual("{}")


ODD = [
    *(b"0", b"01", b"-0", b"-1", b"1.5", b"1e3", b"9" * 15, b"9" * 16, b"9007199254740993"),
    *(b"true", b"null", b'""', b'"a"', b'"\\u0061"', b'"\\ud83d\\ude42"', b'"\\ud800"', b'"\\x"'),
    *(b"{}", b"[]", b"[[]]", b'{"text_tokens":1}', b'"\xc3\xbc"', b'"\xed\xa0\x80"', b'"\x7f"'),
    *(b"[" * 31 + b"]" * 31, b"[" * 40 + b"]" * 40, b"NaN", b'"\x00"', b"[1,]", b'{"a":1,"a":2}'),
]
KNOWN = [*map(encoded, (DONE, CREATED, ADDED, CREATE)), *map(encoded, UNUSUAL.values())]


def changed(payload: bytes, dice: random.Random) -> bytes:
    """``payload`` with a value, a name or a byte that is another, left out, or said twice."""
    parts = dice.choice([b",", b":", b'"'])
    pieces = payload.split(parts)
    at = dice.randrange(len(pieces))
    match dice.randrange(6):
        case 0:
            pieces[at] = dice.choice(ODD)
        case 1:
            del pieces[at]
        case 2:
            pieces.insert(at, dice.choice(pieces))
        case 3:
            pieces[at] = dice.choice(pieces)
        case 4:
            pieces[at] += dice.choice([b" ", b"\n", b"\t ", b"\r", b"\x0b", b"\xc2\xa0"])
        case 5:
            where = dice.randrange(len(payload))
            return payload[:where] + bytes([dice.randrange(256)]) + payload[where + 1 :]
    return parts.join(pieces)


@settings(max_examples=2_000)
@given(st.sampled_from(KNOWN), st.integers(), st.integers(1, 4))
def test_the_compiled_one_says_what_the_other_says_or_nothing(
    payload: bytes, seed: int, times: int
) -> None:
    dice = random.Random(seed)
    for _ in range(times):
        payload = changed(payload, dice) or b"{}"
        answer = read_usual(payload)
        assert answer is None or answer == python_read_usual(payload), payload


def played(events: list[tuple[str, Any]], read: Reader) -> tuple[Meter, list[UsageRecord]]:
    """A session through a meter that reads usual events so, and all it said about it."""
    with mock.patch.object(meter_module, "read_usual", read):
        meter = new_meter(clock=Clock())
        records: list[UsageRecord] = []
        for direction, event in events:
            message = Whole(encoded(event, ensure_ascii=False))
            if direction == "c2s":
                meter.sent(message)
            else:
                records += meter.received(message)
        return meter, [*records, *meter.close()]


@each_reader
@pytest.mark.parametrize("events", RECORDED, ids=[path.stem for path in TRANSCRIPTS])
def test_a_session_is_billed_as_if_everything_had_been_parsed(
    read: Reader, events: list[tuple[str, Any]]
) -> None:
    by_parsing, expected = played(events, lambda payload: None)
    meter, records = played(events, read)
    assert records == expected
    assert (meter.usage, meter.drift, meter.inexact) == (
        by_parsing.usage,
        by_parsing.drift,
        by_parsing.inexact,
    )


def test_most_responses_of_the_recorded_sessions_are_usual() -> None:
    ends = [
        encoded(event, ensure_ascii=False)
        for events in RECORDED
        for _, event in events
        if event.get("type") == "response.done"
    ]
    assert sum(read_usual(end) is not None for end in ends) * 2 > len(ends)
