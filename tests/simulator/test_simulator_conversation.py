"""The protocol without sockets: sessions, items, and what is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulator_support import NOW, Talk, encoded, silence, speech, types

from relay_app import codec
from relay_app.simulator.conversation import HANDLERS


def test_a_session_is_created_at_once_and_expires_in_an_hour(talk: Talk) -> None:
    created = talk.only("session.created")["session"]
    assert created["object"] == "realtime.session"
    assert created["model"] == "gpt-realtime"
    assert created["expires_at"] == NOW + 3600


def test_a_text_turn_goes_as_recorded(talk: Talk) -> None:
    talk.update(output_modalities=["text"])
    talk.write("Hello there")
    assert types(talk.say("response.create")) == ["response.created"]
    assert types(talk.run()) == [
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 4,
        "response.output_text.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
        "rate_limits.updated",
    ]
    deltas = talk.named("response.output_text.delta")
    assert "".join(event["delta"] for event in deltas) == "You said: Hello there"
    done = talk.only("response.done")["response"]
    assert done["status"] == "completed"
    assert done["output"][0]["content"] == [
        {"type": "output_text", "text": "You said: Hello there"}
    ]


def test_events_have_ids_of_their_own(talk: Talk) -> None:
    talk.write("one")
    talk.say("response.create")
    talk.run()
    ids = [event["event_id"] for event in talk.events]
    assert len(set(ids)) == len(ids)


def test_items_go_after_the_one_that_is_named(talk: Talk) -> None:
    def create(item_id: str, **fields: str) -> str | None:
        content = [{"type": "input_text", "text": item_id}]
        item = {"id": item_id, "type": "message", "role": "user", "content": content}
        added, done = talk.say("conversation.item.create", item=item, **fields)
        assert types([added, done]) == ["conversation.item.added", "conversation.item.done"]
        return added["previous_item_id"]  # type: ignore[no-any-return]

    assert create("a") is None
    assert create("b") == "a"
    assert create("c", previous_item_id="a") == "a"
    assert create("d", previous_item_id="root") is None
    assert [item.id for item in talk.conversation.items] == ["d", "a", "c", "b"]


def test_an_item_is_retrieved_with_its_sound_and_then_deleted(talk: Talk) -> None:
    sound = encoded(speech(300))
    item = {
        "id": "item_1",
        "type": "message",
        "role": "user",
        "content": [{"type": "input_audio", "audio": sound, "transcript": "hm"}],
    }
    added, _ = talk.say("conversation.item.create", item=item)
    assert added["item"]["content"] == [{"type": "input_audio", "transcript": "hm"}]
    (retrieved,) = talk.say("conversation.item.retrieve", item_id="item_1")
    assert retrieved["item"]["content"][0]["audio"] == sound
    (deleted,) = talk.say("conversation.item.delete", item_id="item_1")
    assert deleted["item_id"] == "item_1"
    talk.say("conversation.item.retrieve", item_id="item_1", event_id="mine")
    assert talk.error()["code"] == "item_retrieve_invalid_item_id"
    assert talk.error()["event_id"] == "mine"


def test_an_id_is_given_once(talk: Talk) -> None:
    item = {"id": "x", "type": "message", "role": "user", "content": []}
    talk.say("conversation.item.create", item=item)
    talk.say("conversation.item.create", item=item)
    assert talk.error()["code"] == "item_create_duplicate_item_id"


def test_truncation_cuts_the_audio_and_takes_the_transcript_away(talk: Talk) -> None:
    talk.write("hello")
    talk.say("response.create")
    talk.run()
    item = talk.only("response.done")["response"]["output"][0]
    talk.say("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=99_000)
    assert talk.error()["param"] == "audio_end_ms"
    (cut,) = talk.say(
        "conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=500
    )
    assert cut["type"] == "conversation.item.truncated"
    (retrieved,) = talk.say("conversation.item.retrieve", item_id=item["id"])
    assert "transcript" not in retrieved["item"]["content"][0]
    assert retrieved["item"]["content"][0]["audio"] == encoded(speech(500))


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ("{", "invalid_json", None),
        ("[1]", "invalid_json", None),
        ('{"type": "\\ud800"}', "invalid_json", None),
        (b"\xff\xfe", "invalid_json", None),
        ("{}", "missing_required_parameter", "type"),
        ('{"type": "no.such"}', "invalid_value", "type"),
        ('{"type": ["response.create"]}', "invalid_value", "type"),
        ('{"type": "session.update"}', "missing_required_parameter", "session"),
        ('{"type": "input_audio_buffer.append"}', "missing_required_parameter", "audio"),
        ('{"type": "input_audio_buffer.append", "audio": "A?=="}', "invalid_value", "audio"),
        ('{"type": "input_audio_buffer.append", "audio": 7}', "invalid_value", "audio"),
        ('{"type": "input_audio_buffer.append", "audio": "é"}', "invalid_value", "audio"),
        ('{"type": "input_audio_buffer.commit"}', "input_audio_buffer_commit_empty", None),
        ('{"type": "response.cancel"}', "response_cancel_not_active", None),
        ('{"type": "response.cancel", "response_id": {}}', "invalid_value", "response_id"),
        ('{"type": "response.create", "response": 1}', "invalid_value", "response"),
        ('{"type": "response.create", "response": {"x": 1}}', "unknown_parameter", "response.x"),
        ('{"type": "conversation.item.create"}', "missing_required_parameter", "item"),
        ('{"type": "conversation.item.create", "item": {}}', "missing_required_parameter", None),
        ('{"type": "conversation.item.create", "item": {"type": []}}', "invalid_value", None),
        ('{"type": "conversation.item.retrieve"}', "missing_required_parameter", "item_id"),
        (
            '{"type": "conversation.item.delete", "item_id": []}',
            "item_delete_invalid_item_id",
            None,
        ),
        (
            '{"type": "conversation.item.create", "item": {"type": "function_call_output", '
            '"call_id": "call_x", "output": ""}}',
            "invalid_tool_call_id",
            "item.call_id",
        ),
    ],
)
def test_a_bad_event_is_refused_and_the_session_goes_on(
    talk: Talk, message: str | bytes, code: str, param: str | None
) -> None:
    (event,) = talk.send(message)
    assert event["error"]["type"] == "invalid_request_error"
    assert event["error"]["code"] == code
    if param is not None:
        assert event["error"]["param"] == param
    assert types(talk.update()) == ["session.updated"]


def test_a_refusal_names_the_client_event(talk: Talk) -> None:
    talk.send(codec.dumps({"event_id": "evt_7", "type": "nonsense"}))
    assert talk.error()["event_id"] == "evt_7"


def test_a_transcription_session_transcribes_and_does_not_answer() -> None:
    talk = Talk("transcription")
    created = talk.only("session.created")["session"]
    assert created["object"] == "realtime.transcription_session"
    assert "model" not in created
    heard = {"transcription": {"model": "gpt-realtime-whisper"}}
    talk.say("session.update", session={"type": "transcription", "audio": {"input": heard}})
    talk.append(speech(2000))
    talk.say("input_audio_buffer.commit")
    talk.append(silence(1000))
    talk.say("input_audio_buffer.commit")
    talk.run()
    # The shorter one is ready first, as at the provider.
    second, first = talk.named("conversation.item.input_audio_transcription.completed")
    assert first["usage"] == {"type": "duration", "seconds": 2}
    assert second["usage"] == {"type": "duration", "seconds": 0}
    assert second["transcript"] == ""
    assert [entry.usage for entry in talk.billed] == [second["usage"], first["usage"]]
    talk.say("response.create")
    assert talk.error()["code"] == "invalid_value"


def test_what_was_generated_when_the_session_died_is_billed_as_dropped(talk: Talk) -> None:
    talk.update(audio={"input": {"transcription": {"model": "gpt-4o-transcribe"}}})
    talk.append(speech(6000) + silence(600))
    talk.run_until("response.output_audio.delta")
    talk.conversation.close()
    assert sorted((entry.kind, entry.status) for entry in talk.billed) == [
        ("response", "dropped"),
        ("transcription", "dropped"),
    ]
    response = next(entry for entry in talk.billed if entry.kind == "response")
    assert response.usage["output_token_details"]["audio_tokens"] == 5


KEYS = [
    *("session", "type", "audio", "input", "output", "format", "tools", "tool_choice", "name"),
    *("parameters", "properties", "required", "item", "id", "role", "content", "text", "call_id"),
    *("transcript", "arguments", "response", "conversation", "instructions", "metadata", "model"),
    *("turn_detection", "transcription", "max_output_tokens", "voice", "include", "item_id"),
    *("content_index", "audio_end_ms", "previous_item_id", "response_id", "output_modalities"),
]
WORDS = [
    *("realtime", "message", "user", "assistant", "function", "function_call", "object", "array"),
    *("function_call_output", "input_text", "output_audio", "input_audio", "audio", "text", "f"),
    *("none", "required", "audio/pcm", "server_vad", "root", "item_reference", "AAAA", "x"),
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5000) | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6)
    ),
    max_leaves=20,
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(HANDLERS)),
            st.dictionaries(st.sampled_from(KEYS), json_values, max_size=6),
        ),
        max_size=6,
    )
)
def test_whatever_a_client_says_is_obeyed_or_refused(
    said: list[tuple[str, dict[str, Any]]],
) -> None:
    # Unchecked, because odd metadata comes back as it went in and then fits no type.
    talk = Talk(checked=False)
    for type, fields in said:
        fields.pop("type", None)
        assert talk.say(type, **fields) or type in ("input_audio_buffer.append",)
    talk.run()
    assert len(talk.named("response.created")) == len(talk.named("response.done"))


def test_a_lone_forced_tool_with_an_odd_schema_is_called_all_the_same(talk: Talk) -> None:
    odd = {"type": "object", "properties": {"a": {"type": ["null", "string"]}}, "required": 3}
    talk.update(
        tools=[{"type": "function", "name": "f", "parameters": odd}], tool_choice="required"
    )
    talk.say("response.create")
    talk.run()
    call = talk.only("response.done")["response"]["output"][0]
    assert codec.loads(call["arguments"]) == {"a": "a a"}
