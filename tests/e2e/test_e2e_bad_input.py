"""Peers that break the protocol, talk nonsense or vanish: the other side is told, the relay
goes on, and what is merely strange is passed on as it came."""

import json
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from support.bills import bills, figures
from support.clients import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Peer,
    Provider,
    eventually,
    frame,
    knock,
    provider,
)
from support.relays import RelayProcess, relay
from support.workers import metric, sessions_closed

LIMIT = 1 << 20
MASK = b"\x01\x02\x03\x04"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with provider() as listening:
        yield listening


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, upstream: Provider) -> Iterator[RelayProcess]:
    folder = tmp_path_factory.mktemp("bad-input")
    with relay(folder, upstream.url, limits=f"max_message_bytes = {LIMIT}") as process:
        yield process
    assert "Traceback" not in process.output


@pytest.fixture
def session(running: RelayProcess, upstream: Provider) -> Iterator[tuple[Peer, Peer]]:
    with pair(running, upstream) as both:
        yield both


@contextmanager
def pair(running: RelayProcess, upstream: Provider) -> Iterator[tuple[Peer, Peer]]:
    """Both ends of a session: its client, its upstream."""
    with knock(running) as client, upstream.meet() as target:
        yield client, target


# -- frames that break the protocol ----------------------------------------------------------

BROKEN: dict[str, Callable[[Peer], bytes]] = {
    "a reserved bit": lambda peer: peer.frame(TEXT, b"{}", reserved=4),
    "the last reserved bit": lambda peer: peer.frame(BINARY, b"{}", reserved=1),
    "unknown data opcode 3": lambda peer: peer.frame(3, b"{}"),
    "unknown control opcode 11": lambda peer: peer.frame(11),
    "the mask of the other side": lambda peer: frame(
        TEXT, b"{}", mask=b"" if peer.frame(TEXT)[1] & 0x80 else MASK
    ),
    "a ping of 126 bytes": lambda peer: peer.frame(PING, b"p" * 126),
    "a close of 126 bytes": lambda peer: peer.frame(CLOSE, b"\x03\xe8" + b"c" * 124),
    "a fragmented ping": lambda peer: peer.frame(PING, b"p", fin=False),
    "a fragmented close": lambda peer: peer.frame(CLOSE, b"\x03\xe8", fin=False),
    "a continuation of nothing": lambda peer: peer.frame(CONTINUATION, b"{}"),
    "a length that is too long": lambda peer: _sloppy(peer, 126, "!H", 2),
    "a length of 63 bits and one": lambda peer: _sloppy(peer, 127, "!Q", 1 << 63),
    "a close with half a code": lambda peer: peer.frame(CLOSE, b"\x03"),
    "a close code that is never sent": lambda peer: peer.frame(CLOSE, b"\x03\xed"),
}


def _sloppy(peer: Peer, marker: int, layout: str, length: int) -> bytes:
    bit = peer.frame(TEXT)[1] & 0x80
    return bytes((0x80 | TEXT, bit | marker)) + struct.pack(layout, length) + bytes(4) + b"{}"


@pytest.mark.parametrize("fault", BROKEN)
def test_a_client_that_breaks_the_protocol_is_told_1002_and_the_upstream_goodbye(
    session: tuple[Peer, Peer], fault: str
) -> None:
    client, target = session
    client.send(client.frame(TEXT, b'{"before":1}') + BROKEN[fault](client))
    assert client.hear_close()[0] == 1002
    assert target.hear() == b'{"before":1}'
    assert target.hear_close() == (1000, "")


@pytest.mark.parametrize("fault", BROKEN)
def test_an_upstream_that_breaks_the_protocol_is_told_1002_and_the_client_why(
    session: tuple[Peer, Peer], fault: str
) -> None:
    client, target = session
    target.send(target.frame(TEXT, b'{"before":1}') + BROKEN[fault](target))
    assert target.hear_close()[0] == 1002
    assert client.hear() == b'{"before":1}'
    error = client.told()
    assert error["type"] == "error"
    assert error["error"]["type"] == "server_error"
    assert error["error"]["code"] == "websocket_protocol_error"
    code, reason = client.hear_close()
    assert code == 1011
    assert reason == error["error"]["message"]


