"""Every unit has an estimate, near to what was reported where it was, and used where it was not."""

import base64
import copy
import json

import estimate_table
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meter_fakes import (
    TRANSCRIPTS,
    Clock,
    Unparsed,
    Whole,
    created,
    done,
    event,
    frames,
    new_meter,
    session_event,
    text_usage,
    transcribed,
)

from relay_app.meter import Usage

ROWS = estimate_table.rows()
CALL = {"id": "call_1", "type": "function_call", "name": "say", "arguments": "Hello there!"}
SCATTER_TOKENS = 4
"""A spoken reply has 5 to 12 tokens of framing in the recordings, and 9 in an estimate."""

by_name = pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
NO_USAGE = {
    "null": lambda usage: None,
    "empty": lambda usage: {},
    "zeros": lambda usage: text_usage(0, 0),
    "missing": lambda usage: ...,
}


def audio(milliseconds, bytes_per_ms=48):
    return base64.b64encode(bytes(int(milliseconds * bytes_per_ms))).decode()


def append(milliseconds, bytes_per_ms=48):
    return event({"type": "input_audio_buffer.append", "audio": audio(milliseconds, bytes_per_ms)})


def spoken(milliseconds, response_id="resp_1", bytes_per_ms=48):
    values = {"type": "response.output_audio.delta", "response_id": response_id}
    return event(values | {"delta": audio(milliseconds, bytes_per_ms)})


def text_delta(text, response_id="resp_1", kind="response.output_text.delta"):
    return event({"type": kind, "response_id": response_id, "delta": text})


def committed(item_id="item_1"):
    return event({"type": "input_audio_buffer.committed", "item_id": item_id})


def item_event(item, kind="conversation.item.added"):
    return event({"type": kind, "item": item})


def text_item(text, item_id="item_1", **more):
    content = [{"type": "input_text", "text": text}]
    return {"id": item_id, "type": "message", "role": "user", "content": content} | more


def create_item(item):
    return event({"type": "conversation.item.create", "item": item})


def reply(text, item_id="reply_1"):
    part = {"type": "output_text", "text": text}
    return [{"id": item_id, "type": "message", "role": "assistant", "content": [part]}]


def heard(*messages):
    """A meter that received ``messages``."""
    meter = new_meter()
    for message in messages:
        meter.received(message)
    return meter


def only(records):
    (record,) = records
    return record


def without_usage(path, change):
    """The messages of a transcript, the usage of each unit changed to say nothing."""
    for line in path.read_text(encoding="utf-8").splitlines():
        line = json.loads(line)
        frame = copy.deepcopy(line.get("frame"))
        if frame is None:
            continue
        for holder in (frame, frame.get("response")):
            if isinstance(holder, dict) and holder.get("usage"):
                changed = change(holder["usage"])
                if changed is ...:
                    del holder["usage"]
                else:
                    holder["usage"] = changed
        yield line["dir"], event(frame)


def play(messages, meter=None):
    meter, records = meter or new_meter(), {}
    for direction, message in messages:
        if direction == "c2s":
            meter.sent(message)
        else:
            records |= {record.unit_id: record for record in meter.received(message)}
    return meter, records


# -- against the recordings ------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_output_is_estimated_within_a_tenth(row):
    for kind, scatter in (("output_audio_tokens", 0), ("output_text_tokens", SCATTER_TOKENS)):
        reported = row.reported[kind]
        assert abs(row.estimated[kind] - reported) <= max(0.1 * reported, scatter), kind


def test_output_is_estimated_within_a_hundredth_over_all_recordings():
    for kind in ("output_audio_tokens", "output_text_tokens"):
        reported = sum(row.reported[kind] for row in ROWS)
        assert sum(row.estimated[kind] for row in ROWS) == pytest.approx(reported, rel=0.015)


@pytest.mark.parametrize("change", NO_USAGE.values(), ids=NO_USAGE.keys())
@by_name
def test_a_unit_without_usage_is_estimated(path, change):
    _, reported = play(frames(path))
    meter, records = play(without_usage(path, change))
    assert set(records) == set(reported)
    for unit_id, record in records.items():
        # What failed before it said anything, and silence, leave nothing to estimate.
        nothing = record.status == "failed" or reported[unit_id].usage == Usage()
        allowed = {"unknown", "reported"} if nothing else {"estimated"}
        assert record.source in allowed, record
        if record.source == "estimated":
            assert record.usage
            assert record.usage.cached_text_tokens == 0
    assert meter.usage == sum((record.usage for record in records.values()), Usage())


