"""``run``: a process that says when it is ready and stops when it is told to."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from relay_app.simulator.command import parse_bind, run

PROGRAM = "import sys; from relay_app.simulator.command import run; run(sys.argv[1], speed=0)"


@pytest.fixture
def process() -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    ) as started:
        yield started
        started.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_it_is_ready_and_stops_cleanly(
    process: "subprocess.Popen[str]", number: signal.Signals
) -> None:
    assert process.stdout is not None
    word, url = process.stdout.readline().split()
    assert word == "ready"
    assert url.startswith("http://127.0.0.1:")
    with connect(f"ws{url.removeprefix('http')}/v1/realtime?model=m") as socket:
        socket.recv(timeout=30)
        process.send_signal(number)
        with pytest.raises(ConnectionClosed, match="1001"):
            socket.recv(timeout=30)
    assert process.wait(30) == 0
    assert process.stdout.read() == ""


@pytest.mark.parametrize(
    ("bind", "expected"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:80", ("::1", 80)), ("h:65535", ("h", 65535))],
)
def test_a_bind_is_a_host_and_a_port(bind: str, expected: tuple[str, int]) -> None:
    assert parse_bind(bind) == expected


@pytest.mark.parametrize("bind", ["", "8080", ":80", "h:", "h:x", "h:70000", "h:-1"])
def test_anything_else_is_refused_by_name(bind: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        run(bind)


def test_what_cannot_be_played_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        run("127.0.0.1:0", transcript=tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="unknown scenario"):
        run("127.0.0.1:0", scenario="none")
    with pytest.raises(ValueError, match="speed"):
        run("127.0.0.1:0", speed=-1)


def test_an_address_that_is_not_ours_stops_the_start() -> None:
    with pytest.raises(ValueError, match=r"cannot bind to '192\.0\.2\.1:0'"):
        run("192.0.2.1:0")
