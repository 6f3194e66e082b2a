"""Every shape of usage is read, and what cannot be known is not made up."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_app.meter.reported import response_usage, status, transcription_usage
from relay_app.meter.usage import Usage

GA = {
    "total_tokens": 253,
    "input_tokens": 132,
    "output_tokens": 121,
    "input_token_details": {
        "text_tokens": 119,
        "audio_tokens": 13,
        "image_tokens": 0,
        "cached_tokens": 64,
        "cached_tokens_details": {"text_tokens": 64, "audio_tokens": 0, "image_tokens": 0},
    },
    "output_token_details": {"text_tokens": 30, "audio_tokens": 91, "reasoning_tokens": 7},
}
ZEROS = {
    "total_tokens": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "input_token_details": {"text_tokens": 0, "audio_tokens": 0, "cached_tokens": 0},
    "output_token_details": {"text_tokens": 0, "audio_tokens": 0},
}


def read(*candidates, text_only=False, produced=True):
    return response_usage(*candidates, text_only=text_only, produced=produced)


def sides(given, made, **totals):
    return {"input_token_details": given, "output_token_details": made} | totals


def test_the_ga_shape_is_read_in_full():
    reported = read(GA)
    assert reported.source == "reported"
    assert reported.usage == Usage(
        input_text_tokens=119,
        input_audio_tokens=13,
        cached_text_tokens=64,
        output_text_tokens=30,
        output_audio_tokens=91,
        reasoning_tokens=7,
    )
    assert reported.usage.tokens == 253
    assert json.loads(reported.raw) == GA


COUNTS = st.integers(0, 3) | st.sampled_from([-1, 2**53, 2**53 + 1, True, 1.0, None, "1"])
KINDS = ("text_tokens", "audio_tokens", "image_tokens")


@st.composite
def ga_reports(draw):
    """Reports of GA's shape: whole ones that add up, and such as lack or overstate something."""
    few = st.integers(0, 3)
    taken, made = ([draw(few) for _ in range(3)] for _ in range(2))
    kept = [draw(st.integers(0, count)) for count in taken]
    text, audio, image = taken
    report = {
        "input_tokens": sum(taken),
        "output_tokens": sum(made[:2]),
        "input_token_details": {
            "text_tokens": text, "audio_tokens": audio, "image_tokens": image,
            "cached_tokens": sum(kept),
            "cached_tokens_details": dict(zip(KINDS, kept, strict=True)),
        },
        "output_token_details": {
            "text_tokens": made[0], "audio_tokens": made[1],
            "reasoning_tokens": draw(st.integers(0, made[0])),
        },
    }  # fmt: skip
    given = report["input_token_details"]
    places = [report, given, given["cached_tokens_details"], report["output_token_details"]]
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.sampled_from(places))
        key = draw(st.sampled_from(sorted(place.keys() | {"total_tokens", "image_tokens"})))
        place[key] = draw(COUNTS)
        if draw(st.booleans()):
            del place[key]
    return report


@settings(deadline=None, max_examples=2_000)
@given(ga_reports(), st.booleans(), st.booleans())
def test_a_ga_report_is_read_like_one_whose_fields_are_called_otherwise(given, text_only, produced):
    names = {
        "input_tokens": "prompt_tokens",
        "output_tokens": "completion_tokens",
        "input_token_details": "prompt_tokens_details",
        "output_token_details": "completion_tokens_details",
    }
    other = {names.get(key, key): value for key, value in given.items()}
    told = [read(report, text_only=text_only, produced=produced) for report in (given, other)]
    assert told[0]._replace(raw=None) == told[1]._replace(raw=None)


def test_image_tokens_are_their_own_modality():
    usage = sides(
        {"text_tokens": 98, "audio_tokens": 179, "image_tokens": 323, "cached_tokens": 400},
        {"text_tokens": 38, "audio_tokens": 0},
        input_tokens=600,
        output_tokens=38,
    )
    read_usage = read(usage).usage
    assert read_usage.input_image_tokens == 323
    cached = (read_usage.cached_text_tokens, read_usage.cached_audio_tokens)
    assert (*cached, read_usage.cached_image_tokens) == (98, 179, 123)


def test_cached_tokens_without_details_are_text_first_then_audio():
    usage = sides(
        {"text_tokens": 50, "audio_tokens": 40, "cached_tokens": 64},
        {"text_tokens": 1, "audio_tokens": 2},
    )
    assert read(usage).usage.cached_text_tokens == 50
    assert read(usage).usage.cached_audio_tokens == 14