@by_name
def test_a_response_cut_off_anywhere_is_estimated_and_dropped(path):
    messages = frames(path)
    running = None
    for end, (direction, message) in enumerate(messages):
        kind = json.loads(message.data)["type"] if direction == "s2c" else ""
        if kind == "response.created":
            running = json.loads(message.data)["response"]["id"]
        if kind == "response.done":
            running = None
        if running is None or end % 3:
            continue
        meter, _ = play(messages[: end + 1])
        dropped = {record.unit_id: record for record in meter.close()}
        assert (dropped[running].status, dropped[running].source) == ("dropped", "estimated")
        assert dropped[running].usage.input_text_tokens > 0


@by_name
def test_what_is_recorded_as_estimated_is_what_is_recorded_beside_a_report(path):
    _, records = play(frames(path))
    for record in records.values():
        if record.source == "estimated":
            kinds = {k: getattr(record.usage, k) for k in Usage.__dataclass_fields__}
            assert {k: v for k, v in kinds.items() if v} == record.estimate
        elif record.usage:
            assert record.estimate


# -- output ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formats", "bytes_per_ms"),
    [
        ({"audio": {"output": {"format": {"type": "audio/pcm", "rate": 24000}}}}, 48),
        ({"audio": {"output": {"format": {"type": "audio/pcm", "rate": 8000}}}}, 16),
        ({"audio": {"output": {"format": {"type": "audio/pcmu"}}}}, 8),
        ({"audio": {"output": {"format": {"type": "audio/pcma"}}}}, 8),
        ({"output_audio_format": "pcm16"}, 48),
        ({"output_audio_format": "g711_ulaw"}, 8),
        ({"output_audio_format": "g711_alaw"}, 8),
        ({"output_audio_format": "opus"}, 48),
        ({}, 48),
    ],
)
@pytest.mark.parametrize("where", ["session", "response"])
def test_audio_out_is_a_token_each_50_ms_of_its_format(formats, bytes_per_ms, where):
    meter = new_meter()
    meter.received(session_event(formats if where == "session" else {"output_audio_format": "x"}))
    response = {"id": "resp_1"} | (formats if where == "response" else {})
    meter.received(event({"type": "response.created", "response": response}))
    for _ in range(4):
        meter.received(spoken(260, bytes_per_ms=bytes_per_ms))
    assert only(meter.close()).usage.output_audio_tokens == 21


def test_a_response_without_an_end_is_counted_by_its_deltas():
    meter = heard(created(), *[text_delta(word) for word in ("It", " is", " foggy", ".")])
    record = only(meter.close())
    assert (record.status, record.source) == ("dropped", "estimated")
    assert record.usage == Usage(output_text_tokens=4 + 2)


def test_few_large_deltas_are_counted_by_their_length():
    meter = heard(created(), text_delta("x" * 400, kind="response.audio_transcript.delta"))
    assert only(meter.close()).usage.output_text_tokens == 100 + 9


def test_what_runs_is_estimated_all_the_while_as_it_would_be_if_it_were_dropped():
    meter = heard(item_event(text_item("What is the weather?")), created("a"))
    assert meter.running() == Usage(input_text_tokens=5 + 4)
    kind = "response.output_audio_transcript.delta"
    for message in (spoken(120, "a"), text_delta("It", "a", kind), created("b"), spoken(500, "b")):
        meter.received(message)
    before = meter.running()
    records = meter.close()
    assert before == sum((record.usage for record in records), Usage())
    assert before.output_audio_tokens == 3 + 10
    assert meter.running() == Usage()


def test_what_a_response_must_read_is_known_when_it_is_asked_for():
    meter = heard(item_event(text_item("What is the weather?")))
    meter.sent(event({"type": "response.create"}))
    assert meter.asked_input() == Usage(input_text_tokens=5 + 4)
    own = {"conversation": "none", "input": [text_item("Hello")], "metadata": {"a": "b"}}
    meter.sent(event({"type": "response.create", "response": own}))
    assert meter.asked_input() == Usage(input_text_tokens=1 + 4)


