"""Several upstreams behind ``relay-app serve``: who does the work, and what a client notices."""

import json
import socket
import ssl
import subprocess
import threading
from collections import deque
from pathlib import Path

import pytest
import trustme
from support.clients import eventually
from support.processes import python, simulator
from support.proxies import connect_proxy
from support.relays import PROVIDER_KEY, RelayProcess, relay, write_settings
from support.upstreams import upstream
from support.workers import metrics
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.server import ServerConnection

SECOND = """
priority = 1

[[upstreams]]
name = "second"
dialect = "compatible"
base_url = "{url}"
api_keys = ["sk-planted-second-secret"]
priority = 2
"""
ASK = json.dumps({"type": "response.create", "response": {"output_modalities": ["text"]}})


def turn(running: RelayProcess) -> None:
    with running.connect() as client:
        client.send(ASK)
        while json.loads(client.recv(timeout=30))["type"] != "response.done":
            pass


def opened(running: RelayProcess) -> list[str]:
    return [line for line in running.output.splitlines() if "session open" in line]


def test_a_client_notices_nothing_of_an_upstream_that_refuses(tmp_path: Path):
    with (
        simulator("--scenario", "refuse-429") as refusing,
        simulator() as second,
        relay(tmp_path, refusing, upstreams=SECOND.format(url=second)) as running,
    ):
        turn(running)
        turn(running)
        records = eventually(lambda: (r := running.records()) and len(r) == 2 and r, "two records")
        figures = metrics(running)
    assert {record["upstream"] for record in records} == {"second"}
    first, later = opened(running)
    assert "upstream=second" in first
    assert 'tried="up (429)"' in first
    assert "tried=" not in later  # it rests
    assert "upstream rests upstream=up" in running.output
    assert figures['relay_upstream_attempts_total{result="429",upstream="up"}'] == 1
    assert figures['relay_upstream_attempts_total{result="ok",upstream="second"}'] == 2
    assert figures['relay_upstream_resting{upstream="up"}'] == 1
    assert PROVIDER_KEY not in running.output
    assert "planted" not in running.output


def test_one_that_is_silent_leaves_time_for_the_next(tmp_path: Path):
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        simulator() as second,
        relay(
            tmp_path,
            f"ws://127.0.0.1:{silent.getsockname()[1]}/v1",
            limits="dial_seconds = 2",
            upstreams=SECOND.format(url=second),
        ) as running,
    ):
        turn(running)
    [line] = opened(running)
    assert 'tried="up (timeout)"' in line


def test_a_key_that_is_refused_gives_way_to_another(tmp_path: Path):
    keys = '"sk-planted-second-secret"', '"sk-planted-bad", "sk-planted-good", "sk-planted-worse"'
    with (
        simulator("--api-key", "sk-planted-good") as provider,
        relay(
            tmp_path,
            "ws://127.0.0.1:1/v1",
            upstreams=SECOND.format(url=provider).replace(*keys),
        ) as running,
    ):
        for _ in range(4):
            turn(running)
        figures = metrics(running)
    refused = figures.get('relay_upstream_attempts_total{result="401",upstream="second"}', 0)
    assert refused == figures.get('relay_upstream_resting{upstream="second"}', 0) <= 2
    assert figures['relay_upstream_attempts_total{result="ok",upstream="second"}'] == 4
    assert 'tried="up (unreachable)' in opened(running)[0]
    assert "planted" not in running.output


def test_when_all_refuse_the_client_is_told_who_was_tried(tmp_path: Path):
    with (
        simulator("--scenario", "refuse-429") as limited,
        simulator("--scenario", "refuse-401") as refusing,
        relay(tmp_path, refusing, upstreams=SECOND.format(url=limited)) as running,
        pytest.raises(InvalidStatus) as caught,
    ):
        running.connect()
    answer = caught.value.response
    assert answer.status_code == 429
    assert answer.headers["Retry-After"] == "1"
    error = json.loads(answer.body)["error"]
    assert error["message"].endswith(" Tried: up (401), second (429).")
    assert error["code"] == "rate_limit_exceeded"
    assert "Tried: up (401), second (429)." in running.output
    assert "planted" not in running.output + answer.body.decode()


QUOTA = {"type": "insufficient_quota", "code": "insufficient_quota", "message": "no money"}


def accepts_and_fails(connection: ServerConnection) -> None:
    connection.send(json.dumps({"type": "session.created", "session": {}}))
    connection.send(json.dumps({"type": "error", "event_id": "e", "error": QUOTA}))
    connection.close(4000, "quota")


def hangs_up(connection: ServerConnection) -> None:
    connection.close(1011, "overloaded")


@pytest.mark.parametrize(
    ("handler", "code", "why"),
    [(accepts_and_fails, 4000, "error_key"), (hangs_up, 1011, "closed_1011")],
)
def test_one_that_accepts_and_then_fails_is_asked_last_from_then_on(
    tmp_path: Path, handler, code, why
):
    with (
        upstream(handler) as first,
        simulator() as second,
        relay(tmp_path, first, upstreams=SECOND.format(url=second)) as running,
    ):
        with running.connect() as client:
            with pytest.raises(ConnectionClosed):
                deque(iter(lambda: client.recv(timeout=30), None))
            assert client.close_code == code  # it is this client's: nothing is tried again
        running.process.wait_for(f"why={why}")
        turn(running)
    assert [line.count("upstream=second") for line in opened(running)] == [0, 1]
    assert "tried=" not in running.output


def test_an_upstream_behind_a_proxy_and_a_certificate_of_ones_own(tmp_path: Path):
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("provider.invalid").configure_cert(context)
    greeted = threading.Event()

    def greets(connection: ServerConnection) -> None:
        connection.send(json.dumps({"type": "session.created", "session": {}}))
        greeted.wait(30)

    names = {"provider.invalid": "127.0.0.1"}
    with upstream(greets, ssl=context) as base_url, connect_proxy(names=names) as proxy:
        port = base_url.rpartition(":")[2]
        own = f'ca_file = "ca.pem"\nproxy = "{proxy.url("relay:planted-word")}"'
        with relay(tmp_path, f"wss://provider.invalid:{port}", upstreams=own) as running:
            with running.connect() as client:
                assert json.loads(client.recv(timeout=30))["type"] == "session.created"
            greeted.set()
    assert b"Proxy-Authorization: Basic " in proxy.heads[0]
    assert "planted" not in running.output


def test_a_ca_file_that_is_none_stops_the_start_in_one_line(tmp_path: Path):
    (tmp_path / "ca.pem").write_text("no certificate")
    config = write_settings(tmp_path, "wss://h", upstreams='ca_file = "ca.pem"')
    command = python("-m", "relay_app.cli", "serve", "--config", config, "--bind", "127.0.0.1:0")
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    [line] = done.stderr.splitlines()
    assert "upstreams[0].ca_file = " in line
    assert "no PEM certificate in it" in line
