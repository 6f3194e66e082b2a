"""Clients that people use, each through the relay to the simulator: they are let in, hold a
conversation, and what they saw of its usage is what the ledger holds."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.bills import bills, figures
from support.clients import KEY, PATIENCE_SECONDS
from support.processes import simulator
from support.relays import RelayProcess, relay
from support.secrets import PROVIDER_KEY
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import InvalidStatus

ASK = {
    "type": "conversation.item.create",
    "item": {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "Zwölf Boxkämpfer jagen Viktor"}],
    },
}
ANSWER = {"type": "response.create", "response": {"output_modalities": ["text"]}}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    folder = tmp_path_factory.mktemp("clients")
    with simulator("--speed", "0") as url, relay(folder, url) as process:
        yield process
    assert "Traceback" not in process.output
    assert process.key not in process.output
    assert PROVIDER_KEY not in process.output


def ledger_holds(running: RelayProcess, events: list[dict]) -> None:
    """The one response that the client saw is in the ledger as the client saw it."""
    expected = bills(events)
    assert len(expected) == 1
    found = figures(running.records())
    assert {unit: found.get(unit) for unit in expected} == expected
    (text,) = [e["text"] for e in events if e["type"] == "response.output_text.done"]
    assert text == "You said: Zwölf Boxkämpfer jagen Viktor"


def authorization(running: RelayProcess) -> str:
    return f"Authorization: Bearer {running.key}"


# -- websockets ------------------------------------------------------------------------------


def test_websockets_sync(running: RelayProcess) -> None:
    with running.connect() as client:
        events = [json.loads(client.recv(PATIENCE_SECONDS))]
        assert events[0]["type"] == "session.created"
        client.send(json.dumps(ASK))
        client.send(json.dumps(ANSWER))
        while events[-1]["type"] != "response.done":
            events.append(json.loads(client.recv(PATIENCE_SECONDS)))
        client.ping().wait(PATIENCE_SECONDS)
    assert client.close_code == 1000
    ledger_holds(running, events)


def test_websockets_asyncio_with_its_defaults(running: RelayProcess) -> None:
    """It offers compression, which the relay declines, and pings by itself."""

    async def talk() -> list[dict]:
        url = f"{running.ws}/v1/realtime?model=gpt-realtime"
        headers = {"Authorization": f"Bearer {running.key}"}
        async with connect_async(url, additional_headers=headers, ping_interval=0.01) as client:
            assert client.response.headers.get("Sec-WebSocket-Extensions") is None
            await client.send(json.dumps(ASK))
            await client.send(json.dumps(ANSWER))
            events = [json.loads(await client.recv())]
            while events[-1]["type"] != "response.done":
                events.append(json.loads(await client.recv()))
            return events

    ledger_holds(running, asyncio.run(talk()))


def test_the_browser_way(running: RelayProcess) -> None:
    """A browser sets no headers but Origin: its key comes among the subprotocols."""
    subprotocols = ["realtime", f"openai-insecure-api-key.{running.key}"]
    with running.connect(
        additional_headers=None, subprotocols=subprotocols, origin="https://app.example"
    ) as client:
        assert client.subprotocol == "realtime"
        assert running.key not in str(client.response.headers)
        events = [json.loads(client.recv(PATIENCE_SECONDS))]
        client.send(json.dumps(ASK))
        client.send(json.dumps(ANSWER))
        while events[-1]["type"] != "response.done":
            events.append(json.loads(client.recv(PATIENCE_SECONDS)))
    ledger_holds(running, events)


@pytest.mark.parametrize(
    ("subprotocols", "status"),
    [(["realtime"], 401), (["realtime", "openai-insecure-api-key.rk-wrong-key-11111"], 401)],
    ids=["no key", "wrong key"],
)
def test_a_browser_without_the_right_key_is_refused_before_the_101(
    running: RelayProcess, subprotocols: list[str], status: int
) -> None:
    with (
        pytest.raises(InvalidStatus) as refused,
        running.connect(additional_headers=None, subprotocols=subprotocols),
    ):
        pass
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body)["error"]["type"]


# -- command lines ---------------------------------------------------------------------------


@contextmanager
def piped(*command: str | Path) -> Iterator[subprocess.Popen]:
    """A process to talk to by lines; its stdin stays open until the test closes it."""
    with subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def events_of(process: subprocess.Popen, prompt: str = "") -> Iterator[dict]:
    """The events that a process prints, one a line behind ``prompt``."""
    for line in process.stdout:
        found = line.find(prompt + "{")
        if found >= 0:
            yield json.loads(line[found + len(prompt) :])
    raise AssertionError(f"it ended: {process.stderr.read()}")


def talk_by_lines(process: subprocess.Popen, prompt: str = "") -> list[dict]:
    events = []
    for event in events_of(process, prompt):
        events.append(event)
        if event["type"] == "session.created":
            for message in (ASK, ANSWER):
                process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
        if event["type"] == "response.done":
            return events
    raise AssertionError("unreachable")


def test_websocat(running: RelayProcess) -> None:
    websocat = Path(sys.executable).parent / "websocat"
    url = f"{running.ws}/v1/realtime?model=gpt-realtime"
    with piped(websocat, "-t", f"-H={authorization(running)}", url) as process:
        events = talk_by_lines(process)
        process.stdin.close()
        assert process.wait(PATIENCE_SECONDS) == 0
    ledger_holds(running, events)


@pytest.fixture(scope="module")
def wscat(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The command, from the PATH or else from npm."""
    if found := shutil.which("wscat"):
        return found
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("wscat is a Node program, and there is neither wscat nor npm on the PATH")
    folder = tmp_path_factory.mktemp("npm")
    command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), "wscat@6"]
    try:
        own = {"HOME": str(folder), "npm_config_cache": str(folder / "cache")}
        subprocess.run(
            command, check=True, capture_output=True, timeout=60, cwd=folder, env=os.environ | own
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"wscat is not on the PATH and npm could not install it: {error}")
    return str(folder / "node_modules" / ".bin" / "wscat")