@pytest.mark.parametrize("offender", ["client", "upstream"])
def test_a_protocol_fault_inside_a_message_leaves_the_other_side_no_clean_close(
    session: tuple[Peer, Peer], offender: str
) -> None:
    client, target = session
    bad, good = (client, target) if offender == "client" else (target, client)
    bad.send(bad.frame(TEXT, b'{"half', fin=False) + bad.frame(TEXT, b"new", fin=False))
    assert bad.hear_close()[0] == 1002
    assert good.receive() == (TEXT, b'{"half', False)
    # No event of ours fits into the middle of a message.
    assert good.hear_close()[0] == 1011


def test_a_close_reason_that_is_not_utf8_is_1007(session: tuple[Peer, Peer]) -> None:
    client, target = session
    client.send(client.frame(CLOSE, b"\x03\xe8\xff\xfe"))
    assert client.hear_close()[0] == 1007
    assert target.hear_close() == (1000, "")


# -- sizes -----------------------------------------------------------------------------------


def test_a_client_that_announces_a_gigabyte_is_refused_at_its_header(
    session: tuple[Peer, Peer],
) -> None:
    client, target = session
    client.send(client.frame(TEXT, b"", length=1 << 30))
    error = client.told()
    assert error["error"]["code"] == "message_too_big"
    assert error["error"]["type"] == "invalid_request_error"
    assert client.hear_close()[0] == 1009
    assert target.hear_close() == (1000, "")


def test_an_upstream_that_announces_a_gigabyte_is_refused_at_its_header(
    session: tuple[Peer, Peer],
) -> None:
    client, target = session
    target.send(target.frame(BINARY, b"", length=1 << 30))
    assert target.hear_close()[0] == 1009
    assert client.told()["error"]["code"] == "message_too_big"
    assert client.hear_close()[0] == 1011


