"""Errors of estimates, by kind, in a few integers."""

import math

import pytest
from meter_fakes import created, done, event, new_meter, session_event, text_usage

from relay_app.meter import Usage
from relay_app.meter.drift import KINDS, STEPS, Drift, relative_errors


def test_an_error_is_relative_to_what_was_reported():
    usage = Usage(input_text_tokens=10, output_audio_tokens=50, transcription_seconds=2.0)
    estimate = {"input_text_tokens": 12, "output_audio_tokens": 45, "transcription_seconds": 2.0}
    assert relative_errors(estimate, usage) == pytest.approx(
        {"input_text": 0.2, "output_audio": -0.1, "transcription_seconds": 0.0}
    )


def test_a_kind_that_only_one_side_knows_is_wholly_wrong():
    usage = Usage(input_text_tokens=10)
    assert relative_errors({"input_audio_tokens": 5}, usage) == {
        "input_text": -1.0,
        "input_audio": math.inf,
    }


def test_reasoning_is_not_asked_of_an_estimate():
    usage = Usage(output_text_tokens=38, reasoning_tokens=31)
    assert relative_errors({"output_text_tokens": 7}, usage) == {"output_text": 0.0}


def test_drift_is_counted_by_kind_and_step_and_adds_up():
    drift = Drift()
    usage = Usage(input_text_tokens=100)
    for tokens in (100, 102, 103, 89, 300):
        drift.add(Usage(input_text_tokens=tokens), usage)
    assert drift.counts == {
        ("input_text", "0.02"): 2,
        ("input_text", "0.05"): 1,
        ("input_text", "0.2"): 1,
        ("input_text", "more"): 1,
    }
    other = Drift()
    other.add(Usage(output_text_tokens=1), Usage(output_text_tokens=1))
    both = drift + other
    assert both.counts == drift.counts | {("output_text", "0.02"): 1}
    assert drift + Drift() is drift
    assert len(KINDS) * (len(STEPS) + 1) == 42


def test_a_meter_keeps_the_drift_of_what_was_reported_and_estimated():
    meter = new_meter()
    meter.received(done("nothing seen", text_usage(5, 5)))
    assert meter.drift.counts == {}
    meter = new_meter()
    meter.received(session_event({"instructions": "Be brief."}))
    meter.received(created())
    meter.received(event({"type": "response.output_text.delta", "response_id": "resp_1"}))
    meter.received(done("resp_1", text_usage(3, 30)))
    assert meter.drift.counts == {("input_text", "0.02"): 1, ("output_text", "1.0"): 1}
    meter.received(done("resp_2", None))
    assert sum(meter.drift.counts.values()) == 2
