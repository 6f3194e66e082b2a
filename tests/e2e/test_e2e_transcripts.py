"""Recorded sessions through the relay: every byte both ways, every close, every unit."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from support.bills import bills, figures
from support.clients import TEXT, Provider, eventually, knock, provider
from support.processes import simulator
from support.relays import RelayProcess, relay
from support.workers import sessions_closed

FILES = sorted((Path(__file__).parent.parent / "transcripts").glob("*.jsonl"))


class Recording:
    """A file: its frames as (direction, bytes), how it closed, and what it opened with."""

    def __init__(self, path: Path) -> None:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        self.query = re.search(r"\?(.*)", lines[0]["handshake"]["url"])[1]
        self.close = lines[-1]
        self.events = [(line["dir"], line["frame"]) for line in lines[1:-1]]
        self.frames = [
            (way, json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode())
            for way, event in self.events
        ]

    def bursts(self) -> Iterator[tuple[str, list[bytes]]]:
        """Frames of one direction that follow each other, together."""
        run: list[bytes] = []
        for index, (way, data) in enumerate(self.frames):
            run.append(data)
            if index + 1 == len(self.frames) or self.frames[index + 1][0] != way:
                yield way, run
                run = []

    @property
    def bills(self) -> dict:
        return bills(event for way, event in self.events if way == "s2c")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with provider() as listening:
        yield listening


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, upstream: Provider) -> Iterator[RelayProcess]:
    with relay(tmp_path_factory.mktemp("transcripts"), upstream.url) as process:
        yield process


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recorded_session_goes_through_untouched_and_is_billed_to_the_token(
    running: RelayProcess, upstream: Provider, path: Path
) -> None:
    recording = Recording(path)
    before = set(sessions_closed(running))
    play(running, upstream, recording, ((way, [data]) for way, data in recording.frames))
    play(running, upstream, recording, recording.bursts())
    sessions = eventually(
        lambda: len(closed := set(sessions_closed(running)) - before) == 2 and closed,
        "both sessions settle",
    )
    records = running.records()
    for session in sessions:
        of_it = [record for record in records if record["session_id"] == session]
        assert figures(of_it) == recording.bills


def play(
    running: RelayProcess,
    upstream: Provider,
    recording: Recording,
    steps: Iterable[tuple[str, list[bytes]]],
) -> None:
    """Both sides of a session, step by step: what one says is heard before the next step."""
    with knock(running, recording.query) as client, upstream.meet() as target:
        sides = {"c2s": (client, target), "s2c": (target, client)}
        for way, messages in steps:
            speaker, listener = sides[way]
            speaker.send(b"".join(speaker.frame(TEXT, message) for message in messages))
            for message in messages:
                assert listener.hear() == message
        closer, other = sides["c2s" if recording.close["by"] == "client" else "s2c"]
        closer.say_close(recording.close["code"], recording.close["reason"])
        said = (recording.close["code"], recording.close["reason"])
        assert other.hear_close() == said
        other.say_close(*said)
        assert closer.hear_close()[0] == recording.close["code"]
        closer.hang_up()
        other.hang_up()
        closer.hear_end()
        other.hear_end()


def test_the_recordings_bill_something() -> None:
    found = [bill for path in FILES for bill in Recording(path).bills.values()]
    assert {bill["kind"] for bill in found} == {"response", "transcription"}
    assert {bill["source"] for bill in found} == {"reported", "unreported"}
    assert {bill["status"] for bill in found} == {"completed", "cancelled", "incomplete", "failed"}
    assert any(bill["cached_audio_tokens"] for bill in found)
    assert any(bill["reasoning_tokens"] for bill in found)


def test_the_simulators_player_gives_the_same_session_through_the_relay(tmp_path: Path) -> None:
    path = next(path for path in FILES if path.stem.startswith("10-"))
    recording = Recording(path)
    with (
        simulator("--transcript", str(path), "--speed", "0") as url,
        relay(tmp_path, url) as running,
    ):
        with running.connect(recording.query) as client:
            for way, event in recording.events:
                if way == "c2s":
                    client.send(json.dumps(event))
                else:
                    assert json.loads(client.recv(timeout=30)) == event
        assert figures(running.records()) == recording.bills
