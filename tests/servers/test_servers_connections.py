"""What is left of a session on the server's side: no descriptor, no byte, no connection."""

import socket
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
from servers_support import (
    STOCK,
    Faces,
    access_lines,
    descriptors,
    dial,
    read_answer,
    read_rest,
    request_bytes,
    settled_descriptors,
)
from support.clients import CLOSE, TEXT, Peer, eventually
from support.relays import RelayProcess

SMUGGLED = b"GET /healthz?smuggled HTTP/1.1\r\nHost: relay\r\n\r\n"


def session(server: RelayProcess) -> None:
    with server.connect("model=echo") as client:
        client.send("hello")
        assert client.recv(10) == "hello"


def test_no_descriptor_is_left_after_100_sessions(server: RelayProcess, faces: Faces):
    session(server)
    before = settled_descriptors(server)
    with ThreadPoolExecutor(5) as clients:
        for done in [clients.submit(session, server) for _ in range(100)]:
            done.result()
    eventually(lambda: descriptors(server) <= before, f"{before} descriptors again")
    eventually(lambda: not faces.open, "no upstream connection is left")


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_a_client_that_vanishes_before_its_101_leaves_nothing(
    server: RelayProcess, faces: Faces, how: str
):
    session(server)
    before = settled_descriptors(server)
    sock = dial(server)
    sock.sendall(request_bytes(server, "model=gated"))
    assert faces.waiting.acquire(timeout=10)
    if how == "RST":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    faces.gate.release()
    eventually(lambda: descriptors(server) <= before, f"{before} descriptors again")
    eventually(lambda: not faces.open, "no upstream connection is left")


def test_a_request_behind_the_upgrade_is_never_executed(server: RelayProcess):
    with dial(server) as sock:
        sock.sendall(request_bytes(server) + SMUGGLED)
        assert read_answer(sock).status == 101
        peer = Peer(sock, masks=True, head=b"")
        peer.say("hello")
        if server.name != STOCK:
            assert peer.hear() == b"hello"
        peer.say_close()
        assert b"HTTP/1.1" not in read_rest(sock)
    assert "smuggled" not in server.output


def test_a_request_behind_the_close_is_never_executed(server: RelayProcess):
    with dial(server) as sock:
        sock.sendall(request_bytes(server))
        assert read_answer(sock).status == 101
        peer = Peer(sock, masks=True, head=b"")
        peer.say("hello")
        assert peer.hear() == b"hello"
        sock.sendall(peer.frame(CLOSE, b"\x03\xe8") + SMUGGLED)
        assert b"HTTP/1.1" not in read_rest(sock)
    assert "smuggled" not in server.output


@pytest.mark.not_on(STOCK, because="there the client has had its 101, and may speak")
def test_what_is_sent_before_the_101_is_dropped(server: RelayProcess, faces: Faces):
    with dial(server) as sock:
        peer = Peer(sock, masks=True, head=b"")
        sock.sendall(request_bytes(server, "model=gated") + peer.frame(TEXT, b"in the packet"))
        assert faces.waiting.acquire(timeout=10)
        sock.sendall(peer.frame(TEXT, b"while dialling"))
        faces.gate.release()
        assert read_answer(sock).status == 101
        peer.say("after")
        assert peer.hear() == b"after"


@pytest.mark.only_on(STOCK, because="there a client may speak before the upstream has answered")
def test_frames_behind_the_stock_handlers_101_are_delivered(server: RelayProcess):
    with dial(server) as sock:
        peer = Peer(sock, masks=True, head=b"")
        frames = [peer.frame(TEXT, b"%d" % number) for number in range(3)]
        sock.sendall(request_bytes(server) + frames[0] + frames[1] + frames[2])
        assert read_answer(sock).status == 101
        assert [peer.hear() for _ in frames] == [b"0", b"1", b"2"]


@pytest.mark.not_on(STOCK, because="there the client has had its 101, and may speak")
def test_a_client_that_floods_before_its_101_gets_none(server: RelayProcess, faces: Faces):
    with dial(server) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        sock.sendall(request_bytes(server, "model=gated"))
        assert faces.waiting.acquire(timeout=10)
        sock.settimeout(0.2)
        try:
            sock.sendall(b"\0" * (4 << 20))
        except TimeoutError:
            pass
        sock.settimeout(30)
        faces.gate.release()
        try:
            # Either there was more than anybody waits for, or it was all dropped.
            assert read_rest(sock)[:12] in (b"", b"HTTP/1.1 101")
        except ConnectionError:
            pass
    eventually(lambda: not faces.open, "no upstream connection is left")


@pytest.mark.not_on("gevent_pywsgi", because="gunicorn's own handler fails to log it")
def test_what_is_no_http_harms_nobody(server: RelayProcess):
    with dial(server) as sock:
        sock.sendall(b"what is this\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        read_rest(sock)
    session(server)


@pytest.mark.not_on(
    STOCK, "geventwebsocket-hook", because="gevent-websocket's own handler logs no 101"
)
def test_a_session_is_one_line_101_in_the_servers_log(server: RelayProcess):
    eventually(lambda: settled_descriptors(server), "sessions before have ended")
    before = len(access_lines(server, 101))
    session(server)
    eventually(lambda: len(access_lines(server, 101)) > before, "the line is there")
    session(server)
    eventually(lambda: len(access_lines(server, 101)) > before + 1, "the second line is there")
    assert len(access_lines(server, 101)) == before + 2
