"""Clients that break the rules, byte by byte, or just vanish.

The rule: as with the polite ones, a function's docstring is what the document says.
"""

import json
import select
import time
from contextlib import suppress

from support.clients import CLOSE, CLOSED, PATIENCE_SECONDS, PING, TEXT, Peer, knock
from support.relays import RelayProcess

from faults.polite_clients import ASK, ASK_FOR_SPEECH
from faults.story import LAST, Story
from faults.table import LIMITS

__all__ = [
    "falls_silent", "never_listens", "never_reads", "pings_much", "resets_amid",
    "sends_a_bad_frame", "sends_too_much",
]  # fmt: skip

ASK_BESIDE = json.dumps(
    {
        "type": "response.create",
        "response": {"conversation": "none", "output_modalities": ["text"]},
    }
)

ASK_FOR_A_SPEECH = json.dumps(
    {"type": "response.create", "response": {"instructions": "Speak for 900 seconds."}}
)


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


def never_listens(relay: RelayProcess, model: str, story: Story) -> None:
    """The client asks for a quarter of an hour of speech, and reads nothing; it pings."""
    with knock(relay, f"model={model}", receive_bytes=4096) as peer:
        peer.say(ASK_FOR_A_SPEECH)
        # A reset may be outside of a window that is shut; what is sent afterwards brings another.
        _wait_for_reset(peer, meanwhile=peer.frame(PING, b"?"))
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


def _wait_for_reset(peer: Peer, meanwhile: bytes = b"") -> None:
    """``meanwhile`` is sent once a second."""
    waiting = select.poll()
    waiting.register(peer.sock, select.POLLERR | select.POLLHUP)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not waiting.poll(1000):
        assert time.monotonic() < deadline, "the connection was not ended"
        with suppress(OSError):  # which is the end, as the next poll sees
            peer.send(meanwhile)