def test_fragments_count_together(session: tuple[Peer, Peer]) -> None:
    client, target = session
    half = b"x" * (LIMIT // 2)
    client.send(client.frame(TEXT, half, fin=False) + client.frame(CONTINUATION, half, fin=False))
    assert target.receive() == (TEXT, half, False)
    assert target.receive() == (CONTINUATION, half, False)
    client.send(client.frame(CONTINUATION, b"", length=1))
    assert client.told()["error"]["code"] == "message_too_big"
    assert client.hear_close()[0] == 1009
    assert target.hear_close()[0] == 1011


def test_a_message_of_exactly_the_limit_passes(session: tuple[Peer, Peer]) -> None:
    client, target = session
    client.say(b"x" * LIMIT)
    assert target.hear() == b"x" * LIMIT
    target.say(b"y" * LIMIT)
    assert client.hear() == b"y" * LIMIT


# -- payloads that make no sense -------------------------------------------------------------

NONSENSE: dict[str, tuple[int, bytes]] = {
    "broken JSON": (TEXT, b'{"type":"response.done","response":{"id":"r'),
    "JSON that was cut in a string": (TEXT, b'{"type":"session.update","session":"'),
    "an array": (TEXT, b'[{"type":"response.done"}]'),
    "a string": (TEXT, b'"response.done"'),
    "a number": (TEXT, b"17"),
    "null": (TEXT, b"null"),
    "nothing": (TEXT, b""),
    "white space": (TEXT, b" \r\n\t"),
    "no type": (TEXT, b'{"response":{"id":"r","usage":{"total_tokens":1}}}'),
    "a type that is a number": (TEXT, b'{"type":17}'),
    "a type that is null": (TEXT, b'{"type":null}'),
    "a type that is an object": (TEXT, b'{"type":{"type":"response.done"}}'),
    "a type nobody knows": (TEXT, b'{"type":"response.finished"}'),
    "100,000 brackets": (TEXT, b"[" * 100_000),
    "100,000 pairs of brackets": (TEXT, b"[" * 100_000 + b"]" * 100_000),
    "100,000 braces": (TEXT, b'{"a":' * 100_000),
    "brackets where the usage is": (
        TEXT,
        b'{"type":"response.done","response":{"usage":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    ),
    "a huge integer": (TEXT, b'{"type":' + b"9" * 10_000 + b"}"),
    "a huge exponent": (TEXT, b'{"type":1e99999}'),
    "half a surrogate pair": (TEXT, rb'{"type":"\ud800"}'),
    "the other half": (TEXT, rb'{"\udfff":"\udc00","type":"\udbff\ud800"}'),
    "invalid UTF-8": (TEXT, b'{"type":"\xff\xfe"}'),
    "a surrogate in UTF-8": (TEXT, b'{"type":"\xed\xa0\x80"}'),
    "NUL bytes": (TEXT, b'{"type":"a\x00b"}\x00'),
    "a byte order mark": (TEXT, b'\xef\xbb\xbf{"type":"nothing.known"}'),
    "binary": (BINARY, bytes(range(256)) * 16),
    "binary that looks like an event": (BINARY, b'{"type":"response.done","response":{}}'),
    "empty binary": (BINARY, b""),
}

DONE = {
    "type": "response.done",
    "event_id": "event_1",
    "response": {
        "id": "resp_after",
        "status": "completed",
        "output": [{"id": "item_1"}],
        "usage": {
            "total_tokens": 33,
            "input_tokens": 22,
            "output_tokens": 11,
            "input_token_details": {"text_tokens": 20, "audio_tokens": 2},
            "output_token_details": {"text_tokens": 10, "audio_tokens": 1},
        },
    },
}


def test_nonsense_passes_both_ways_byte_for_byte_and_is_counted_and_the_session_lives(
    running: RelayProcess, upstream: Provider
) -> None:
    directions = ("sent", "received")
    names = {way: f'relay_opaque_messages_total{{direction="{way}"}}' for way in directions}
    before = {way: metric(running, names[way]) for way in directions}
    closed = set(sessions_closed(running))
    with pair(running, upstream) as (client, target):
        for what, (opcode, payload) in NONSENSE.items():
            for speaker, listener in ((client, target), (target, client)):
                speaker.send(speaker.frame(opcode, payload))
                got = listener.receive()
                assert got is not None, what
                assert (got.opcode, got.payload, got.fin) == (opcode, payload, True), what
        target.tell(**DONE)
        assert client.told() == DONE
        client.say_close()
        assert target.hear_close() == (1000, "")
    for way in directions:
        grown = eventually(lambda way=way: metric(running, names[way]) - before[way], "counted")
        assert grown == len(NONSENSE), way
    (session,) = eventually(lambda: set(sessions_closed(running)) - closed, "it settles")
    records = [r for r in running.records() if r["session_id"] == session]
    assert figures(records) == bills([DONE])


WEIRD_DONES = {
    "huge integers": b'{"total_tokens":' + b"9" * 400 + b',"input_tokens":' + b"9" * 400 + b"}",
    "negative integers": b'{"total_tokens":-3,"input_tokens":-1,"output_tokens":-2}',
    "floats": b'{"total_tokens":1.5,"input_tokens":1e308,"output_tokens":0.5}',
    "strings": b'{"total_tokens":"5","input_tokens":"3","output_tokens":"2"}',
    "a list": b"[1,2,3]",
    "a number": b"5",
    "half a surrogate": rb'{"note":"\ud800","\udfff":1}',
    "details that are lists": b'{"total_tokens":5,"input_tokens":3,"output_tokens":2,'
    b'"input_token_details":[],"output_token_details":"x"}',
    "true": b'{"total_tokens":true,"input_tokens":true,"output_tokens":false}',
}


def test_a_usage_that_makes_no_sense_is_passed_on_and_unknown_not_zero_and_not_lost(
    running: RelayProcess, upstream: Provider
) -> None:
    closed = set(sessions_closed(running))
    with pair(running, upstream) as (client, target):
        for number, usage in enumerate(WEIRD_DONES.values()):
            said = (
                b'{"type":"response.done","response":{"id":"weird_%d","status":"completed",'
                b'"output":[{}],"usage":%s}}' % (number, usage)
            )
            target.say(said)
            assert client.hear() == said
    (session,) = eventually(lambda: set(sessions_closed(running)) - closed, "it settles")
    records = {r["unit_id"]: r for r in running.records() if r["session_id"] == session}
    assert {unit: record["source"] for unit, record in records.items()} == {
        f"weird_{number}": "unknown" for number in range(len(WEIRD_DONES))
    }
    for record in records.values():
        assert record["input_text_tokens"] == record["output_text_tokens"] == 0


# -- peers that vanish -----------------------------------------------------------------------


def says_the_upstream_was_lost(client: Peer) -> None:
    error = client.told()
    assert error["type"] == "error"
    assert error["error"]["code"] == "upstream_connection_lost"
    assert client.hear_close()[0] == 1011
    client.hang_up()
    client.hear_end()


def test_an_upstream_that_leaves_right_after_its_101(session: tuple[Peer, Peer]) -> None:
    client, target = session
    target.sock.close()
    says_the_upstream_was_lost(client)


def test_an_upstream_that_resets_right_after_its_101(session: tuple[Peer, Peer]) -> None:
    client, target = session
    target.reset()
    says_the_upstream_was_lost(client)


HALF_FRAMES = {
    "one byte of a header": b"\x81",
    "a header without its length": b"\x81\x7e\x01",
    "half a payload": b"\x81\x7e\x10\x00" + b"x" * 1000,
}


@pytest.mark.parametrize("half", HALF_FRAMES)
@pytest.mark.parametrize("how", ["reset", "FIN"])
def test_an_upstream_that_goes_in_mid_frame(
    session: tuple[Peer, Peer], half: str, how: str
) -> None:
    client, target = session
    target.say(b'{"whole":1}')
    assert client.hear() == b'{"whole":1}'
    target.send(HALF_FRAMES[half])
    if how == "reset":
        target.reset()
    else:
        target.hang_up()
    says_the_upstream_was_lost(client)


@pytest.mark.parametrize("how", ["reset", "FIN"])
def test_a_client_that_goes_in_mid_frame(session: tuple[Peer, Peer], how: str) -> None:
    client, target = session
    client.say(b'{"whole":1}')
    assert target.hear() == b'{"whole":1}'
    client.send(client.frame(TEXT, b"x" * 1000)[:500])
    if how == "reset":
        client.reset()
    else:
        client.hang_up()
    assert target.hear_close() == (1011, "the client connection was lost")


def test_garbage_behind_an_upstreams_close_is_ignored(session: tuple[Peer, Peer]) -> None:
    client, target = session
    closing = target.frame(CLOSE, struct.pack("!H", 4001) + b"over")
    target.send(closing + b"\xff" * 5000 + target.frame(TEXT, b"too late"))
    assert client.hear_close() == (4001, "over")
    assert target.hear_close() == (4001, "")
    client.say_close(4001)
    client.hang_up()
    client.hear_end()


def test_garbage_behind_a_clients_close_is_ignored(session: tuple[Peer, Peer]) -> None:
    client, target = session
    client.send(client.frame(CLOSE, struct.pack("!H", 1000)) + b"\xff" * 5000)
    assert target.hear_close() == (1000, "")
    assert client.hear_close() == (1000, "")


def test_a_close_without_a_code_is_mirrored_without_one(session: tuple[Peer, Peer]) -> None:
    client, target = session
    target.say_close(None)
    assert client.hear_close() == (None, "")
    assert target.hear_close() == (None, "")


def test_the_longest_close_reason_is_mirrored_whole(session: tuple[Peer, Peer]) -> None:
    client, target = session
    reason = "é" * 61 + "!"
    client.say_close(4999, reason)
    assert target.hear_close() == (4999, reason)


# -- around the handshake --------------------------------------------------------------------


def test_frames_glued_to_the_upstreams_101_belong_to_the_session(tmp_path) -> None:
    first = b'{"type":"session.created","session":{}}'
    glued = frame(TEXT, first) + frame(PING, b"hello") + frame(TEXT, b'{"half":')[:5]
    rest = frame(TEXT, b'{"half":')[5:]
    with (
        provider(behind=glued) as upstream,
        relay(tmp_path, upstream.url) as running,
        pair(running, upstream) as (client, target),
    ):
        assert client.hear() == first
        assert target.receive() == (PONG, b"hello", True)
        target.send(rest)
        assert client.hear() == b'{"half":'


def test_an_upstreams_close_glued_to_its_101_is_mirrored(tmp_path) -> None:
    refused = b'{"type":"error","error":{"code":"beta_api_shape_disabled"}}'
    glued = frame(TEXT, refused) + frame(CLOSE, struct.pack("!H", 4000) + b"beta")
    with (
        provider(behind=glued) as upstream,
        relay(tmp_path, upstream.url) as running,
        pair(running, upstream) as (client, _),
    ):
        assert client.hear() == refused
        assert client.hear_close() == (4000, "beta")


def test_bytes_glued_to_a_clients_request_are_never_taken_for_another(
    running: RelayProcess, upstream: Provider
) -> None:
    smuggled = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    with knock(running, behind=smuggled) as client, upstream.meet() as target:
        client.say(b'{"after":1}')
        assert target.hear() == b'{"after":1}'
        client.say_close()
        assert target.hear_close() == (1000, "")
        target.say_close()
        assert client.hear_close() == (1000, "")
        client.hang_up()
        client.hear_end()


def test_the_relay_answers_others_after_all_that(running: RelayProcess) -> None:
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"status": "ready"}
    assert metric(running, "relay_unobserved_messages_total") == 0