def test_a_response_that_was_kept_back_is_not_taken_for_the_next_one():
    meter = heard(item_event(text_item("What is the weather?")))
    own = {"input": [text_item("Hello")]}
    meter.sent(event({"type": "response.create", "response": own}))
    meter.withheld()
    meter.received(created("a"))
    assert meter.running() == Usage(input_text_tokens=5 + 4)


def test_text_that_is_repeated_at_the_end_is_counted_once():
    meter = heard(created(), text_delta("Hello"), text_delta(" there!"))
    record = only(meter.received(done(output=reply("Hello there!"))))
    assert record.usage == Usage(output_text_tokens=3 + 2)


@pytest.mark.parametrize(
    ("usage", "kind", "output", "tokens"),
    [
        (text_usage(9, 5), "response.output_text.delta", reply("Hello there!"), 12 + 2),
        (None, "response.output_text.delta", reply("Hello there!"), 3 + 2),
        (text_usage(9, 5), "response.function_call_arguments.delta", [CALL], 1 + 3 + 8),
    ],
    ids=["text that is reported", "text that is not", "a call, whose name is in no delta"],
)
def test_text_is_tokenised_where_the_deltas_do_not_serve(usage, kind, output, tokens):
    meter = heard(created(), *[text_delta(letter, kind=kind) for letter in "Hello there!"])
    record = only(meter.received(done(usage=usage, output=output)))
    assert record.estimate["output_text_tokens"] == tokens


def test_a_report_without_deltas_is_held_against_the_text():
    meter = heard(created())
    record = only(meter.received(done(usage=text_usage(9, 5), output=reply("Hello there!"))))
    assert record.estimate["output_text_tokens"] == 3 + 2


def test_parallel_responses_keep_their_deltas_apart():
    meter = heard(created("a"), created("b"), spoken(500, "a"), spoken(1000, "b"))
    meter.received(spoken(500, "a"))
    meter.received(spoken(5000, "c"))
    meter.received(text_delta("Hi", "b", "response.output_audio_transcript.delta"))
    records = {record.unit_id: record for record in meter.close()}
    assert records["a"].usage.output_audio_tokens == 20
    assert records["b"].usage.output_audio_tokens == 20
    assert records["b"].usage.output_text_tokens == 1 + 9


def test_a_delta_that_names_no_response_belongs_to_the_only_one():
    nameless = event({"type": "response.audio.delta", "delta": audio(100)})
    meter = heard(created(None), nameless)
    assert only(meter.close()).usage.output_audio_tokens == 2
    meter = heard(created("a"), created("b"), nameless)
    assert [record.usage for record in meter.close()] == [Usage(), Usage()]


def test_a_response_that_failed_before_it_said_anything_stays_unknown():
    meter = heard(session_event({"instructions": "Be brief."}), created())
    record = only(meter.received(done(status="failed", output=[])))
    assert (record.source, record.usage) == ("unknown", Usage())
    assert record.estimate == {"input_text_tokens": 3}
    meter = heard(created(), spoken(1000))
    record = only(meter.received(done(status="failed", output=[])))
    assert (record.source, record.usage.output_audio_tokens) == ("estimated", 20)


def test_a_report_that_comes_after_a_drop_replaces_the_estimate_and_keeps_it():
    meter = heard(created(), spoken(1000))
    dropped = only(meter.close())
    record = only(meter.received(done(usage=text_usage(7, 3))))
    assert (record.source, record.usage.tokens) == ("reported", 10)
    assert record.estimate == dropped.estimate
    assert meter.usage == record.usage


# -- totals without a split ------------------------------------------------------------------


def test_totals_alone_are_split_as_the_estimate_is_and_keep_their_sum():
    meter = heard(session_event({"instructions": "Be brief."}), created(), spoken(1000))
    meter.sent(append(1000))
    meter.received(committed())
    meter.received(created("resp_2"))
    meter.received(spoken(1000, "resp_2"))
    usage = {"input_tokens": 100, "output_tokens": 58}
    record = only(meter.received(done("resp_2", usage)))
    assert record.source == "estimated"
    assert record.estimate == {
        "input_text_tokens": 11,
        "input_audio_tokens": 10,
        "output_text_tokens": 9,
        "output_audio_tokens": 20,
    }
    assert record.usage == Usage(
        input_text_tokens=53,
        input_audio_tokens=47,
        output_text_tokens=18,
        output_audio_tokens=40,
    )
    assert json.loads(record.usage_raw) == usage