def test_wscat(running: RelayProcess, wscat: str) -> None:
    url = f"{running.ws}/v1/realtime?model=gpt-realtime"
    # Off a terminal it prints nothing of what it hears but the payload.
    with piped(wscat, "--no-color", "-c", url, "-H", authorization(running)) as process:
        events = talk_by_lines(process)
        process.stdin.close()
        assert process.wait(PATIENCE_SECONDS) == 0
    ledger_holds(running, events)


def test_curls_upgrade_request_is_answered_101_and_the_first_frame(running: RelayProcess) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl on the PATH")
    command = [
        curl, "--silent", "--include", "--no-buffer", "--http1.1",
        "--max-time", str(PATIENCE_SECONDS),
        "-H", "Connection: Upgrade", "-H", "Upgrade: websocket",
        "-H", "Sec-WebSocket-Version: 13", "-H", f"Sec-WebSocket-Key: {KEY}",
        "-H", authorization(running), f"{running.url}/v1/realtime?model=gpt-realtime",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        head = b"".join(iter(process.stdout.readline, b"\r\n"))
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"\r\nSec-WebSocket-Accept: " in head
        first, length = process.stdout.read(2)
        assert first == 0x81, "a whole text frame"
        assert length == 126, "unmasked, and with a length of two bytes"
        size = int.from_bytes(process.stdout.read(2), "big")
        assert json.loads(process.stdout.read(size))["type"] == "session.created"
        process.kill()


def test_curl_without_an_upgrade_is_told_what_to_do(running: RelayProcess) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl on the PATH")
    command = [curl, "--silent", "--include", f"{running.url}/v1/realtime?model=gpt-realtime"]
    answer = subprocess.run(command, capture_output=True, timeout=PATIENCE_SECONDS, check=True)
    head, _, body = answer.stdout.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 426 ")
    assert json.loads(body)["error"]["code"] == "upgrade_required"
