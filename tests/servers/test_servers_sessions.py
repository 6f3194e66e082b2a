"""A session is the same on every server: who gets in, what goes through, how it ends."""

import select
from hashlib import sha256

import pytest
from servers_support import (
    FLOOD_MESSAGES,
    STOCK,
    Faces,
    ask,
    dial,
    flood_digest,
    read_answer,
    request_bytes,
)
from support.clients import Peer, eventually, knock
from support.relays import RelayProcess
from support.secrets import KEY, PROVIDER_KEY
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

KEY_PROTOCOL = f"openai-insecure-api-key.{KEY}"


def echoes(client: ClientConnection) -> bool:
    client.send("hello")
    return client.recv(10) == "hello"


def test_a_bearer_key_lets_in(server: RelayProcess):
    with server.connect("model=echo") as client:
        assert echoes(client)
        assert client.subprotocol is None


def test_an_api_key_header_lets_in(server: RelayProcess):
    with server.connect("model=echo", additional_headers={"api-key": KEY}) as client:
        assert echoes(client)


def test_a_key_among_the_subprotocols_lets_in_and_is_not_echoed(server: RelayProcess):
    offered = ["realtime", KEY_PROTOCOL]
    with server.connect("model=echo", additional_headers={}, subprotocols=offered) as client:
        assert client.subprotocol == "realtime"
        assert KEY not in repr(client.response)
        assert echoes(client)


def test_the_order_of_the_subprotocols_does_not_matter(server: RelayProcess):
    offered = [KEY_PROTOCOL, "realtime"]
    with server.connect("model=echo", additional_headers={}, subprotocols=offered) as client:
        assert client.subprotocol == "realtime"
        assert echoes(client)


def test_the_upstream_gets_the_providers_key_and_not_the_relays(server: RelayProcess, faces: Faces):
    with server.connect("model=echo") as client:
        assert echoes(client)
    headers = faces.asked[-1].headers
    assert headers["Authorization"] == f"Bearer {PROVIDER_KEY}"
    assert KEY not in str(headers)


def test_no_extension_is_negotiated(server: RelayProcess):
    with server.connect("model=echo", compression="deflate") as client:
        assert "Sec-WebSocket-Extensions" not in client.response.headers
        assert echoes(client)


@pytest.mark.not_on(STOCK, because="its 101 is out before anybody is asked")
def test_the_101_waits_for_the_upstreams(server: RelayProcess, faces: Faces):
    with dial(server) as sock:
        sock.sendall(request_bytes(server, "model=gated"))
        assert faces.waiting.acquire(timeout=10)
        assert not select.select([sock], [], [], 0.1)[0]
        faces.gate.release()
        assert read_answer(sock).status == 101
        peer = Peer(sock, masks=True, head=b"")
        peer.say("hello")
        assert peer.hear() == b"hello"


def test_messages_go_both_ways_whole_and_in_order(server: RelayProcess):
    sent = [f"{number} " + "ä" * (number * 97 % 4000) for number in range(100)]
    with server.connect("model=echo") as client:
        for message in sent:
            client.send(message)
        assert [client.recv(10) for _ in sent] == sent


def test_a_late_reader_gets_20_megabytes_whole(server: RelayProcess, faces: Faces):
    with knock(server, "model=flood", receive_bytes=4096) as peer:
        faces.flooded = 0
        peer.say("go")
        eventually(lambda: faces.flooded > 64, "the flood has begun")
        digest = sha256()
        for _ in range(FLOOD_MESSAGES):
            digest.update(peer.hear())
        assert digest.hexdigest() == flood_digest()


def test_a_clients_close_reaches_the_upstream(server: RelayProcess, faces: Faces):
    with server.connect("model=echo") as client:
        assert echoes(client)
        client.close(4321, server.name)
    eventually(lambda: (4321, server.name) in faces.closes, "the upstream has heard the close")


def test_an_upstreams_close_reaches_the_client(server: RelayProcess):
    with server.connect("model=close-4001") as client:
        client.send("go")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(10)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "the upstream says so")


def test_a_session_leaves_one_line_in_the_log_when_it_opens_and_one_when_it_closes(
    server: RelayProcess,
):
    def lines(session: str = "") -> list[str]:
        return [line for line in server.output.splitlines() if f"session={session}" in line]

    before = len(lines())
    with server.connect("model=echo") as client:
        for _ in range(20):
            assert echoes(client)
        # Sessions of the tests before may still be closing, so it is looked for by its id.
        opened = eventually(
            lambda: [line for line in lines()[before:] if "session open" in line], "it opened"
        )[-1]
    session = opened.split("session=")[1].split()[0]
    eventually(lambda: len(lines(session)) == 2, "two lines")
    closed = lines(session)[-1]
    assert "session close" in closed
    assert "by=client code=1000" in closed
    assert "messages=20/20" in closed
    for field in ("seconds=", "bytes=", "tokens=", "records="):
        assert field in closed
    assert "key=tester model=echo upstream=up" in opened


def test_health_is_answered_beside_sessions(server: RelayProcess):
    with server.connect("model=echo"):
        for path in ("/healthz", "/readyz", "/metrics"):
            assert ask(server, path=path, Upgrade=None, Connection="close").status == 200
