"""Responses: spoken, cut, cancelled, beside each other, and calling tools."""

from typing import Any

import pytest
from simulator_support import Talk, encoded, speech, types

from relay_app import codec

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a city.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "unit": {"enum": ["C", "F"]},
            "days": {"type": "integer"},
        },
        "required": ["city", "unit", "days"],
    },
}


def last_response(talk: Talk) -> dict[str, Any]:
    return talk.named("response.done")[-1]["response"]  # type: ignore[no-any-return]


def test_a_spoken_answer_carries_sound_and_transcript(talk: Talk) -> None:
    talk.update(instructions="Speak for 3 seconds.")
    talk.say("response.create")
    spoken = types(talk.run())
    assert spoken.count("response.output_audio.delta") == 12
    assert spoken.index("response.output_audio_transcript.delta") < spoken.index(
        "response.output_audio.delta"
    )
    done = last_response(talk)
    assert done["usage"]["output_token_details"]["audio_tokens"] == 60
    item = done["output"][0]
    transcript = talk.only("response.output_audio_transcript.done")["transcript"]
    assert item["content"] == [{"type": "output_audio", "transcript": transcript}]
    (retrieved,) = talk.say("conversation.item.retrieve", item_id=item["id"])
    assert retrieved["item"]["content"][0]["audio"] == encoded(speech(3000))


@pytest.mark.parametrize("modality", ["text", "audio"])
@pytest.mark.parametrize("limit", [1, 5, 9, 20, 60])
def test_an_answer_never_costs_more_than_it_may(talk: Talk, modality: str, limit: int) -> None:
    talk.update(instructions="Answer in 100 words.", output_modalities=[modality])
    talk.say("response.create", response={"max_output_tokens": limit})
    talk.run()
    done = last_response(talk)
    assert done["status"] == "incomplete"
    assert done["status_details"] == {"type": "incomplete", "reason": "max_output_tokens"}
    assert done["max_output_tokens"] == limit
    assert done["usage"]["output_tokens"] <= limit


def test_a_response_can_differ_from_its_session(talk: Talk) -> None:
    overrides = {
        "output_modalities": ["text"],
        "instructions": "Answer in 7 words.",
        "metadata": {"request": "r-1"},
    }
    (created,) = talk.say("response.create", response=overrides)
    assert created["response"]["metadata"] == {"request": "r-1"}
    talk.run()
    assert len(talk.only("response.output_text.done")["text"].split()) == 7
    assert talk.update()[0]["session"]["output_modalities"] == ["audio"]


def test_the_client_cancels(talk: Talk) -> None:
    (created,) = talk.say("response.create", response={"instructions": "Speak for 9 seconds."})
    talk.run_until("response.output_audio.delta", 3)
    cancelled = talk.say("response.cancel", response_id=created["response"]["id"])
    assert types(cancelled)[-1] == "response.done"
    done = last_response(talk)
    assert done["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
    assert done["usage"]["output_token_details"]["audio_tokens"] == 15
    assert talk.run() == []
    talk.say("response.cancel")
    assert talk.error()["code"] == "response_cancel_not_active"


def test_cancelled_before_its_first_item_it_has_no_output(talk: Talk) -> None:
    talk.say("response.create")
    assert types(talk.say("response.cancel")) == ["response.done"]
    done = last_response(talk)
    assert done["output"] == []
    assert done["usage"]["output_tokens"] == 0
    assert done["usage"]["input_tokens"] > 0
    assert types(talk.say("response.create")) == ["response.created"]


def test_a_conversation_answers_one_at_a_time(talk: Talk) -> None:
    talk.say("response.create")
    talk.say("response.create", event_id="second")
    assert talk.error()["code"] == "conversation_already_has_active_response"
    assert talk.error()["event_id"] == "second"
    talk.run()
    assert len(talk.named("response.done")) == 1


def test_out_of_band_responses_run_beside_it_and_leave_no_trace(talk: Talk) -> None:
    talk.update(output_modalities=["text"])
    talk.write("How do I reset my router?")
    talk.say("response.create")
    question = {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "billing or support"}],
    }
    (created,) = talk.say("response.create", response={"conversation": "none", "input": [question]})
    assert created["response"]["conversation_id"] is None
    talk.run()
    texts = [event["text"] for event in talk.named("response.output_text.done")]
    assert sorted(texts) == ["You said: How do I reset my router?", "You said: billing or support"]
    assert len(list(talk.conversation.items)) == 2
    assert len(talk.billed) == 2


def test_a_response_can_be_given_its_input_by_reference(talk: Talk) -> None:
    talk.update(output_modalities=["text"])
    talk.write("first")
    talk.write("second")
    first, _ = talk.conversation.items
    reference = {"type": "item_reference", "id": first.id}
    talk.say("response.create", response={"conversation": "none", "input": [reference]})
    talk.run()
    assert talk.only("response.output_text.done")["text"] == "You said: first"


def test_a_tool_that_is_mentioned_is_called_and_its_output_read(talk: Talk) -> None:
    talk.update(output_modalities=["text"], tools=[WEATHER])
    talk.write("Please get_weather for London, 3 days")
    talk.say("response.create")
    called = types(talk.run())
    assert called[:2] == ["response.output_item.added", "conversation.item.added"]
    assert "response.content_part.added" not in called
    call = last_response(talk)["output"][0]
    assert call["type"] == "function_call"
    assert codec.loads(call["arguments"]) == {"city": "London", "unit": "C", "days": 3}
    deltas = talk.named("response.function_call_arguments.delta")
    assert "".join(event["delta"] for event in deltas) == call["arguments"]
    output = {"type": "function_call_output", "call_id": call["call_id"]}
    talk.say("conversation.item.create", item={**output, "output": '{"sky":"foggy","temp_c":12}'})
    talk.say("response.create")
    talk.run()
    assert (
        talk.only("response.output_text.done")["text"]
        == "get_weather says: sky is foggy, temp_c is 12."
    )
    assert last_response(talk)["usage"]["input_token_details"]["cached_tokens"] > 0


@pytest.mark.parametrize(
    ("choice", "kind"),
    [
        ("auto", "message"),
        ("none", "message"),
        ("required", "function_call"),
        ({"type": "function", "name": "get_weather"}, "function_call"),
    ],
)
def test_a_tool_can_be_forced(talk: Talk, choice: Any, kind: str) -> None:
    talk.update(tools=[WEATHER], tool_choice=choice)
    talk.write("hello")
    talk.say("response.create")
    talk.run()
    assert last_response(talk)["output"][0]["type"] == kind


def test_responses_at_once_are_bounded(talk: Talk) -> None:
    for _ in range(32):
        talk.say("response.create", response={"conversation": "none", "input": []})
    talk.say("response.create", response={"conversation": "none", "input": []})
    assert talk.error()["code"] == "too_many_responses"
