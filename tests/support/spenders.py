"""Clients that talk until their key's budget is spent."""

import json
from base64 import b64decode
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from time import monotonic

from websockets.exceptions import ConnectionClosed, InvalidStatus

from support.relays import RelayProcess

PATIENCE_SECONDS = 60
BYTES_PER_SECOND = 48_000
AUDIO_SECOND_USD = Decimal("0.00128")
"""A second of assistant audio of gpt-realtime: 20 tokens at 64 USD a million."""


@dataclass
class Spent:
    """What a client came to: ``status`` of its request, then how its session ended."""

    status: int = 101
    audio_seconds: float = 0.0
    responses: int = 0
    error: str = ""
    close_code: int = 0
    seconds: float = 0.0
    events: list[str] = field(default_factory=list)


def speak(seconds: int) -> str:
    """A ``response.create`` that the simulator answers with so many seconds of speech."""
    response = {"instructions": f"Speak for {seconds} seconds."}
    return json.dumps({"type": "response.create", "response": response})


def spend(running: RelayProcess, *, answer_seconds: int = 600, answers: int = 1_000) -> Spent:
    """Asks for answer after answer until the relay ends it, or ``answers`` have been heard."""
    spent = Spent()
    begun = monotonic()
    try:
        client = running.connect(open_timeout=PATIENCE_SECONDS)
    except InvalidStatus as refused:
        spent.status = refused.response.status_code
        return spent
    with client:
        try:
            client.send(speak(answer_seconds))
            while spent.responses < answers:
                hear(json.loads(client.recv(PATIENCE_SECONDS)), spent)
                if spent.events[-1] == "response.done" and spent.responses < answers:
                    with suppress(ConnectionClosed):  # what it said before is still to be read
                        client.send(speak(answer_seconds))
        except ConnectionClosed as closed:
            spent.close_code = closed.rcvd.code if closed.rcvd else 1006
    spent.seconds = monotonic() - begun
    return spent


def hear(event: dict, spent: Spent) -> None:
    spent.events.append(event["type"])
    if event["type"] == "response.output_audio.delta":
        spent.audio_seconds += len(b64decode(event["delta"])) / BYTES_PER_SECOND
    elif event["type"] == "response.done":
        spent.responses += 1
    elif event["type"] == "error":
        spent.error = event["error"]["code"]


def billed(records: list[dict]) -> Decimal:
    """What records cost together; none of them may be without a cost."""
    assert all(record["cost_usd"] is not None for record in records), records
    return sum((Decimal(record["cost_usd"]) for record in records), Decimal(0))
