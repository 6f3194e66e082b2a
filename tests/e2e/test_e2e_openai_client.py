"""The ``openai`` client through the relay: what it sees of usage, what the provider billed and
what the ledger holds are the same, unit by unit."""

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from support.bills import bills, figures
from support.clients import eventually
from support.relays import RelayProcess, relay
from websockets.exceptions import InvalidStatus

from relay_app.simulator import Simulator, background, voice
from relay_app.simulator.audio_format import PCM16

TRANSCRIBED = "conversation.item.input_audio_transcription.completed"
PIECE_BYTES = 4_800
"""100 ms of PCM16."""
CLOCK = {
    "type": "function",
    "name": "get_time",
    "description": "The time in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


@pytest.fixture(scope="module")
def provider() -> Iterator[Simulator]:
    # Ten times real pace: fast, and slow enough to be interrupted.
    with background(speed=10) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, provider: Simulator
) -> Iterator[RelayProcess]:
    with relay(tmp_path_factory.mktemp("openai"), provider.url) as process:
        yield process
    assert "Traceback" not in process.output


@pytest.fixture
def client(running: RelayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        api_key=running.key,
        base_url="http://unused.invalid/v1",
        websocket_base_url=f"{running.ws}/v1",
    ) as made:
        yield made


class Listener:
    """All that a connection has said so far."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.events: list[Any] = []

    def until(self, *types: str, count: int = 1) -> Any:
        """Reads until ``count`` more events of these types have come; the last of them."""
        while count:
            event = self._connection.recv()
            assert event.type != "error", event
            self.events.append(event)
            count -= event.type in types
        return event

    def of(self, type: str) -> list[Any]:
        return [event for event in self.events if event.type == type]


def message(text: str) -> Any:
    content = [{"type": "input_text", "text": text}]
    return {"type": "message", "role": "user", "content": content}


def say(connection: Any, milliseconds: int, *, pause: int = 0) -> None:
    """Speech in pieces of 100 ms, as a microphone gives it, and silence behind it."""
    sound = voice.speech(PCM16, milliseconds) + bytes(pause * PCM16.bytes_per_ms)
    for start in range(0, len(sound), PIECE_BYTES):
        piece = b64encode(sound[start : start + PIECE_BYTES]).decode()
        connection.input_audio_buffer.append(audio=piece)


def settled_alike(
    running: RelayProcess, provider: Simulator, events: list[Any], kinds: dict[str, int]
) -> None:
    """Every unit that ended before the client's eyes is in the ledger once and with those
    figures, the provider billed the same, and there were as many as ``kinds`` says."""
    seen = bills(event.to_dict() for event in events)
    assert count_kinds(seen.values()) == kinds
    session = {record["unit_id"]: record["session_id"] for record in running.records()}
    (session_id,) = {session[unit] for unit in seen}
    records = [r for r in running.records() if r["session_id"] == session_id]
    assert figures(records) == seen
    assert len({record["id"] for record in records}) == len(records)
    for record in records:
        billed = [entry for entry in provider.billed if entry.id == record["unit_id"]]
        assert [entry.kind for entry in billed] == [record["kind"]]
        assert billed[0].status == record["status"]
        if record["kind"] == "transcription":
            assert record["model"] == billed[0].model
        total = sum(
            record[name]
            for name in ("input_text_tokens", "input_audio_tokens", "input_image_tokens",
                         "output_text_tokens", "output_audio_tokens")
        )  # fmt: skip
        assert total == billed[0].usage.get("total_tokens", 0)


def count_kinds(found: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for bill in found:
        kind = f"{bill['kind']} {bill['status']}"
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def test_text_turns(running: RelayProcess, provider: Simulator, client: openai.OpenAI) -> None:
    with client.realtime.connect(model="gpt-realtime") as connection:
        heard = Listener(connection)
        connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
        for text in ("Good morning", "And a good night, with a longer sentence this time"):
            connection.conversation.item.create(item=message(text))
            connection.response.create()
            heard.until("response.done")
        assert [e.text for e in heard.of("response.output_text.done")] == [
            "You said: Good morning",
            "You said: And a good night, with a longer sentence this time",
        ]
    settled_alike(running, provider, heard.events, {"response completed": 2})


def test_spoken_turns_are_heard_answered_and_transcribed(
    running: RelayProcess, provider: Simulator, client: openai.OpenAI
) -> None:
    with client.realtime.connect(model="gpt-realtime") as connection:
        heard = Listener(connection)
        wanted = {"transcription": {"model": "gpt-4o-transcribe"}}
        connection.session.update(session={"type": "realtime", "audio": {"input": wanted}})
        heard.until("session.updated")
        for milliseconds in (1_500, 2_700):
            say(connection, milliseconds, pause=700)
            heard.until("response.done", TRANSCRIBED, count=2)
        assert heard.of("response.output_audio.delta")
    assert len(heard.of("input_audio_buffer.committed")) == 2
    settled_alike(
        running,
        provider,
        heard.events,
        {"response completed": 2, "transcription completed": 2},
    )


def test_a_transcription_model_that_bills_by_the_second(
    running: RelayProcess, provider: Simulator, client: openai.OpenAI
) -> None:
    with client.realtime.connect(model="gpt-realtime") as connection:
        heard = Listener(connection)
        wanted = {"transcription": {"model": "gpt-realtime-whisper"}, "turn_detection": None}
        connection.session.update(session={"type": "realtime", "audio": {"input": wanted}})
        say(connection, 2_700)
        connection.input_audio_buffer.commit()
        heard.until(TRANSCRIBED)
        assert heard.events[-1].usage.seconds == 3
    settled_alike(running, provider, heard.events, {"transcription completed": 1})


def test_a_tool_is_called_and_its_output_read_out(
    running: RelayProcess, provider: Simulator, client: openai.OpenAI
) -> None:
    with client.realtime.connect(model="gpt-realtime") as connection:
        heard = Listener(connection)
        connection.session.update(
            session={"type": "realtime", "output_modalities": ["text"], "tools": [CLOCK]}
        )
        connection.conversation.item.create(item=message("Please get time in Lisbon"))
        connection.response.create()
        (call,) = heard.until("response.done").response.output
        assert (call.name, call.arguments) == ("get_time", '{"city":"Lisbon"}')
        connection.conversation.item.create(
            item={"type": "function_call_output", "call_id": call.call_id, "output": "noon"}
        )
        connection.response.create()
        (answer,) = heard.until("response.done").response.output
        assert answer.content[0].text == "get_time says: noon"
    settled_alike(running, provider, heard.events, {"response completed": 2})


def test_speaking_into_an_answer_cancels_it_and_bills_what_was_generated(
    running: RelayProcess, provider: Simulator, client: openai.OpenAI
) -> None:
    with client.realtime.connect(model="gpt-realtime") as connection:
        heard = Listener(connection)
        connection.session.update(
            session={"type": "realtime", "instructions": "Speak for 200 seconds."}
        )
        connection.response.create()
        heard.until("response.output_audio.delta")
        say(connection, 500)
        done = heard.until("response.done").response
        assert (done.status, done.status_details.reason) == ("cancelled", "turn_detected")
        assert 0 < done.usage.output_token_details.audio_tokens < 4_000
    settled_alike(running, provider, heard.events, {"response cancelled": 1})


def test_a_cancelled_answer_bills_what_was_generated_and_the_next_goes_on(
    running: RelayProcess, provider: Simulator, client: openai.OpenAI
) -> None:
    with client.realtime.connect(model="gpt-realtime") as connection:
        heard = Listener(connection)
        connection.response.create(response={"instructions": "Speak for 200 seconds."})
        heard.until("response.output_audio.delta")
        connection.response.cancel()
        done = heard.until("response.done").response
        assert (done.status, done.status_details.reason) == ("cancelled", "client_cancelled")
        connection.response.create(response={"output_modalities": ["text"]})
        heard.until("response.done")
    settled_alike(
        running, provider, heard.events, {"response cancelled": 1, "response completed": 1}
    )


def test_an_answer_cut_by_its_limit_is_incomplete(
    running: RelayProcess, provider: Simulator, client: openai.OpenAI
) -> None:
    with client.realtime.connect(model="gpt-realtime") as connection:
        heard = Listener(connection)
        asked = {"output_modalities": ["text"], "max_output_tokens": 12}
        connection.response.create(response={**asked, "instructions": "Answer in 300 words."})
        assert heard.until("response.done").response.status == "incomplete"
    settled_alike(running, provider, heard.events, {"response incomplete": 1})


def test_parallel_responses_outside_the_conversation(
    running: RelayProcess, provider: Simulator, client: openai.OpenAI
) -> None:
    with client.realtime.connect(model="gpt-realtime") as connection:
        heard = Listener(connection)
        for number in range(5):
            connection.response.create(
                response={
                    "conversation": "none",
                    "output_modalities": ["text"],
                    "input": [message(f"number {number} " * (number + 1))],
                }
            )
        heard.until("response.done", count=5)
        created = heard.of("response.created")
        first_done = heard.events.index(heard.of("response.done")[0])
        assert heard.events.index(created[-1]) < first_done, "they ran in parallel"
    settled_alike(running, provider, heard.events, {"response completed": 5})


def test_a_transcription_session(
    running: RelayProcess, provider: Simulator, client: openai.OpenAI
) -> None:
    with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        heard = Listener(connection)
        assert heard.until("session.created").session.type == "transcription"
        connection.session.update(
            session={
                "type": "transcription",
                "audio": {"input": {"transcription": {"model": "gpt-4o-mini-transcribe"}}},
            }
        )
        for milliseconds in (1_000, 3_000):
            say(connection, milliseconds)
            connection.input_audio_buffer.commit()
            heard.until(TRANSCRIBED)
    settled_alike(running, provider, heard.events, {"transcription completed": 2})


def test_a_client_that_leaves_in_the_middle_of_an_answer_pays_what_the_provider_bills(
    running: RelayProcess, provider: Simulator, client: openai.OpenAI
) -> None:
    with client.realtime.connect(model="gpt-realtime") as connection:
        heard = Listener(connection)
        connection.response.create(response={"instructions": "Speak for 200 seconds."})
        heard.until("response.output_audio.delta")
        (unit,) = [event.response.id for event in heard.of("response.created")]
    (record,) = eventually(
        lambda: [r for r in running.records() if r["unit_id"] == unit], "the record"
    )
    assert (record["status"], record["source"]) == ("cancelled", "reported")
    (billed,) = [entry for entry in provider.billed if entry.id == unit]
    spoken = billed.usage["output_token_details"]["audio_tokens"]
    assert record["output_audio_tokens"] == spoken > 0
    assert spoken < 4_000, "it was cancelled, not waited for"


def test_the_wrong_key_is_the_clients_own_kind_of_error(running: RelayProcess) -> None:
    with (
        openai.OpenAI(
            api_key="rk-not-a-key-0000", websocket_base_url=f"{running.ws}/v1"
        ) as stranger,
        pytest.raises(InvalidStatus, match="401"),
        stranger.realtime.connect(model="gpt-realtime"),
    ):
        pass
