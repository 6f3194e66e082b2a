"""One record a unit: whatever is repeated, missing, late or broken."""

import gc
import json
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meter_fakes import (
    Clock,
    TooLarge,
    Unparsed,
    Whole,
    created,
    done,
    event,
    new_meter,
    session_event,
    text_usage,
    transcribed,
)

from relay_app.meter import Meter, Usage, UsageRecord, record_id
from relay_app.meter.estimate import HANDLERS
from relay_app.meter.meter import _HANDLERS
from relay_app.meter.names import COUNTED

SECONDS = {"type": "duration", "seconds": 3}


def test_a_finished_response_becomes_a_record():
    clock = Clock(100.0)
    meter = new_meter(clock=clock)
    assert not meter.received(created())
    assert meter.responses_open == 1
    clock.now = 104.5
    (record,) = meter.received(done(usage=text_usage(10, 5)))
    assert record == UsageRecord(
        id=record_id("session-1", "resp_1"),
        session_id="session-1",
        kind="response",
        source="reported",
        status="completed",
        key="alice",
        upstream="openai",
        model="voice",
        upstream_model="gpt-realtime",
        unit_id="resp_1",
        started_at=100.0,
        ended_at=104.5,
        usage=Usage(input_text_tokens=10, output_text_tokens=5),
        usage_raw=json.dumps(text_usage(10, 5), separators=(",", ":")),
    )
    assert (meter.responses_open, meter.records) == (0, 1)
    assert meter.usage == record.usage


def test_a_response_may_end_without_having_been_created():
    (record,) = new_meter().received(done(usage=text_usage(1, 1)))
    assert record.started_at == record.ended_at


def test_parallel_responses_are_kept_apart():
    meter = new_meter()
    for response_id in ("a", "b", "c"):
        meter.received(created(response_id))
    (second,) = meter.received(done("b", text_usage(2, 2)))
    (first,) = meter.received(done("a", text_usage(1, 1)))
    assert (second.unit_id, first.unit_id) == ("b", "a")
    assert meter.responses_open == 1


def test_a_repeat_counts_once_unless_it_knows_more():
    meter = new_meter()
    (unknown,) = meter.received(done(usage=None, status="cancelled"))
    assert unknown.source == "unknown"
    assert not meter.received(done(usage=None))
    (reported,) = meter.received(done(usage=text_usage(3, 4)))
    assert (reported.id, reported.source) == (unknown.id, "reported")
    assert not meter.received(done(usage=text_usage(30, 40)))
    assert not meter.received(done(usage=None))
    assert (meter.records, meter.usage.tokens) == (1, 7)


def test_the_type_of_what_a_client_says_is_told():
    meter = new_meter()
    assert meter.sent(event({"type": "response.create"})) == "response.create"
    assert meter.sent(event({"type": "input_audio_buffer.append", "audio": "AAAA"})) == (
        "input_audio_buffer.append"
    )
    assert meter.sent(event({"type": "of.nobody"})) is None
    assert meter.sent(Whole(b"\0", text=False)) is None


def test_a_late_created_does_not_open_a_response_again():
    meter = new_meter()
    meter.received(done(usage=text_usage(1, 1)))
    meter.received(created())
    assert meter.responses_open == 0


def test_closing_drops_what_still_runs_and_only_once():
    clock = Clock(5.0)
    meter = new_meter(clock=clock)
    meter.received(created("a"))
    meter.received(created("b"))
    meter.received(done("a", text_usage(1, 1)))
    clock.now = 9.0
    (record,) = meter.close()
    assert (record.unit_id, record.kind, record.source, record.status) == (
        "b",
        "response",
        "unknown",
        "dropped",
    )
    assert (record.started_at, record.ended_at, record.usage) == (5.0, 9.0, Usage())
    assert meter.close() == []
    assert meter.responses_open == 0


def test_a_checkpoint_is_what_a_close_would_record_and_counts_nowhere():
    clock = Clock(5.0)
    meter = new_meter(clock=clock)
    meter.received(created("a"))
    meter.received(created("b"))
    meter.received(done("a", text_usage(1, 1)))
    meter.received(event({"type": "response.text.delta", "response_id": "b", "delta": "Hi"}))
    before = (meter.records, meter.usage)
    clock.now = 9.0
    (residual,) = meter.checkpoint()
    assert (meter.records, meter.usage) == before
    assert (residual.kind, residual.source, residual.status) == ("residual", "estimated", "dropped")
    assert (residual.started_at, residual.ended_at) == (5.0, 9.0)
    (dropped,) = meter.close()
    assert replace(residual, kind="response") == dropped
    assert residual.rank < dropped.rank
    assert meter.checkpoint() == []


