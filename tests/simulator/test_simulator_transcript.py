"""Recordings: read whole, played byte for byte."""

import json
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from relay_app.simulator import Simulator, background
from relay_app.simulator.transcript import frames, load

RECORDINGS = sorted((Path(__file__).parents[1] / "transcripts").glob("*.jsonl"))
every_recording = pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)


@every_recording
def test_frames_are_the_compact_json_of_the_file(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    expected = [
        (line["dir"], line["ts_ms"], json.dumps(line["frame"], separators=(",", ":")))
        for line in lines
        if "frame" in line
    ]
    assert list(frames(path)) == expected


def play(path: Path, simulator: Simulator, **options: Any) -> tuple[list[str], list[str], int]:
    """Be the recording's client; returns (what we sent, what we got, the close code)."""
    recording = load(path)
    sent, got = [], []
    query = "intent=transcription" if "intent=" in recording.meta["handshake"]["url"] else "model=m"
    with connect(
        f"{simulator.url}/realtime?{query}", compression=None, max_size=None, **options
    ) as socket:
        for direction, _, text in recording.frames:
            if direction == "c2s":
                socket.send(text)
                sent.append(text)
            else:
                message = socket.recv(timeout=30)
                assert isinstance(message, str)
                got.append(message)
        if recording.close["by"] == "server":
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=30)
    assert socket.protocol.close_code is not None
    return sent, got, socket.protocol.close_code


@every_recording
def test_a_recording_is_played_byte_for_byte(path: Path) -> None:
    with background(transcript=path, speed=0) as simulator:
        sent, got, code = play(path, simulator)
        received = simulator.received[-1]
    assert got == [text for direction, _, text in frames(path) if direction == "s2c"]
    assert code == load(path).close["code"]
    assert list(received) == sent


def test_a_beta_client_gets_its_recording() -> None:
    path = next(path for path in RECORDINGS if path.stem.startswith("03"))
    with background(transcript=path, speed=0) as simulator:
        headers = {"OpenAI-Beta": "realtime=v1"}
        _, got, _ = play(path, simulator, additional_headers=headers)
    assert len(got) > 10


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "no frames"),
        ("{", "line 1: not JSON"),
        ('{"dir":"sideways"}', "line 1: unknown dir 'sideways'"),
        ('{"dir":"s2c","ts_ms":1}', "line 1: no 'frame'"),
    ],
)
def test_a_bad_recording_is_refused_with_its_line(
    tmp_path: Path, content: str, complaint: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=complaint):
        Simulator(transcript=path)


def test_a_missing_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing\.jsonl: No such file"):
        Simulator(transcript=tmp_path / "nothing.jsonl")
