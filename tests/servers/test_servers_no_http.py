"""What is no HTTP at all is refused like everything else, and repeated nowhere."""

import json
import socket
from pathlib import Path

import pytest
from support.relays import RelayProcess, relay

SECRET = "rk-forgotten-colon-secret"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("no_http")
    with relay(folder, "ws://127.0.0.1:9/v1") as process:
        yield process


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (f"GET /v1/realtime HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {SECRET}\r\n\r\n", 400),
        (f"GET /v1/realtime?{SECRET * 200} HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (f"GET /v1/realtime HTTP/1.1\r\nHost: x\r\nX: {SECRET * 400}\r\n\r\n", 431),
        ("GET /v1/realtime HTTP/1.1\r\nHost: x\r\n" + "X: y\r\n" * 64 + "\r\n", 431),
        (f"{SECRET}\r\n\r\n", 400),
        (f"GET /{SECRET} HTTP/9.9\r\nHost: x\r\n\r\n", 400),
    ],
    ids=[
        "a header without a colon",
        "an endless line",
        "an endless header",
        "endless headers",
        "noise",
        "HTTP/9.9",
    ],
)
def test_no_http_is_refused_in_json_without_being_repeated(
    running: RelayProcess, request_head: str, status: int
):
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(request_head.encode())
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["error"]["code"] == "invalid_request"
    running.process.wait_for("Invalid request from ip=127.0.0.1")
    assert SECRET.encode() not in answer
    assert SECRET not in running.output