def test_what_has_just_begun_is_checkpointed_once():
    meter = new_meter()
    assert not meter.begun
    meter.received(created("a"))
    assert meter.begun
    assert [record.unit_id for record in meter.checkpoint(begun=True)] == ["a"]
    assert not meter.begun
    meter.received(created("b"))
    assert [record.unit_id for record in meter.checkpoint(begun=True)] == ["b"]
    meter.received(created("c"))
    meter.received(done("c", text_usage(1, 1)))
    assert not meter.begun
    assert [record.unit_id for record in meter.checkpoint()] == ["a", "b"]


def awaiting():
    """A meter that waits for the transcription of item_1."""
    meter = new_meter()
    meter.received(session_event({"input_audio_transcription": {"model": "whisper-1"}}))
    meter.received(event({"type": "input_audio_buffer.committed", "item_id": "item_1"}))
    return meter


def test_a_failed_transcription_takes_the_place_of_its_checkpoint():
    failed = event(
        {"type": "conversation.item.input_audio_transcription.failed", "item_id": "item_1"}
    )
    meter = awaiting()
    (residual,) = meter.checkpoint()
    (record,) = meter.received(failed)
    assert (record.id, record.kind) == (residual.id, "transcription")
    assert (record.status, record.source) == ("failed", "unknown")
    assert not meter.received(failed)
    assert meter.close() == []


def test_what_has_no_name_is_not_checkpointed_because_it_may_end_under_another():
    meter = new_meter()
    meter.received(event({"type": "response.created", "event_id": "event_1"}))
    assert meter.checkpoint(begun=True) == meter.checkpoint() == []
    assert not meter.begun
    assert meter.responses_open == 1


def test_a_transcription_that_is_awaited_is_checkpointed():
    meter = awaiting()
    (residual,) = meter.checkpoint()
    assert (residual.kind, residual.model, residual.unit_id) == ("residual", "whisper-1", "item_1")
    (dropped,) = meter.close()
    assert (dropped.id, dropped.kind) == (residual.id, "transcription")


def test_a_response_whose_end_cannot_be_read_is_dropped_and_not_lost():
    meter = new_meter()
    meter.received(created())
    assert not meter.received(Whole(b'{"type":"response.done","response":{"id":"resp_1"'))
    assert meter.opaque_received == 1
    assert [record.unit_id for record in meter.close()] == ["resp_1"]


def test_an_item_with_the_id_of_a_running_response_is_not_undone_by_the_close():
    meter = new_meter()
    meter.received(created("same"))
    meter.received(transcribed("same", SECONDS))
    assert meter.close() == []
    assert meter.usage.transcription_seconds == 3


def test_usage_that_comes_after_the_close_replaces_the_dropped_record():
    meter = new_meter()
    meter.received(created())
    (dropped,) = meter.close()
    (record,) = meter.received(done(usage=text_usage(1, 1)))
    assert record.id == dropped.id
    assert record.source == "reported"
    assert meter.records == 1


def test_of_too_many_running_responses_the_oldest_is_dropped():
    meter = new_meter()
    for number in range(1024):
        assert not meter.received(created(f"r{number}"))
    (dropped,) = meter.received(created("one more"))
    assert (dropped.unit_id, dropped.status) == ("r0", "dropped")
    assert meter.responses_open == 1024


def test_the_last_128_ended_responses_are_remembered():
    meter = new_meter()
    for number in range(129):
        meter.received(done(f"r{number}", text_usage(1, 1)))
    assert not meter.received(done("r1", text_usage(1, 1)))
    assert not meter.received(done("r128", text_usage(1, 1)))
    (forgotten,) = meter.received(done("r0", text_usage(1, 1)))
    assert forgotten.id == record_id("session-1", "r0")


def test_a_session_does_not_grow_by_the_turns_it_has_had():
    meter = new_meter()
    meter.received(session_event({"audio": {"input": {"transcription": {"model": "whisper-1"}}}}))

    def speak(turns: range) -> None:
        for number in turns:
            item = f"item_{number}"
            meter.received(event({"type": "input_audio_buffer.committed", "item_id": item}))
            meter.received(created(f"resp_{number}"))
            meter.received(done(f"resp_{number}", text_usage(10, 5)))
            meter.received(transcribed(item, SECONDS))

    def memory() -> int:
        gc.collect()  # and with it what CPython keeps of freed tuples
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        speak(range(300))
        after_an_hour = memory()
        speak(range(300, 900))
        grown = memory() - after_an_hour
    finally:
        tracemalloc.stop()
    assert grown < 10_000