def test_a_split_of_one_direction_stands_and_the_other_is_estimated():
    usage = {
        "input_tokens": 90,
        "input_token_details": {"text_tokens": 80, "audio_tokens": 10, "cached_tokens": 64},
    }
    record = only(heard(created(), spoken(500)).received(done(usage=usage)))
    assert record.source == "estimated"
    assert (record.usage.input_text_tokens, record.usage.input_audio_tokens) == (80, 10)
    assert record.usage.cached_text_tokens == 64
    assert record.usage.output_audio_tokens == 10


def test_a_total_with_nothing_to_be_split_by_stays_unknown():
    usage = {"input_tokens": 90, "output_tokens": 5}
    record = only(heard(created(), committed(), spoken(500)).received(done(usage=usage)))
    assert (record.source, record.usage) == ("unknown", Usage())
    assert json.loads(record.usage_raw) == usage


# -- context ---------------------------------------------------------------------------------


def read_by_next(meter, response_id="next", **response):
    meter.received(event({"type": "response.created", "response": {"id": response_id} | response}))
    record = next(r for r in meter.close() if r.unit_id == response_id)
    usage = record.usage
    return usage.input_text_tokens, usage.input_audio_tokens, usage.input_image_tokens


def test_a_response_reads_instructions_tools_and_items():
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    meter = heard(
        session_event({"instructions": "Reply in a few words.", "tools": [tool]}),
        item_event(text_item("Say a short greeting.")),
        item_event(
            {"id": "call", "type": "function_call", "name": "get_weather", "arguments": "{}"}
        ),
        item_event({"id": "out", "type": "function_call_output", "output": "foggy"}),
    )
    text, audio_tokens, _ = read_by_next(meter)
    alone = read_by_next(heard(session_event({"tools": [tool]})))[0]
    assert 10 < alone < 30
    assert text == 6 + alone + (5 + 4) + (3 + 4) + (2 + 4)
    assert audio_tokens == 0


def test_what_the_server_repeats_is_not_counted_twice():
    meter = new_meter()
    meter.sent(create_item(text_item("Say a short greeting.", item_id=None)))
    assert read_by_next(meter) == (9, 0, 0)
    meter.received(item_event(text_item("Say a short greeting.")))
    meter.received(item_event(text_item("Say a short greeting."), "conversation.item.created"))
    assert read_by_next(meter, "again") == (9, 0, 0)
    meter.sent(create_item(text_item("Say a short greeting.")))
    assert read_by_next(meter, "once more") == (9, 0, 0)


def test_a_session_of_the_server_is_believed_and_not_added_to_the_clients():
    meter = new_meter()
    meter.sent(event({"type": "session.update", "session": {"instructions": "Be brief."}}))
    assert read_by_next(meter) == (3, 0, 0)
    meter.received(session_event({"instructions": "Reply in a few words."}))
    assert read_by_next(meter, "two") == (6, 0, 0)
    meter.sent(event({"type": "session.update", "session": {"instructions": "Be very brief."}}))
    assert read_by_next(meter, "three") == (6, 0, 0)
    meter.received(session_event({"tools": []}))
    assert read_by_next(meter, "four") == (6, 0, 0)
    meter.received(session_event({"instructions": ""}))
    assert read_by_next(meter, "five") == (0, 0, 0)


def test_user_audio_is_the_span_of_speech_where_the_server_heard_it():
    meter = new_meter()
    meter.sent(append(3000))
    start = {"type": "input_audio_buffer.speech_started", "item_id": "i", "audio_start_ms": 100}
    stop = {"type": "input_audio_buffer.speech_stopped", "item_id": "i", "audio_end_ms": 2768}
    for message in (event(start), event(stop), committed("i")):
        meter.received(message)
    item = {"id": "i", "role": "user", "content": [{"type": "input_audio", "transcript": None}]}
    meter.received(item_event(item))
    assert read_by_next(meter) == (8, 26, 0)


def test_user_audio_is_what_was_buffered_where_nobody_listens_for_speech():
    meter = heard(session_event({"input_audio_format": "g711_ulaw"}))
    for _ in range(10):
        meter.sent(append(100, 8))
    meter.received(event({"type": "input_audio_buffer.cleared"}))
    for _ in range(12):
        meter.sent(append(100, 8))
    meter.received(committed("one"))
    meter.sent(append(350, 8))
    meter.received(committed("two"))
    assert read_by_next(meter) == (8 + 4, 12 + 3, 0)


