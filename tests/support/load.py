"""A crowd that talks through a relay, and an upstream that keeps its own account of what it did.

The rule: both write down what happened before anybody else can know it, so that what is in the
ledger can be held against it whatever was killed meanwhile.
"""

import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.server import ServerConnection

from support.bills import TRANSCRIBED, Bill, bill_of, figures
from support.relays import RelayProcess
from support.upstreams import upstream

__all__ = ["Crowd", "Talking", "Upstream", "Verdict", "judge", "talking_upstream"]

TICK_SECONDS = 0.02
"""Between two deltas of a response."""
SPOKEN = {"type": "response.output_audio.delta", "item_id": "item", "delta": "AAAA" * 400}


class Upstream:
    """A provider that answers whatever it is asked, several responses at once if it is asked so.

    ``began`` has the units it began; ``billed`` what it billed for those it ended, noted before
    it says so.
    """

    def __init__(self) -> None:
        self.url = ""
        self.began: set[str] = set()
        self.billed: dict[str, Bill] = {}

    def serve(self, connection: ServerConnection) -> None:
        running: dict[str, int] = {}
        try:
            connection.send(json.dumps(SESSION))
            while True:
                try:
                    event = json.loads(connection.recv(TICK_SECONDS if running else None))
                except TimeoutError:
                    self._go_on(connection, running)
                    continue
                self._answer(connection, event, running)
        except ConnectionClosed:
            pass

    def _answer(
        self, connection: ServerConnection, event: Mapping[str, Any], running: dict[str, int]
    ) -> None:
        if event["type"] == "response.create":
            unit = _new_id("resp")
            self.began.add(unit)
            # From one that is over at once to one that takes more than a second.
            running[unit] = random.choice([0, 0, 3, 12, 60])
            response = {"id": unit, "status": "in_progress", "output": [], "usage": None}
            connection.send(json.dumps({"type": "response.created", "response": response}))
            if not running[unit]:
                self._go_on(connection, running)
        elif event["type"] == "response.cancel":
            for unit in list(running):
                self._end(connection, unit, "cancelled")
                del running[unit]
        elif event["type"] == "input_audio_buffer.commit":
            item = _new_id("item")
            self.began.add(item)
            connection.send(json.dumps({"type": "input_audio_buffer.committed", "item_id": item}))
            usage = {"type": "duration", "seconds": random.randrange(1, 1000)}
            said = {"type": TRANSCRIBED, "item_id": item, "transcript": "Yes.", "usage": usage}
            self._bill(connection, said)

    def _go_on(self, connection: ServerConnection, running: dict[str, int]) -> None:
        for unit in list(running):
            running[unit] -= 1
            if running[unit] < 0:
                del running[unit]
                self._end(connection, unit, "completed")
            else:
                connection.send(json.dumps({**SPOKEN, "response_id": unit}))

    def _end(self, connection: ServerConnection, unit: str, status: str) -> None:
        response = {"id": unit, "status": status, "output": [{"id": "item"}], "usage": _usage()}
        self._bill(connection, {"type": "response.done", "response": response})

    def _bill(self, connection: ServerConnection, event: Mapping[str, Any]) -> None:
        unit, bill = _bill_of(event)
        self.billed[unit] = bill
        connection.send(json.dumps(event))


@contextmanager
def talking_upstream() -> Iterator[Upstream]:
    serving = Upstream()
    with upstream(serving.serve) as url:
        serving.url = url
        yield serving


@dataclass
class Talking:
    """What one client has been told: the ends it saw, and what was still open when it was cut
    off, with the moments at which it had heard of its beginning and was cut off."""

    seen: dict[str, Bill] = field(default_factory=dict)
    cut: dict[str, tuple[float, float]] = field(default_factory=dict)
    open: dict[str, float] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """The codes of the error events it got."""
    partings: list[str] = field(default_factory=list)
    """How connections ended that it did not end itself: a close code, or what broke."""

    def told(self, event: Mapping[str, Any]) -> bool:
        """Takes in an event; whether it ended something."""
        if event["type"] == "response.created":
            self.open[event["response"]["id"]] = time.monotonic()
        elif event["type"] == "input_audio_buffer.committed":
            self.open[event["item_id"]] = time.monotonic()
        elif event["type"] in ("response.done", TRANSCRIBED):
            unit, bill = _bill_of(event)
            assert unit not in self.seen, f"{unit} ended twice"
            self.open.pop(unit, None)
            self.seen[unit] = bill
            return True
        elif event["type"] == "error":
            self.errors.append(event["error"]["code"])
        return False

    def cut_off(self) -> None:
        now = time.monotonic()
        self.cut.update({unit: (heard, now) for unit, heard in self.open.items()})
        self.open.clear()