@pytest.mark.parametrize("bad", [None, 7, "", [], {}, True])
def test_a_response_without_an_id_is_metered_by_its_event(bad):
    meter = new_meter()
    frame = done(bad, text_usage(1, 2), frame={"event_id": "event_9"})
    (record,) = meter.received(frame)
    assert record.unit_id == "unnamed:event_9"
    assert not meter.received(frame)
    assert meter.usage.tokens == 3


def test_units_without_any_id_are_numbered():
    meter = new_meter()
    units = [meter.received(done(None, text_usage(1, 1)))[0].unit_id for _ in range(2)]
    assert units == ["unnamed:1", "unnamed:2"]


def test_an_unnamed_end_ends_what_began_unnamed():
    clock = Clock(1.0)
    meter = new_meter(clock=clock)
    meter.received(created(None, event_id="e1"))
    meter.received(created("named"))
    clock.now = 2.0
    (record,) = meter.received(done(None, text_usage(1, 1), frame={"event_id": "e2"}))
    assert (record.started_at, meter.responses_open) == (1.0, 1)


def test_the_id_on_the_frame_serves_where_the_response_has_none():
    frame = {"type": "response.done", "response_id": "r", "usage": text_usage(1, 1)}
    (record,) = new_meter().received(event(frame))
    assert (record.unit_id, record.source, record.status) == ("r", "reported", "incomplete")


def test_zeros_with_output_are_unknown_and_without_are_zero():
    meter = new_meter()
    zeros = text_usage(0, 0)
    assert meter.received(done("a", zeros))[0].source == "unknown"
    assert meter.received(done("b", zeros, status="completed", output=[]))[0].source == "unknown"
    assert meter.received(done("c", zeros, status="cancelled"))[0].source == "unknown"
    for status in ("failed", "cancelled"):
        (record,) = meter.received(done(status, zeros, status=status, output=[]))
        assert (record.source, record.usage) == ("reported", Usage())


TOTALS = {"input_tokens": 10, "output_tokens": 5}


@pytest.mark.parametrize("key", ["output_modalities", "modalities"])
def test_totals_alone_are_text_in_a_session_of_text(key):
    meter = new_meter()
    meter.received(session_event({key: ["text"]}))
    item = {"type": "message", "content": [{"type": "input_text", "text": "hi"}]}
    meter.received(event({"type": "conversation.item.added", "item": item}))
    assert meter.received(done(usage=TOTALS))[0].usage.input_text_tokens == 10


@pytest.mark.parametrize(
    "heard",
    [
        {"type": "input_audio_buffer.committed", "item_id": "i"},
        {"type": "response.output_audio.delta", "delta": "AAAA"},
        {"type": "conversation.item.added", "item": {"content": [{"type": "input_audio"}]}},
        {"type": "conversation.item.created", "item": {"content": [{"type": "input_image"}]}},
        {"type": "conversation.item.added", "item": {"content": [{"type": []}]}},
    ],
)
def test_totals_alone_are_unknown_once_more_than_text_was_seen(heard):
    meter = new_meter()
    meter.received(event(heard))
    (record,) = meter.received(done(usage=TOTALS, output_modalities=["text"]))
    assert (record.source, record.usage) == ("unknown", Usage())
    assert json.loads(record.usage_raw) == TOTALS


def test_totals_alone_are_unknown_where_the_response_may_speak():
    meter = new_meter()
    meter.received(session_event({"output_modalities": ["text"]}))
    (record,) = meter.received(done(usage=TOTALS, output_modalities=["audio"]))
    assert record.source == "unknown"


def test_the_upstream_names_its_own_model():
    meter = new_meter()
    meter.received(session_event({"model": "gpt-realtime-2025-08-28"}, "session.created"))
    (record,) = meter.received(done(usage=text_usage(1, 1)))
    assert (record.model, record.upstream_model) == ("voice", "gpt-realtime-2025-08-28")


