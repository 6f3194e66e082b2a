"""Connections that never say what they want take no room from those that do."""

import json
import signal
import socket
import ssl
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
from servers_support import dial, many_faced, read_rest, request_bytes, settings_parts
from support.clients import eventually
from support.processes import python, ready_url, running
from support.relays import RelayProcess, relay, write_settings
from support.workers import metric

SLOW = 'relay_limit_refusals_total{limit="handshake"}'


def started(folder: Path, limits: str, **options):
    return relay(folder, "ws://127.0.0.1:9/v1", limits=limits, **options)


def answer_of(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65_536), b""))


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory):
    with started(tmp_path_factory.mktemp("impatient"), "handshake_seconds = 0.5") as process:
        yield process
    assert "Traceback" not in process.output


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /v1/real", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"],
    ids=["nothing", "half a line", "half a head"],
)
def test_a_head_that_does_not_come_is_408(impatient: RelayProcess, sent: bytes):
    before = metric(impatient, SLOW)
    with dial(impatient) as client:
        client.sendall(sent)
        head, _, body = answer_of(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["error"]["code"] == "request_timeout"
    assert metric(impatient, SLOW) == before + 1
    assert metric(impatient, 'relay_refused_total{by="client",status="408"}') >= 1


def test_a_head_that_comes_byte_by_byte_is_408_too(impatient: RelayProcess):
    began = time.monotonic()
    with dial(impatient) as client:
        client.settimeout(0.02)
        answer = b""
        for byte in request_bytes(impatient) * 100:
            client.sendall(bytes((byte,)))
            try:
                answer = client.recv(65_536)
                break
            except TimeoutError:
                pass
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < 10


def test_a_client_that_takes_its_time_is_served(tmp_path: Path):
    """Longer than gunicorn's own 2 seconds for what it takes for the next request."""
    with started(tmp_path, "handshake_seconds = 30") as patient, dial(patient) as client:
        client.sendall(b"GET /healthz HT")
        client.settimeout(2.5)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(30)
        client.sendall(b"TP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer_of(client).startswith(b"HTTP/1.1 200 ")


def test_more_slow_connections_than_there_is_room_for_keep_nobody_out(tmp_path: Path):
    """Of 101 connections that a worker takes here, the oldest makes room for the newest."""
    with ExitStack() as stack:
        faces = stack.enter_context(many_faced())
        limits = "max_sessions = 1\nhandshake_seconds = 300"
        parts = settings_parts(faces) | {"limits": f"{limits}\ndial_seconds = 5"}
        crowded = stack.enter_context(relay(tmp_path, faces.url, **parts))
        for _ in range(150):
            slow = stack.enter_context(dial(crowded))
            slow.sendall(b"GET /v1/realtime HTTP/1.1\r\n")
        client = stack.enter_context(crowded.connect("model=echo"))
        client.send("are you there?")
        assert client.recv(timeout=20) == "are you there?"
        assert metric(crowded, SLOW) >= 50


def test_gevent_websockets_worker_is_no_more_patient(tmp_path: Path):
    limits = "handshake_seconds = 0.5"
    with started(tmp_path, limits, server="geventwebsocket-worker") as impatient:
        for sent in (b"", b"GET /v1/real", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"):
            with dial(impatient) as client:
                client.sendall(sent)
                assert answer_of(client) == b""
        assert metric(impatient, SLOW) == 3
        with dial(impatient) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer_of(client).startswith(b"HTTP/1.1 200 ")
        assert metric(impatient, SLOW) == 3, "that one was served, and then was idle"
    assert "Traceback" not in impatient.output


def test_who_does_not_take_a_large_answer_loses_it(tmp_path: Path):
    with started(tmp_path, "", server="large-answers") as large, dial(large) as client:
        client.sendall(b"GET /v1/usage HTTP/1.1\r\nHost: x\r\n\r\n")
        given_up = 'relay_limit_refusals_total{limit="answer"}'
        eventually(lambda: metric(large, given_up) == 1, "it is given up")
        assert len(read_rest(client)) < 100_000_000
    assert "Traceback" not in large.output


def test_a_worker_that_stops_does_not_wait_for_heads(tmp_path: Path):
    limits = "handshake_seconds = 300\ndrain_seconds = 0"
    with started(tmp_path, limits) as stopping, dial(stopping) as slow:
        slow.sendall(b"GET /v1/real")
        metric(stopping, SLOW)  # whoever connected before has been accepted
        stopping.process.signal(signal.SIGTERM)
        assert answer_of(slow).startswith(b"HTTP/1.1 408 ")


def test_a_tls_handshake_has_no_longer(tmp_path: Path):
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain = tmp_path / "chain.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(chain)
    config = write_settings(tmp_path, "ws://127.0.0.1:9/v1", server="handshake_seconds = 0.5")
    command = python(
        "-m", "gunicorn", "-c", "python:relay_app.web.gunicorn", "--bind", "127.0.0.1:0",
        "--certfile", chain, "--keyfile", chain,
    )  # fmt: skip
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with running(command, cwd=tmp_path, env={"RELAY_CONFIG": str(config)}) as process:
        host, port = ready_url(process).removeprefix("https://").split(":")
        for sent in (b"", b"\x16\x03\x01"):
            with socket.create_connection((host, int(port)), timeout=30) as client:
                client.sendall(sent)
                assert answer_of(client) == b""
        with (
            socket.create_connection((host, int(port)), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname=host) as client,
        ):
            assert answer_of(client).startswith(b"HTTP/1.1 408 ")
        # Who speaks is served.
        with (
            socket.create_connection((host, int(port)), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname=host) as client,
        ):
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = answer_of(client).decode()
    assert 'relay_limit_refusals_total{limit="handshake"} 3.0' in answer
    assert "Traceback" not in process.output
