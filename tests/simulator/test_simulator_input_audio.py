"""Speaking to the simulator: turns, commits, barge-in, transcription."""

import pytest
from simulator_support import Talk, encoded, silence, speech, types

from relay_app.simulator.audio_format import PCM16, PCMA, PCMU, AudioFormat


def test_a_spoken_turn_goes_as_recorded(talk: Talk) -> None:
    answered = talk.append(silence(500) + speech(2000) + silence(700))
    assert types(answered) == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
    ]
    started, stopped, committed, added, *_ = answered
    assert started["audio_start_ms"] == pytest.approx(200, abs=40)
    assert stopped["audio_end_ms"] == pytest.approx(2500 + 500, abs=80)
    ids = {started["item_id"], stopped["item_id"], committed["item_id"], added["item"]["id"]}
    assert len(ids) == 1
    talk.run()
    span_ms = stopped["audio_end_ms"] - started["audio_start_ms"]
    spent = talk.only("response.done")["response"]["usage"]
    assert spent["input_token_details"]["audio_tokens"] == span_ms // 100


@pytest.mark.parametrize("audio_format", [PCM16, PCMU, PCMA], ids=lambda f: f.type)
@pytest.mark.parametrize("piece_ms", [20, 100, 171])
def test_turns_are_heard_in_every_format_and_chunking(
    talk: Talk, audio_format: AudioFormat, piece_ms: int
) -> None:
    wire = {"type": audio_format.type}
    talk.update(audio={"input": {"format": wire}, "output": {"format": wire}})
    sound = speech(1500, audio_format) + silence(700, audio_format)
    talk.append(sound * 2, piece_ms, audio_format.bytes_per_ms)
    assert len(talk.named("input_audio_buffer.speech_started")) == 2
    assert len(talk.named("input_audio_buffer.committed")) == 2


def test_silence_is_nobody_speaking(talk: Talk) -> None:
    assert talk.append(silence(5000)) == []
    talk.say("input_audio_buffer.commit")
    item = talk.only("conversation.item.added")["item"]
    (retrieved,) = talk.say("conversation.item.retrieve", item_id=item["id"])
    assert retrieved["item"]["content"][0]["audio"] == encoded(silence(400))


def test_without_turn_detection_the_client_commits(talk: Talk) -> None:
    talk.update(audio={"input": {"turn_detection": None}})
    assert talk.append(speech(1000) + silence(1000)) == []
    assert types(talk.say("input_audio_buffer.commit")) == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]
    talk.say("input_audio_buffer.commit")
    assert talk.error()["code"] == "input_audio_buffer_commit_empty"


def test_a_commit_needs_a_tenth_of_a_second(talk: Talk) -> None:
    talk.append(speech(99))
    talk.say("input_audio_buffer.commit")
    assert "99.00ms" in talk.error()["message"]
    talk.append(speech(1))
    assert talk.say("input_audio_buffer.commit")[0]["type"] == "input_audio_buffer.committed"


def test_a_cleared_buffer_is_empty_and_its_clock_goes_on(talk: Talk) -> None:
    talk.append(speech(1000))
    assert types(talk.say("input_audio_buffer.clear")) == ["input_audio_buffer.cleared"]
    talk.say("input_audio_buffer.commit")
    assert talk.error()["code"] == "input_audio_buffer_commit_empty"
    talk.append(silence(1000) + speech(500))
    assert talk.named("input_audio_buffer.speech_started")[-1]["audio_start_ms"] > 1500


def test_speaking_over_an_answer_cancels_it(talk: Talk) -> None:
    talk.update(instructions="Speak for 10 seconds.")
    talk.append(speech(1000) + silence(600))
    talk.run_until("response.output_audio.delta", 4)
    interrupted = talk.append(speech(400))
    assert types(interrupted) == [
        "input_audio_buffer.speech_started",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    done = interrupted[-1]["response"]
    assert done["status"] == "cancelled"
    assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert done["usage"]["output_token_details"]["audio_tokens"] == 20
    assert done["output"][0]["status"] == "incomplete"
    assert types(talk.run()) == []
    talk.append(speech(600) + silence(600))
    talk.run()
    assert talk.named("response.done")[-1]["response"]["status"] == "completed"


def test_an_answer_may_be_protected_from_interruption(talk: Talk) -> None:
    talk.update(audio={"input": {"turn_detection": {"interrupt_response": False}}})
    talk.append(speech(1000) + silence(600))
    talk.run_until("response.output_audio.delta")
    talk.append(speech(1000) + silence(600))
    talk.run()
    assert talk.only("response.done")["response"]["status"] == "completed"


def test_turns_need_not_be_answered(talk: Talk) -> None:
    talk.update(audio={"input": {"turn_detection": {"create_response": False}}})
    talk.append(speech(1000) + silence(600))
    assert talk.named("input_audio_buffer.committed")
    assert not talk.named("response.created")


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("gpt-4o-transcribe", "tokens"),
        ("gpt-4o-mini-transcribe", "tokens"),
        ("whisper-1", "duration"),
        ("gpt-realtime-whisper", "duration"),
    ],
)
def test_a_turn_is_transcribed_and_billed_as_its_model_is(
    talk: Talk, model: str, kind: str
) -> None:
    talk.update(
        include=["item.input_audio_transcription.logprobs"],
        audio={"input": {"transcription": {"model": model}}},
    )
    talk.append(speech(2000) + silence(600))
    talk.run()
    prefix = "conversation.item.input_audio_transcription"
    completed = talk.only(f"{prefix}.completed")
    deltas = [event["delta"] for event in talk.named(f"{prefix}.delta")]
    assert "".join(deltas) == completed["transcript"] != ""
    assert completed["usage"]["type"] == kind
    assert completed["logprobs"]
    (entry,) = (entry for entry in talk.billed if entry.kind == "transcription")
    assert (entry.id, entry.model) == (completed["item_id"], model)
    assert entry.usage == completed["usage"]
    if kind == "tokens":
        spent = completed["usage"]
        assert spent["total_tokens"] == spent["input_tokens"] + spent["output_tokens"]
