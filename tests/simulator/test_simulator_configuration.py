"""``session.update``: what merges, what clears, what is refused."""

from typing import Any

import pytest
from simulator_support import Talk, types


def updated(talk: Talk, **session: Any) -> dict[str, Any]:
    (event,) = talk.update(**session)
    assert event["type"] == "session.updated", event
    return event["session"]  # type: ignore[no-any-return]


def test_what_is_absent_stays(talk: Talk) -> None:
    before = talk.only("session.created")["session"]
    assert updated(talk) == before
    after = updated(talk, audio={"input": {"turn_detection": {"silence_duration_ms": 200}}})
    assert after["audio"]["output"] == before["audio"]["output"]
    assert after["audio"]["input"]["turn_detection"] == {
        **before["audio"]["input"]["turn_detection"],
        "silence_duration_ms": 200,
    }


def test_what_is_empty_or_null_is_cleared(talk: Talk) -> None:
    tool = {"type": "function", "name": "f", "parameters": {}}
    updated(talk, tools=[tool], max_output_tokens=7)
    after = updated(
        talk,
        tools=[],
        instructions="",
        max_output_tokens=None,
        audio={"input": {"turn_detection": None, "format": None}},
    )
    assert after["tools"] == []
    assert after["instructions"] == ""
    assert after["max_output_tokens"] == "inf"
    assert after["audio"]["input"]["turn_detection"] is None
    assert after["audio"]["input"]["format"] == {"type": "audio/pcm", "rate": 24000}


def test_a_format_and_a_transcription_are_replaced_whole(talk: Talk) -> None:
    first = {"model": "gpt-4o-transcribe", "language": "en"}
    updated(talk, audio={"input": {"transcription": first}})
    after = updated(
        talk,
        audio={
            "input": {"transcription": {"model": "whisper-1"}, "format": {"type": "audio/pcmu"}}
        },
    )["audio"]["input"]
    assert after["transcription"] == {"model": "whisper-1", "language": None, "prompt": None}
    assert after["format"] == {"type": "audio/pcmu"}


def test_another_kind_of_turn_detection_comes_with_its_own_defaults(talk: Talk) -> None:
    after = updated(
        talk, audio={"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "high"}}}
    )
    assert after["audio"]["input"]["turn_detection"] == {
        "type": "semantic_vad",
        "eagerness": "high",
        "create_response": True,
        "interrupt_response": True,
    }


@pytest.mark.parametrize(
    ("session", "code", "param"),
    [
        ({"modalities": ["text"]}, "unknown_parameter", "session.modalities"),
        ({"model": "gpt-other"}, "invalid_value", "session.model"),
        ({"type": "transcription"}, "invalid_value", "session.type"),
        ({"output_modalities": ["text", "audio"]}, "invalid_value", "session.output_modalities"),
        ({"max_output_tokens": 5000}, "invalid_value", "session.max_output_tokens"),
        ({"max_output_tokens": True}, "invalid_value", "session.max_output_tokens"),
        ({"tools": [{"type": "function"}]}, "missing_required_parameter", "session.tools[0].name"),
        ({"audio": {"input": {"x": 1}}}, "unknown_parameter", "session.audio.input.x"),
        (
            {"audio": {"output": {"format": {"type": "audio/mp3"}}}},
            "invalid_value",
            "session.audio.output.format.type",
        ),
        (
            {"audio": {"input": {"turn_detection": {"type": "server_vad", "eagerness": "low"}}}},
            "unknown_parameter",
            "session.audio.input.turn_detection.eagerness",
        ),
    ],
)
def test_a_fault_refuses_the_whole_update(
    talk: Talk, session: dict[str, Any], code: str, param: str
) -> None:
    before = updated(talk)
    talk.update(instructions="never applied", **session)
    assert talk.error()["code"] == code
    assert talk.error()["param"] == param
    assert updated(talk) == before


def test_the_type_of_the_session_has_to_be_said(talk: Talk) -> None:
    talk.say("session.update", session={"instructions": "x"})
    assert talk.error()["param"] == "session.type"


def test_the_voice_is_fixed_once_it_was_heard(talk: Talk) -> None:
    assert types(talk.update(audio={"output": {"voice": "cedar"}})) == ["session.updated"]
    talk.say("response.create")
    talk.run()
    talk.update(audio={"output": {"voice": "marin"}})
    assert talk.error()["code"] == "cannot_update_voice"
