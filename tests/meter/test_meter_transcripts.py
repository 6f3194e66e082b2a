"""The records of every recorded session add up to what its provider said."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meter_fakes import TRANSCRIPTS, frames, new_meter

from relay_app.meter import Usage

UNREPORTED = {
    "05-interrupted-no-usage-ga": ["estimated"],
    "06-failed-response-ga": ["unknown"],
    "11-audio-turn-xai": ["estimated"],
}
PIECES = (b'"type": "input_audio_buffer.append"', b'.delta"')
by_name = pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)


def play(messages, meter=None):
    """The meter after ``messages``, and what it returned by record id, the last standing."""
    meter = meter or new_meter()
    records = {}
    for direction, message in messages:
        if direction == "c2s":
            meter.sent(message)
        else:
            records |= {record.id: record for record in meter.received(message)}
    return meter, records


def expected(path):
    """The sums of a transcript, straight from its JSON; all its usage objects have details."""
    sums = dict.fromkeys(Usage.__dataclass_fields__, 0)
    for line in path.read_text(encoding="utf-8").splitlines():
        frame = json.loads(line).get("frame") or {}
        usage = (frame.get("response") or {}).get("usage") or frame.get("usage") or {}
        given = usage.get("input_token_details") or {}
        made = usage.get("output_token_details") or {"text_tokens": usage.get("output_tokens", 0)}
        cached = given.get("cached_tokens_details") or {}
        for kind in ("text", "audio", "image"):
            sums[f"input_{kind}_tokens"] += given.get(f"{kind}_tokens", 0)
            sums[f"cached_{kind}_tokens"] += cached.get(f"{kind}_tokens", 0)
        sums["output_text_tokens"] += made.get("text_tokens", 0)
        sums["output_audio_tokens"] += made.get("audio_tokens", 0)
        sums["reasoning_tokens"] += made.get("reasoning_tokens", 0)
        sums["transcription_seconds"] += usage.get("seconds", 0)
    return sums


def finals(path):
    """The ids of the responses done and the items transcribed in a transcript."""
    ids = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        frame = json.loads(line).get("frame") or {}
        if frame.get("type") == "response.done":
            ids.add(frame["response"]["id"])
        elif frame.get("type", "").endswith("input_audio_transcription.completed"):
            ids.add(frame["item_id"])
    return ids


@by_name
def test_records_add_up_to_the_usage_in_the_file(path):
    meter, records = play(frames(path))
    reported = [record.usage for record in records.values() if record.source == "reported"]
    total = sum(reported, Usage())
    for field, value in expected(path).items():
        assert getattr(total, field) == pytest.approx(value), field
    assert meter.usage == sum((record.usage for record in records.values()), Usage())


@by_name
def test_each_unit_is_recorded_once(path):
    meter, records = play(frames(path))
    assert sorted(record.unit_id for record in records.values()) == sorted(finals(path))
    assert meter.records == len(records)
    sources = [record.source for record in records.values() if record.source != "reported"]
    assert sources == UNREPORTED.get(path.stem, [])
    assert meter.responses_open == 0
    assert meter.close() == []


@by_name
def test_every_message_is_made_out(path):
    meter, _ = play(frames(path))
    assert (meter.opaque_sent, meter.opaque_received) == (0, 0)


@by_name
def test_a_repeat_of_any_event_changes_nothing(path):
    once = frames(path)
    # Pieces of a stream are not repeated: twice the audio is twice the audio.
    events = [pair for pair in once if not any(piece in pair[1].data[:80] for piece in PIECES)]
    at_once = [pair for pair in once for _ in range(2 if pair in events else 1)]
    for repeated in (at_once, once + events):
        meter, records = play(once)
        again, records_again = play(repeated)
        assert records_again == records
        assert (again.usage, again.records) == (meter.usage, meter.records)
        assert again.close() == []


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_sessions_count_the_same_however_their_units_interleave(data):
    path = data.draw(st.sampled_from(TRANSCRIPTS))
    once = [
        (direction, message)
        for direction, message in frames(path)
        if direction == "s2c" and message.length < 8192
    ]
    settled_first = [pair for pair in once if b'"session' in pair[1].data[:20]]
    rest = data.draw(st.permutations([pair for pair in once if pair not in settled_first]))
    meter, records = play(settled_first + list(rest))
    _, in_order = play(once)
    assert set(records) == set(in_order)
    for i, record in in_order.items():
        # Estimates follow what was seen before, so the order decides them.
        assert record.source != "reported" or records[i].usage == record.usage
    assert meter.usage == sum((record.usage for record in records.values()), Usage())
    assert meter.close() == []


def test_the_asr_model_in_force_names_each_transcription():
    path = next(path for path in TRANSCRIPTS if path.stem == "08-transcription-tokens-ga")
    _, records = play(frames(path))
    assert [record.model for record in records.values()] == ["gpt-4o-transcribe", "whisper-1"]