def test_audio_of_an_item_is_known_from_the_client_that_created_it():
    meter = heard(item_event(text_item("Hi", "first")))
    content = [{"type": "input_audio", "audio": audio(1000)}]
    item = {"type": "message", "role": "user", "content": content}
    meter.sent(create_item(item))
    repeated = {"type": "message", "role": "user", "content": [{"type": "input_audio"}]}
    meter.received(item_event(repeated | {"id": "second"}))
    assert read_by_next(meter) == (5 + 8, 10, 0)


def test_a_picture_is_a_rough_constant():
    content = [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]
    meter = heard(item_event({"id": "i", "role": "user", "content": content}))
    assert read_by_next(meter) == (4, 0, 323)


def test_what_the_provider_reported_corrects_what_was_added_up():
    meter = heard(session_event({"instructions": "Be brief."}), created("one"))
    meter.received(item_event(text_item("Say a short greeting.", "while it ran")))
    meter.received(done("one", text_usage(1000, 50), output=reply("Hello there!")))
    assert read_by_next(meter) == (1000 + 9 + 50 + 4, 0, 0)
    meter.received(event({"type": "conversation.item.deleted", "item_id": "while it ran"}))
    assert read_by_next(meter, "later") == (1000 + 50 + 4, 0, 0)


def test_zeros_reported_for_a_failure_correct_nothing():
    meter = heard(session_event({"instructions": "Be brief."}), created("one"))
    meter.received(done("one", text_usage(0, 0), status="failed", output=[]))
    assert read_by_next(meter) == (3, 0, 0)


def test_what_was_truncated_is_not_read_again():
    meter = heard(created("one"), spoken(2000, "one"))
    part = {"type": "output_audio", "transcript": "Hello there!"}
    meter.received(done("one", output=[{"id": "said", "type": "message", "content": [part]}]))
    truncated = {"type": "conversation.item.truncated", "item_id": "said", "audio_end_ms": 500}
    meter.received(event(truncated))
    assert read_by_next(meter) == (4, 10, 0)


def test_an_out_of_band_response_reads_what_it_was_given_and_leaves_nothing_behind():
    meter = heard(session_event({"instructions": "Be brief."}), item_event(text_item("Hi there")))
    asked = {
        "conversation": "none",
        "metadata": {"topic": "x"},
        "instructions": "Reply in a few words.",
        "input": [
            text_item("How do I reset my router?", None),
            {"type": "item_reference", "id": "item_1"},
        ],
    }
    meter.sent(event({"type": "response.create", "response": asked | {"metadata": {"no": "t"}}}))
    meter.sent(event({"type": "response.create", "response": asked}))
    begun = {"id": "oob", "conversation_id": None, "metadata": {"topic": "x"}}
    meter.received(event({"type": "response.created", "response": begun}))
    meter.received(created("main"))
    record = only(meter.received(done("oob", output=reply("Other"), conversation_id=None)))
    assert record.usage == Usage(input_text_tokens=6 + (7 + 4) + (2 + 4), output_text_tokens=3)
    assert only(meter.close()).usage == Usage(input_text_tokens=3 + 6)


def test_instructions_of_one_response_take_the_place_of_the_sessions():
    meter = heard(session_event({"instructions": "Be brief."}), item_event(text_item("Hi there")))
    asked = {"instructions": "Reply in a few words."}
    meter.sent(event({"type": "response.create", "response": asked}))
    assert read_by_next(meter) == (6 + 6, 0, 0)
    assert read_by_next(meter, "later") == (3 + 6 + 0, 0, 0)


def test_a_context_has_a_largest_size():
    words = "word " * 3000
    items = [item_event(text_item(words, f"item_{n}")) for n in range(100)]
    assert read_by_next(heard(*items)) == (128_000, 0, 0)


def test_items_beyond_those_remembered_are_still_added_up():
    items = [item_event(text_item("Hi", f"item_{n}")) for n in range(1500)]
    assert read_by_next(heard(*items)) == (1500 * 5, 0, 0)


# -- transcriptions --------------------------------------------------------------------------