class Crowd:
    """Clients that talk until they are sent home, and come back whenever they are cut off.

    ``running`` may be another relay from one moment to the next. ``thinking`` is how many seconds
    a client says nothing before it asks for more, from and to.
    """

    def __init__(
        self, running: RelayProcess, clients: int, *, thinking: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        self.running = running
        self._thinking = thinking
        self.clients = [Talking() for _ in range(clients)]
        self._going_home = threading.Event()
        self._failed: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._come_and_go, args=(client,)) for client in self.clients
        ]

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_home()

    def go_home(self) -> None:
        """Each finishes what it talks about. Raises what went wrong with one of them."""
        self._going_home.set()
        for thread in self._threads:
            thread.join(60)
        if self._failed:
            raise self._failed[0]

    @property
    def ends(self) -> int:
        """How many ends of units were seen so far."""
        return sum(len(client.seen) for client in self.clients)

    @property
    def seen(self) -> dict[str, Bill]:
        return {unit: bill for client in self.clients for unit, bill in client.seen.items()}

    @property
    def cut(self) -> dict[str, tuple[float, float]]:
        return {unit: when for client in self.clients for unit, when in client.cut.items()}

    @property
    def refused(self) -> list[str]:
        return [reason for client in self.clients for reason in client.refused]

    def _come_and_go(self, client: Talking) -> None:
        while not self._going_home.is_set():
            try:
                with self.running.connect(open_timeout=30, close_timeout=1) as connection:
                    try:
                        self._talk(connection, client)
                    except ConnectionClosed:
                        _hear_out(connection, client)
            except (OSError, WebSocketException) as error:
                if (response := getattr(error, "response", None)) is not None:
                    client.refused.append(f"{response.status_code} {response.body!r}")
                elif isinstance(error, ConnectionClosed) and error.rcvd is not None:
                    client.partings.append(str(error.rcvd.code))
                else:
                    client.partings.append(repr(error))
                client.cut_off()
                self._going_home.wait(0.05)
            except BaseException as error:
                self._failed.append(error)
                raise

    def _talk(self, connection: Any, client: Talking) -> None:
        while not self._going_home.is_set():
            self._going_home.wait(random.uniform(*self._thinking))
            asks = random.choice(
                [["response.create"], ["response.create"] * 2, ["input_audio_buffer.commit"]]
            )
            for kind in asks:
                connection.send(json.dumps({"type": kind}))
            left = len(asks)
            while left:
                left -= client.told(json.loads(connection.recv(timeout=30)))


def _hear_out(connection: Any, client: Talking) -> None:
    """What was said before the close to a client that was just talking itself. Raises how it
    ended."""
    while True:
        client.told(json.loads(connection.recv(timeout=30)))


@dataclass
class Verdict:
    """What is wrong with a ledger, and what is in it."""

    missing: list[str]
    """Ends that a client saw, without a reported record."""
    wrong: list[str]
    """Records whose figures are not what was billed."""
    doubled: list[str]
    invented: list[str]
    """Records of units that nobody began."""
    traceless: list[str]
    """Units that were cut off, and have no record at all."""
    reported: int
    residual: int
    dropped: int

    @property
    def clean(self) -> bool:
        return not (self.missing or self.wrong or self.doubled or self.invented or self.traceless)


def judge(
    records: Iterable[Mapping[str, Any]],
    upstream: Upstream,
    seen: Mapping[str, Bill],
    cut: Iterable[str] = (),
) -> Verdict:
    """Holds the ledger against what was billed, what was ``seen``, and what was ``cut`` off."""
    records = list(records)
    units = Counter(record["unit_id"] for record in records)
    ids = Counter(record["id"] for record in records)
    found = {record["unit_id"]: record for record in records}
    reported = {unit for unit, record in found.items() if record["source"] == "reported"}
    told = figures(found[unit] for unit in reported)
    return Verdict(
        missing=[unit for unit in seen if unit not in reported],
        wrong=[unit for unit in reported if told[unit] != upstream.billed.get(unit)],
        doubled=[key for key, count in (units + ids).items() if count > 1],
        invented=[unit for unit in found if unit not in upstream.began],
        traceless=[unit for unit in cut if unit not in found],
        reported=len(reported),
        residual=sum(record["kind"] == "residual" for record in records),
        dropped=sum(record["status"] == "dropped" for record in records),
    )


SESSION = {
    "type": "session.created",
    "session": {
        "model": "gpt-realtime",
        "audio": {"input": {"transcription": {"model": "whisper-1"}}},
    },
}


def _new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def _usage() -> dict[str, Any]:
    text, audio, out_text, out_audio = (random.randrange(1, 5_000) for _ in range(4))
    cached = {"text_tokens": random.randrange(text), "audio_tokens": random.randrange(audio)}
    return {
        "total_tokens": text + audio + out_text + out_audio,
        "input_tokens": text + audio,
        "output_tokens": out_text + out_audio,
        "input_token_details": {
            "text_tokens": text,
            "audio_tokens": audio,
            "cached_tokens": sum(cached.values()),
            "cached_tokens_details": cached,
        },
        "output_token_details": {"text_tokens": out_text, "audio_tokens": out_audio},
    }


def _bill_of(event: Mapping[str, Any]) -> tuple[str, Bill]:
    found = bill_of(event)
    assert found is not None
    return found
