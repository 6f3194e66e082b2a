"""What clients do, by name: each function is a client's whole life, and its docstring its story.

The rule: it does what it is to do and listens to the end. What it hears it leaves in its Story.
"""

import json
import select
from collections.abc import Callable
from contextlib import suppress
from functools import wraps

from support.clients import CLOSE, CLOSED, PATIENCE_SECONDS, PING, TEXT, Peer, knock
from support.relays import RelayProcess
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from faults.story import LAST, Story
from faults.table import LIMITS

__all__ = ["CLIENTS", "Life"]

Life = Callable[[RelayProcess, str, Story], None]

ASK = json.dumps({"type": "response.create", "response": {"output_modalities": ["text"]}})
ASK_FOR_SPEECH = json.dumps(
    {"type": "response.create", "response": {"instructions": "Speak for 60 seconds."}}
)
ASK_BESIDE = json.dumps(
    {
        "type": "response.create",
        "response": {"conversation": "none", "output_modalities": ["text"]},
    }
)
AUDIO = json.dumps({"type": "input_audio_buffer.append", "audio": "A" * 64_000})


def _well_behaved(talk: Callable[[ClientConnection, Story], None]) -> Life:
    """A client of the ``websockets`` package that talks, and leaves unless it was sent away."""

    @wraps(talk)
    def life(relay: RelayProcess, model: str, story: Story) -> None:
        try:
            with relay.connect(f"model={model}", open_timeout=PATIENCE_SECONDS) as client:
                try:
                    talk(client, story)
                    client.close()
                    story.sees.append("leaves")
                except ConnectionClosed as closed:
                    with suppress(ConnectionClosed):  # what came before it, if it was not heard
                        _listen(client, story)
                    story.sees.append(f"close {closed.rcvd.code}" if closed.rcvd else "lost")
        except InvalidStatus as refusal:
            story.refused(refusal.response)

    return life


def _listen(connection: ClientConnection, story: Story, until: str = LAST) -> None:
    while story.hears(connection.recv(PATIENCE_SECONDS)) != until:
        pass


@_well_behaved
def asks(client: ClientConnection, story: Story) -> None:
    """The client asks for an answer in text, and leaves when it is over."""
    client.send(ASK)
    _listen(client, story)


@_well_behaved
def hears_speech(client: ClientConnection, story: Story) -> None:
    """The client asks for a minute of speech, and leaves when it is over."""
    client.send(ASK_FOR_SPEECH)
    _listen(client, story)


@_well_behaved
def leaves_amid(client: ClientConnection, story: Story) -> None:
    """The client closes in the middle of the answer."""
    client.send(ASK_FOR_SPEECH)
    _listen(client, story, until="response.output_audio.delta")


@_well_behaved
def sends_audio(client: ClientConnection, story: Story) -> None:
    """The client sends audio without end, 64 kB at a time."""
    _listen(client, story, until="session.created")
    while True:
        client.send(AUDIO)


@_well_behaved
def sends_audio_and_asks(client: ClientConnection, story: Story) -> None:
    """The client sends 640 kB of audio, asks for an answer, and leaves when it is over."""
    for _ in range(10):
        client.send(AUDIO)
    client.send(ASK)
    _listen(client, story)


@_well_behaved
def sends_nonsense(client: ClientConnection, story: Story) -> None:
    """The client sends broken JSON, and then asks for an answer."""
    client.send('{"type":"response.cre')
    client.send(ASK)
    _listen(client, story)


# -- clients that break the rules, byte by byte ----------------------------------------------


def _hear(peer: Peer, story: Story, until: str = "") -> None:
    """Listens until an event, or to the end; pings are not answered."""
    while (got := peer.receive()) is not CLOSED:
        if got.opcode == CLOSE:
            story.sees.append(f"close {int.from_bytes(got.payload[:2], 'big')}")
            peer.send(peer.frame(CLOSE, got.payload[:2]))
            return
        if got.opcode == TEXT and story.hears(got.payload.decode()) == until:
            return
    story.sees.append("lost")


def resets_amid(relay: RelayProcess, model: str, story: Story) -> None:
    """The client resets its connection in the middle of the answer."""
    with knock(relay, f"model={model}") as peer:
        peer.say(ASK_FOR_SPEECH)
        _hear(peer, story, until="response.output_audio.delta")
        peer.reset()
        story.sees.append("resets")


def falls_silent(relay: RelayProcess, model: str, story: Story) -> None:
    """The client neither says anything nor answers pings, as after a crash of its machine."""
    with knock(relay, f"model={model}") as peer:
        _hear(peer, story)


def never_reads(relay: RelayProcess, model: str, story: Story) -> None:
    """The client asks for four answers beside each other, and reads nothing."""
    with knock(relay, f"model={model}", receive_bytes=4096) as peer:
        for _ in range(4):
            peer.say(ASK_BESIDE)
        _wait_for_reset(peer)
        story.sees.append("lost")


def sends_a_bad_frame(relay: RelayProcess, model: str, story: Story) -> None:
    """The client sends a frame with a reserved bit set."""
    with knock(relay, f"model={model}") as peer:
        _hear(peer, story, until="session.created")
        peer.send(peer.frame(TEXT, b"{}", reserved=4))
        _hear(peer, story)


def sends_too_much(relay: RelayProcess, model: str, story: Story) -> None:
    """The client announces a message over max_message_bytes."""
    with knock(relay, f"model={model}") as peer:
        _hear(peer, story, until="session.created")
        peer.send(peer.frame(TEXT, b"", length=int(LIMITS["max_message_bytes"]) + 1))
        _hear(peer, story)


def pings_much(relay: RelayProcess, model: str, story: Story) -> None:
    """The client sends 1,000 pings at once, and then asks for an answer."""
    with knock(relay, f"model={model}") as peer:
        peer.send(peer.frame(PING, b"?") * 1000)
        peer.say(ASK)
        _hear(peer, story, until=LAST)
        peer.say_close()
        _hear(peer, story)


def _wait_for_reset(peer: Peer) -> None:
    waiting = select.poll()
    waiting.register(peer.sock, select.POLLERR | select.POLLHUP)
    assert waiting.poll(PATIENCE_SECONDS * 1000), "the connection was not ended"


_LIVES: tuple[Life, ...] = (
    asks, hears_speech, leaves_amid, sends_audio, sends_audio_and_asks, sends_nonsense,
    resets_amid, falls_silent, never_reads, sends_a_bad_frame, sends_too_much, pings_much,
)  # fmt: skip
CLIENTS: dict[str, Life] = {life.__name__.replace("_", "-"): life for life in _LIVES}