TOKENS = {"audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}}}
SECONDS = {"audio": {"input": {"transcription": {"model": "whisper-1"}}}}
WHOLE = {"audio": {"input": {"transcription": {"model": "gpt-realtime-whisper"}}}}
OFF = {"audio": {"input": {"transcription": None}}}


def said(session, milliseconds=2700, **clocks):
    meter = new_meter(**clocks)
    meter.received(session_event(session))
    meter.sent(append(milliseconds))
    meter.received(committed())
    return meter


@pytest.mark.parametrize(
    ("session", "usage"),
    [
        (TOKENS, Usage(input_audio_tokens=27, output_text_tokens=2 + 2)),
        (SECONDS, Usage(transcription_seconds=2.7)),
        (WHOLE, Usage(transcription_seconds=3.0)),
    ],
)
def test_a_transcription_without_usage_is_estimated_as_its_model_is_billed(session, usage):
    meter = said(session)
    record = only(meter.received(transcribed()))
    assert (record.source, record.usage) == ("estimated", usage)
    assert meter.close() == []


def test_a_transcription_that_never_came_is_dropped_and_estimated():
    clock = Clock(1.0)
    meter = said(SECONDS, clock=clock)
    clock.now = 2.0
    meter.received(session_event(OFF))
    record = only(meter.close())
    assert (record.kind, record.status, record.source) == ("transcription", "dropped", "estimated")
    assert (record.model, record.unit_id) == ("whisper-1", "item_1")
    assert (record.started_at, record.ended_at) == (1.0, 2.0)
    assert record.usage == Usage(transcription_seconds=2.7)
    assert meter.close() == []
    late = only(meter.received(transcribed(usage={"type": "duration", "seconds": 3})))
    assert (late.id, late.source, meter.records) == (record.id, "reported", 1)


def test_nothing_is_awaited_of_what_failed_or_was_never_ordered():
    failed = "conversation.item.input_audio_transcription.failed"
    meter = said(SECONDS)
    meter.received(event({"type": failed, "item_id": "item_1", "error": {}}))
    assert meter.close() == []
    assert said(OFF).close() == []
    assert said({}).close() == []


def test_a_transcription_is_not_forgotten_for_the_many_that_have_ended_since():
    meter = said(SECONDS)
    for number in range(300):
        meter.received(committed(f"later_{number}"))
        meter.received(transcribed(f"later_{number}"))
    (dropped,) = meter.close()
    assert (dropped.unit_id, dropped.usage) == ("item_1", Usage(transcription_seconds=2.7))


def test_a_transcription_is_waited_for_as_long_as_it_may_still_come():
    timer = Clock(1.0)
    meter = said(SECONDS, timer=timer)
    assert (meter.responses_open, meter.units_open) == (0, 1)
    meter.received(created())
    assert meter.units_open == 2
    timer.now += 60.0
    assert meter.units_open == 1
    assert len(meter.close()) == 2

    meter = said(SECONDS)
    meter.received(transcribed())
    assert meter.units_open == 0
    assert said(OFF).units_open == 0


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0])
def test_a_clock_that_is_put_right_makes_no_transcription_late(jump):
    clock, timer = Clock(), Clock(1.0)
    meter = said(SECONDS, clock=clock, timer=timer)
    clock.now += jump
    assert meter.units_open == 1
    timer.now += 60.0
    assert meter.units_open == 0


def test_what_was_asked_for_is_expected_until_it_begins_or_might_have_been_refused():
    clock = Clock(1.0)
    meter = said(OFF, clock=clock)
    assert not meter.expecting
    meter.sent(event({"type": "input_audio_buffer.commit"}))
    meter.sent(event({"type": "input_audio_buffer.commit"}))
    meter.received(committed("item_1"))
    assert meter.expecting
    meter.received(committed("item_2"))
    assert not meter.expecting
    meter.received(committed("by the server itself"))
    meter.sent(event({"type": "input_audio_buffer.commit"}))
    assert meter.expecting
    clock.now += 2.0
    assert not meter.expecting
    meter.sent(event({"type": "response.create"}))
    assert meter.expecting
    meter.received(created())
    meter.received(committed("item_3"))
    assert not meter.expecting


def test_silence_costs_nothing_at_whole_seconds():
    record = only(said(WHOLE).received(transcribed(transcript="")))
    assert (record.source, record.estimate) == ("unknown", None)