def test_cached_tokens_never_exceed_the_input():
    usage = sides(
        {
            "text_tokens": 5,
            "audio_tokens": 6,
            "cached_tokens": 900,
            "cached_tokens_details": {"text_tokens": 500, "audio_tokens": 400},
        },
        {"text_tokens": 1},
    )
    assert read(usage).usage.cached_text_tokens == 5
    assert read(usage).usage.cached_audio_tokens == 6


def test_reasoning_is_inside_the_output_text():
    usage = sides({"text_tokens": 1}, {"text_tokens": 44, "reasoning_tokens": 99})
    assert read(usage).usage.reasoning_tokens == 44
    assert read(usage).usage.tokens == 45


def test_chat_style_details_name_only_what_is_not_text():
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 20},
        "completion_tokens_details": {"audio_tokens": 30, "reasoning_tokens": 5},
    }
    assert read(usage).usage == Usage(
        input_text_tokens=80,
        input_audio_tokens=20,
        cached_text_tokens=64,
        output_text_tokens=20,
        output_audio_tokens=30,
        reasoning_tokens=5,
    )


def test_usage_on_the_frame_is_read_when_the_response_has_none():
    reported = read({}, GA)
    assert reported.source == "reported"
    assert reported.usage.tokens == 253
    assert read(ZEROS, GA).usage.tokens == 253
    assert read(GA, ZEROS).usage.tokens == 253


@pytest.mark.parametrize("nothing", [None, {}, [], "usage", 7, True])
@pytest.mark.parametrize("produced", [True, False])
def test_no_usage_is_unknown_and_not_zero(nothing, produced):
    reported = read(nothing, produced=produced)
    assert (reported.usage, reported.source) == (Usage(), "unknown")


def test_zeros_are_believed_only_where_nothing_was_produced():
    assert read(ZEROS, produced=True).source == "unknown"
    assert json.loads(read(ZEROS, produced=True).raw) == ZEROS
    assert read(ZEROS, produced=False).source == "reported"


def test_totals_alone_are_text_where_nothing_else_was_possible():
    usage = {"input_tokens": 10, "output_tokens": 5}
    assert read(usage, text_only=True).usage == Usage(input_text_tokens=10, output_text_tokens=5)


@pytest.mark.parametrize(
    "usage",
    [
        {"input_tokens": 10, "output_tokens": 5},
        {"input_tokens": 10, "output_tokens": 5, "input_token_details": {"text_tokens": 10}},
        {"total_tokens": 15},
        {"input_tokens": 10, "input_token_details": {"text_tokens": 10}},
        sides(
            {"text_tokens": 0, "audio_tokens": 0},
            {"text_tokens": 0, "audio_tokens": 0},
            input_tokens=10,
            output_tokens=5,
        ),
    ],
)
def test_a_split_that_nobody_told_is_unknown_and_kept_as_it_came(usage):
    reported = read(usage)
    assert (reported.usage, reported.source) == (Usage(), "unknown")
    assert json.loads(reported.raw) == usage


def test_a_total_tells_the_direction_that_is_missing():
    usage = {"total_tokens": 10, "input_tokens": 10, "input_token_details": {"text_tokens": 10}}
    assert read(usage).usage == Usage(input_text_tokens=10)


@pytest.mark.parametrize(
    "bad", [-1, 1.5, 3.0, True, "12", 2**53 + 1, 10**40, [], {}, float("nan"), float("inf")]
)
@pytest.mark.parametrize("where", ["text_tokens", "audio_tokens", "image_tokens"])
def test_a_count_that_is_none_makes_the_split_unknown(bad, where):
    usage = sides({"text_tokens": 1, "audio_tokens": 2, where: bad}, {"text_tokens": 3})
    assert read(usage | {"input_tokens": 100}).source == "unknown"


@pytest.mark.parametrize("bad", [-1, 1.5, True, "12", 10**40, [], None])
def test_a_total_that_is_none_is_made_up_for_by_the_details(bad):
    usage = GA | {"input_tokens": bad, "output_tokens": bad, "total_tokens": bad}
    assert read(usage).usage.tokens == 253


