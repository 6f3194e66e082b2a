"""Clients that keep to the rules of the protocol, whatever they ask for.

The rule: a function's docstring is what the document says of its client.
"""

import json
from base64 import b64encode
from collections.abc import Collection
from typing import Any

from support.clients import PATIENCE_SECONDS
from websockets.sync.client import ClientConnection

from faults.life import listen, well_behaved
from faults.story import LAST, Story
from relay_app.simulator import voice
from relay_app.simulator.audio_format import PCM16

__all__ = [
    "asks", "does_everything", "hears_speech", "leaves_amid", "leaves_before_its_transcript",
    "sends_audio", "sends_audio_and_asks", "sends_nonsense", "stays",
]  # fmt: skip

ASK = json.dumps({"type": "response.create", "response": {"output_modalities": ["text"]}})
ASK_FOR_SPEECH = json.dumps(
    {"type": "response.create", "response": {"instructions": "Speak for 30 seconds."}}
)
AUDIO = json.dumps({"type": "input_audio_buffer.append", "audio": "A" * 64_000})
TRANSCRIBE = {
    "type": "session.update",
    "session": {
        "type": "realtime",
        "audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}},
    },
}
TOOL = {"type": "function", "name": "look_up", "parameters": {"properties": {"what": {}}}}
DAY = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Good day."}]}


@well_behaved
def asks(client: ClientConnection, story: Story) -> None:
    """The client asks for an answer in text, and leaves when it is over."""
    client.send(ASK)
    listen(client, story)


@well_behaved
def stays(client: ClientConnection, story: Story) -> None:
    """The client asks for an answer in text, and stays when it is over."""
    client.send(ASK)
    listen(client, story, until="")


@well_behaved
def hears_speech(client: ClientConnection, story: Story) -> None:
    """The client asks for half a minute of speech, and leaves when it is over."""
    client.send(ASK_FOR_SPEECH)
    listen(client, story)


@well_behaved
def leaves_amid(client: ClientConnection, story: Story) -> None:
    """The client closes in the middle of the answer."""
    client.send(ASK_FOR_SPEECH)
    listen(client, story, until="response.output_audio.delta")


@well_behaved
def sends_audio(client: ClientConnection, story: Story) -> None:
    """The client sends 64 MB of audio, and then waits for an answer."""
    listen(client, story, until="session.created")
    for _ in range(1000):
        client.send(AUDIO)
    listen(client, story, until="")


@well_behaved
def sends_audio_and_asks(client: ClientConnection, story: Story) -> None:
    """The client sends 640 kB of audio, asks for an answer, and leaves when it is over."""
    for _ in range(10):
        client.send(AUDIO)
    client.send(ASK)
    listen(client, story)


@well_behaved
def sends_nonsense(client: ClientConnection, story: Story) -> None:
    """The client sends broken JSON, and then asks for an answer."""
    client.send('{"type":"response.cre')
    client.send(ASK)
    listen(client, story)


def _sound(milliseconds: int, *, loud: bool) -> dict[str, Any]:
    size = milliseconds * PCM16.bytes_per_ms
    data = voice.speech(PCM16, milliseconds) if loud else bytes(size)
    return {"type": "input_audio_buffer.append", "audio": b64encode(data).decode()}


@well_behaved
def does_everything(client: ClientConnection, story: Story) -> None:
    """The client does all that makes a provider say each of its events, and stays."""

    def say(*events: dict[str, Any], until: Collection[str]) -> None:
        """Says it, and hears until each of these has come."""
        waiting = set(until)
        for event in events:
            client.send(json.dumps(event))
        while waiting:
            waiting.discard(story.hears(client.recv(PATIENCE_SECONDS)))

    def answer(**response: Any) -> dict[str, Any]:
        return {"type": "response.create", "response": response}

    say({"type": "nonsense"}, until=["error"])
    say(TRANSCRIBE, until=["session.updated"])
    say(
        {"type": "conversation.item.create", "item": DAY},
        answer(output_modalities=["text"]),
        until=[LAST],
    )
    say(answer(tools=[TOOL], tool_choice="required"), until=[LAST])
    transcribed = "conversation.item.input_audio_transcription.completed"
    say(_sound(1000, loud=True), _sound(1000, loud=False), until=[transcribed, LAST])
    said = next(e for e in reversed(story.events) if e["type"] == "response.done")
    item = {"item_id": said["response"]["output"][0]["id"]}
    say({"type": "input_audio_buffer.clear"}, until=["input_audio_buffer.cleared"])
    for what in ("retrieve", "truncate", "delete"):
        place = {"content_index": 0, "audio_end_ms": 100} if what == "truncate" else {}
        past = f"conversation.item.{what.removesuffix('e')}ed"
        say({"type": f"conversation.item.{what}", **item, **place}, until=[past])
    listen(client, story, until="")


@well_behaved
def leaves_before_its_transcript(client: ClientConnection, story: Story) -> None:
    """The client speaks, and closes when the answer has begun, before its transcript has come."""
    for event in (TRANSCRIBE, _sound(1000, loud=True), _sound(1000, loud=False)):
        client.send(json.dumps(event))
    listen(client, story, until="response.created")