GA_ASR = {"audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}}}
BETA_ASR = {"input_audio_transcription": {"model": "gpt-4o-transcribe"}}


@pytest.mark.parametrize(
    ("kind", "session"),
    [
        ("session.created", GA_ASR),
        ("session.updated", GA_ASR),
        ("session.updated", BETA_ASR),
        ("transcription_session.created", BETA_ASR),
        ("transcription_session.updated", BETA_ASR),
    ],
)
def test_a_transcription_carries_the_model_that_made_it(kind, session):
    meter = new_meter()
    meter.received(session_event(session, kind))
    (record,) = meter.received(transcribed(usage=SECONDS))
    assert (record.kind, record.status) == ("transcription", "completed")
    assert (record.model, record.upstream_model) == ("gpt-4o-transcribe", "gpt-4o-transcribe")


def test_a_transcription_carries_the_sessions_model_where_no_other_is_named():
    (record,) = new_meter().received(transcribed(usage=SECONDS))
    assert (record.model, record.upstream_model) == ("voice", "gpt-realtime")


def test_a_transcription_belongs_to_the_model_its_audio_was_committed_to():
    clock = Clock(1.0)
    meter = new_meter(clock=clock)
    meter.received(session_event(GA_ASR))
    meter.received(event({"type": "input_audio_buffer.committed", "item_id": "item_1"}))
    clock.now = 2.0
    off_and_on = {"audio": {"input": {"transcription": {"model": "whisper-1"}}}}
    meter.received(session_event({"audio": {"input": {"transcription": None}}}))
    meter.received(session_event(off_and_on))
    (record,) = meter.received(transcribed(usage=SECONDS))
    assert (record.model, record.started_at, record.ended_at) == ("gpt-4o-transcribe", 1.0, 2.0)


def test_a_transcription_is_completed_unless_it_says_otherwise():
    assert new_meter().received(transcribed(status=None))[0].status == "completed"
    assert new_meter().received(transcribed(status="failed"))[0].status == "failed"


def test_interim_transcriptions_are_not_units():
    meter = new_meter()
    assert not meter.received(transcribed(usage=SECONDS, status="in_progress"))
    (record,) = meter.received(transcribed(usage=SECONDS, status="completed"))
    assert record.usage.transcription_seconds == 3
    assert meter.records == 1


def test_a_later_final_replaces_one_that_knew_no_more():
    meter = new_meter()
    (first,) = meter.received(transcribed(usage=None))
    assert first.source == "unknown"
    assert not meter.received(transcribed(usage=None))
    (second,) = meter.received(transcribed(usage=SECONDS))
    (third,) = meter.received(transcribed(usage={"type": "duration", "seconds": 4}))
    assert not meter.received(transcribed(usage={"type": "duration", "seconds": 4}))
    assert not meter.received(transcribed(usage=None))
    assert first.id == second.id == third.id
    assert (meter.usage.transcription_seconds, meter.records) == (4, 1)


def test_a_failed_transcription_is_no_unit():
    failed = "conversation.item.input_audio_transcription.failed"
    assert not new_meter().received(event({"type": failed, "item_id": "i", "error": {}}))


def test_totals_of_a_transcription_are_audio_in_and_text_out():
    usage = {"prompt_tokens": 40, "completion_tokens": 9, "total_tokens": 49}
    (record,) = new_meter().received(
        event({"type": "transcription.done", "text": "Hi.", "usage": usage})
    )
    assert (record.kind, record.source) == ("transcription", "estimated")
    assert record.usage == Usage(input_audio_tokens=40, output_text_tokens=9)
    assert json.loads(record.usage_raw) == usage


OPAQUE = [
    Whole(b'{"type":"ping"}', text=False),
    Whole(b""),
    Whole(b"hello"),
    Whole(b"[]"),
    Whole(b'"response.done"'),
    Whole(b"{}"),
    Whole(b'{"type":null}'),
    Whole(b'{"type":["response.done"]}'),
    Whole(b'{"type":"no.such.event"}'),
    Whole(b'{"type":"response.done","response":{'),
    Whole(b'{"type":"response.done","x":"\xff}'),
    Whole(b'{"type":"response.\xff"}'),
    Whole(b'{"type":"response.done","response":{"id":"r"},"x":"\xff' + b"A" * 1_048_576 + b'"}'),
    Whole(b'{"type":"response.done","x":' + b"9" * 5000 + b"}"),
    Whole(b'{"type":"\\ud800"}'),
    Whole(b"[" * 100_000),
    Whole(b'{"type":"response.done","response":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    TooLarge(b'{"x":{},"type":"response.create"}'),
    Unparsed(b'{"type":"no.such.event","x":"' + b"A" * 9000),
]


@pytest.mark.parametrize("message", OPAQUE, ids=range(len(OPAQUE)))
def test_what_cannot_be_made_out_is_opaque(message):
    meter = new_meter()
    assert not meter.received(message)
    meter.sent(message)
    assert (meter.opaque_received, meter.opaque_sent) == (1, 1)


def test_what_a_response_cost_is_read_beside_bytes_that_are_no_utf8():
    meter = new_meter()
    whole = done(usage=text_usage(3, 5)).data
    cut = whole.replace(b', "response"', b', "note": "caf\xc3", "response"')
    (record,) = meter.received(Whole(cut))
    assert (record.unit_id, record.source) == ("resp_1", "reported")
    assert record.usage == Usage(input_text_tokens=3, output_text_tokens=5)
    assert meter.opaque_received == 0


def test_truncated_json_of_a_known_type_is_opaque_without_a_parse():
    meter = new_meter()
    long = b"A" * 9000
    meter.received(Unparsed(b'{"type":"response.output_text.delta","delta":"' + long))
    meter.received(Unparsed(b'{"type":"response.audio.delta","delta":"AA'))
    meter.sent(Unparsed(b'{"type":"response.create","response":{"instructions":"' + long))
    assert (meter.opaque_received, meter.opaque_sent) == (2, 1)


def test_audio_is_metered_from_its_ends_alone():
    meter = new_meter()
    audio = b"A" * 16_000
    for name in (b"response.output_audio.delta", b"response.audio.delta"):
        delta = b'{"type":"' + name + b'","response_id":"r","delta":"' + audio + b'"}'
        assert meter.received(Unparsed(delta)) == ()
    meter.sent(Unparsed(b'{"type":"input_audio_buffer.append","audio":"' + audio + b'"}'))
    assert (meter.opaque_received, meter.opaque_sent) == (0, 0)


def test_only_counted_types_are_parsed():
    meter = new_meter()
    meter.received(Unparsed(b'{"type":"response.output_item.done","item":{}}'))
    meter.received(Unparsed(b'{"event_id":"e","type":"rate_limits.updated","rate_limits":[]}'))
    meter.sent(Unparsed(b'{"type":"input_audio_buffer.commit"}'))
    assert (meter.opaque_received, meter.opaque_sent) == (0, 0)


def test_a_client_message_too_large_to_keep_is_known_by_its_head():
    meter = new_meter()
    append = b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 300_000 + b'"}'
    meter.sent(TooLarge(append))
    assert meter.opaque_sent == 0


def test_what_a_client_says_makes_no_record():
    meter = new_meter()
    meter.sent(done(usage=text_usage(1, 1)))
    assert (meter.records, meter.opaque_sent) == (0, 1)


def test_a_type_behind_a_nested_value_is_found_by_a_parse():
    frame = b'{"response":{"id":"r","usage":null},"type":"response.done"}'
    (record,) = new_meter().received(Whole(frame))
    assert record.unit_id == "r"


def test_hostile_names_are_kept_apart_and_can_be_stored():
    meter = new_meter(model="\ud800m", upstream_model="u\0")
    meter.received(session_event({"audio": {"input": {"transcription": {"model": "\udfff"}}}}))
    ids = ["\ud800", "\udfff", "a\0", "x" * 300, "x" * 301]
    records = [meter.received(done(i, {"note": "\ud83d"}))[0] for i in ids]
    records += meter.received(transcribed("\ud801", SECONDS))
    assert len({record.id for record in records}) == 6
    for record in records:
        line = json.dumps(record.as_dict(), ensure_ascii=False)
        assert "\0" not in line
        assert line.encode("utf-8")
        assert len(record.unit_id) <= 256


def test_every_counted_type_does_something():
    assert set(_HANDLERS) | set(HANDLERS) == COUNTED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("id", "response", "usage", "status", "output", "model", "item", "content"),
                    *("audio", "input", "transcription", "modalities", "type", "session"),
                ]
            ),
            inner,
        )
    ),
    max_leaves=8,
)
BODIES = st.dictionaries(
    st.sampled_from(
        ["response", "usage", "item_id", "event_id", "session", "item", "status", "transcript"]
    ),
    JSON,
)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(sorted(COUNTED)), BODIES), max_size=4))
def test_nothing_raises_and_nothing_is_lost_whatever_the_events_say(events):
    meter = new_meter()
    records = {}
    for kind, body in events:
        for record in meter.received(event({"type": kind} | body)):
            records[record.id] = record
    records |= {record.id: record for record in meter.close()}
    assert meter.opaque_received == 0
    assert meter.records == len(records)
    assert meter.usage.tokens == sum(record.usage.tokens for record in records.values())
    ended = sum(kind == "response.done" for kind, _ in events)
    assert bool(records) or not ended
    for record in records.values():
        line = json.dumps(record.as_dict(), ensure_ascii=False).encode("utf-8")
        assert UsageRecord.from_dict(json.loads(line)) == record


@settings(deadline=None)
@given(st.binary(max_size=700), st.booleans())
def test_any_bytes_are_taken_in_either_direction(data, text):
    meter: Meter = new_meter()
    meter.sent(Whole(data, text))
    meter.received(Whole(data, text))