def test_a_transcription_of_audio_that_nobody_saw_is_unknown():
    meter = heard(session_event(SECONDS), committed())
    record = only(meter.close())
    assert (record.status, record.source) == ("dropped", "unknown")


# -- cost and limits -------------------------------------------------------------------------


def test_a_spoken_turn_parses_few_messages():
    """At most five of them for estimates: the others were parsed before there were any."""
    before = {
        "session.created",
        "session.updated",
        "input_audio_buffer.committed",
        "response.created",
        "response.done",
        "conversation.item.input_audio_transcription.completed",
    }
    path = next(path for path in TRANSCRIPTS if path.stem == "02-audio-turn-ga")
    parsed = []

    class Watched(Whole):
        def payload(self):
            parsed.append(json.loads(self.data)["type"])
            return super().payload()

    meter = new_meter()
    for direction, message in frames(path):
        (meter.sent if direction == "c2s" else meter.received)(Watched(message.data))
    extra = [kind for kind in parsed if kind not in before and kind != "session.update"]
    assert len(extra) <= 5, extra


def test_audio_and_deltas_are_never_parsed():
    meter = heard(created())
    meter.sent(Unparsed(append(500).data))
    meter.received(Unparsed(spoken(500).data))
    meter.received(Unparsed(text_delta("Hi").data))
    assert only(meter.close()).usage.output_audio_tokens == 10


def test_a_large_client_event_is_not_parsed():
    meter = heard(session_event({}))
    item = text_item("x" * 300_000)
    meter.sent(Unparsed(create_item(item).data))
    assert meter.opaque_sent == 0


def test_text_that_was_not_looked_up_is_counted():
    meter = heard(session_event({"instructions": "a" * 100_000}))
    assert meter.inexact == 1
    assert 0 < read_by_next(meter)[0] < 100_000


ORIGINALS = [
    (direction, json.loads(message.data))
    for path in TRANSCRIPTS
    for direction, message in frames(path)
    if message.length < 2048
]
HOSTILE = st.sampled_from(
    [
        *(None, True, False, -1, 0, 1.5, 3, 2**53, 2**70, float("nan"), float("inf"), "", "x"),
        *([], {}, [[]], [None], [{}], {"type": "audio/pcm", "rate": 0}, {"type": "audio/pcm"}),
        *("\ud800", "a" * 2000, "audio/pcm", "gpt-4o-transcribe", "none", "in_progress"),
        [{"type": "input_audio", "audio": "AAAA" * 400}, {"type": "input_image"}],
        [{"type": "message", "content": [{"type": "output_text", "text": "Hi there"}]}],
        [{"type": "item_reference", "id": "x"}],
    ]
)


def paths(value, before=()):
    """Every place within a JSON value."""
    pairs = value.items() if isinstance(value, dict) else ()
    pairs = enumerate(value) if isinstance(value, list) else pairs
    for key, inner in pairs:
        yield (*before, key)
        yield from paths(inner, (*before, key))


@st.composite
def altered(draw):
    """A recorded event, with something else in up to two of its places."""
    direction, original = draw(st.sampled_from(ORIGINALS))
    changed = copy.deepcopy(original)
    for _ in range(draw(st.integers(0, 2))):
        places = [path for path in paths(changed) if path != ("type",)]
        if not places:
            break
        *outer, last = draw(st.sampled_from(places))
        inner = changed
        for key in outer:
            inner = inner[key]
        inner[last] = copy.deepcopy(draw(HOSTILE))
    return direction, changed


@settings(deadline=None, max_examples=150)
@given(st.lists(altered(), max_size=20))
def test_whatever_is_said_estimates_are_whole_bounded_and_never_negative(messages):
    meter, records = new_meter(), {}
    for direction, values in messages:
        message = event(values)
        if direction == "c2s":
            meter.sent(message)
        else:
            records |= {record.id: record for record in meter.received(message)}
    records |= {record.id: record for record in meter.close()}
    for record in records.values():
        for value in [*(record.estimate or {}).values(), record.usage.tokens]:
            assert 0 <= value < 2**63
        assert record.estimate is None or all(record.estimate.values())
        assert json.dumps(record.as_dict())
        if record.source == "unknown":
            assert not record.usage
    assert meter.usage.tokens == sum(record.usage.tokens for record in records.values())
    assert not meter._estimator._open