@pytest.mark.parametrize("bad", [-1, 1.5, True, "12", 10**40, []])
def test_a_cached_count_that_is_none_is_no_discount(bad):
    usage = sides({"text_tokens": 9, "cached_tokens": bad}, {"text_tokens": 3})
    assert read(usage).usage == Usage(input_text_tokens=9, output_text_tokens=3)


def test_usage_raw_is_at_most_four_kilobytes_of_whole_characters():
    raw = read({"note": "é" * 9000}).raw
    assert 4090 <= len(raw.encode()) <= 4096
    assert raw.endswith("é")


def test_usage_raw_can_always_be_encoded():
    raw = read({"note": "\ud800", "\udfff": float("nan")}).raw
    assert raw.encode("utf-8")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("completed", "completed"),
        ("cancelled", "cancelled"),
        ("canceled", "cancelled"),
        ("failed", "failed"),
        ("incomplete", "incomplete"),
        ("in_progress", "incomplete"),
        ("splendid", "incomplete"),
        (None, "incomplete"),
        (["completed"], "incomplete"),
    ],
)
def test_a_unit_is_completed_only_if_it_says_so(value, told):
    assert status(value) == told


def test_transcriptions_are_reported_in_tokens():
    usage = {
        "type": "tokens",
        "total_tokens": 35,
        "input_tokens": 26,
        "input_token_details": {"text_tokens": 0, "audio_tokens": 26},
        "output_tokens": 9,
    }
    reported = transcription_usage(usage, produced=True)
    assert reported.source == "reported"
    assert reported.usage == Usage(input_audio_tokens=26, output_text_tokens=9)


@pytest.mark.parametrize("usage", [{"type": "duration", "seconds": 3}, {"seconds": 3.0}])
def test_transcriptions_are_reported_in_seconds(usage):
    reported = transcription_usage(usage, produced=True)
    assert (reported.usage, reported.source) == (Usage(transcription_seconds=3.0), "reported")


def test_silence_may_cost_zero_seconds_but_speech_may_not():
    usage = {"type": "duration", "seconds": 0}
    assert transcription_usage(usage, produced=False).source == "reported"
    assert transcription_usage(usage, produced=True).source == "unknown"


@pytest.mark.parametrize(
    "seconds", [float("nan"), float("inf"), -1, True, "3", None, 10**400, [], 1e300]
)
def test_seconds_that_are_none_are_unknown(seconds):
    reported = transcription_usage({"type": "duration", "seconds": seconds}, produced=False)
    assert (reported.usage, reported.source) == (Usage(), "unknown")


def test_a_transcription_without_details_has_an_unknown_split():
    usage = {"type": "tokens", "input_tokens": 26, "output_tokens": 9}
    assert transcription_usage(usage, produced=True).source == "unknown"


FIELDS = [
    *("total_tokens", "input_tokens", "output_tokens", "prompt_tokens", "completion_tokens"),
    *("input_token_details", "output_token_details", "prompt_tokens_details", "type", "seconds"),
    *("text_tokens", "audio_tokens", "image_tokens", "cached_tokens", "reasoning_tokens"),
    "cached_tokens_details",
]
NUMBERS = st.integers(-5, 2**70) | st.floats() | st.booleans() | st.none() | st.text(max_size=3)
ANYTHING = st.recursive(
    NUMBERS | st.sampled_from(["tokens", "duration"]),
    lambda inner: st.dictionaries(st.sampled_from(FIELDS), inner) | st.lists(inner, max_size=2),
    max_leaves=20,
)


@settings(deadline=None, max_examples=200)
@given(ANYTHING, ANYTHING, st.booleans(), st.booleans())
def test_any_value_gives_whole_figures_that_hold_together(one, other, text_only, produced):
    for reported in (
        response_usage(one, other, text_only=text_only, produced=produced),
        transcription_usage(one, produced=produced),
    ):
        usage = reported.usage
        assert usage.tokens >= 0
        assert 0 <= usage.cached_text_tokens <= usage.input_text_tokens
        assert 0 <= usage.cached_audio_tokens <= usage.input_audio_tokens
        assert 0 <= usage.cached_image_tokens <= usage.input_image_tokens
        assert 0 <= usage.reasoning_tokens <= usage.output_text_tokens
        assert 0 <= usage.transcription_seconds <= 2**53
        if reported.source == "unknown":
            assert not usage
        if produced and reported.source == "reported":
            assert usage
