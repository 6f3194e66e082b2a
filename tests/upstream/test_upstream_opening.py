"""The opening handshake, held against wsproto's, which it must never be more lenient than."""

import random

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request
from wsproto.utilities import ProtocolError, generate_accept_token, generate_nonce

from relay_app.settings import Upstream
from relay_app.upstream.catalogue import Route
from relay_app.upstream.dialects import Credential, request_for
from relay_app.upstream.opening import accepted, ask, is_switch

ANSWER = [
    b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade",
    b"Sec-WebSocket-Accept: @", b"Date: now", b"X-Request-ID: req_1",
]  # fmt: skip
PIECES = [
    b"\r\n", b"\n", b"\r", b"\r\n ", b" ", b"\t", b":", b",", b"\x00", b"\x0b", b"\x80", b"x",
    b"101", b"upgrade", b"keep-alive, ", b"HTTP/1.1",
]  # fmt: skip


def request(secret: str, base_url: str = "ws://upstream.example:8000/v1", **headers: str):
    upstream = Upstream("up", base_url)
    route = Route(upstream, "gpt-realtime")
    return request_for(route, Credential(secret), extra_headers=headers)


def damaged(random: random.Random) -> bytes:
    """An answer with up to two faults; in the place of its accept token stands an @."""
    lines = list(ANSWER)
    for _ in range(random.randrange(3)):
        at = random.randrange(len(lines))
        cut = random.randrange(len(lines[at]) + 1)
        line = lines[at]
        match random.randrange(5):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, random.choice(lines))
            case 2:
                lines[at] = line[:cut] + random.choice(PIECES) + line[cut:]
            case 3:
                lines[at] = line[:cut] + line[cut + 1 :]
            case 4:
                lines[at] = line.swapcase()
    head, end, _ = b"\r\n".join([*lines, b"", b""]).partition(b"\r\n\r\n")
    return head + end


def takes(answer: bytes) -> bool:
    key = generate_nonce()
    head = answer.replace(b"@", generate_accept_token(key))
    try:
        return is_switch(head) and bool(accepted(head, key))
    except ProtocolError:
        return False


def wsproto_takes(answer: bytes) -> bool:
    websocket = WSConnection(ConnectionType.CLIENT)
    asked = websocket.send(Request(host="upstream", target="/"))
    key = asked.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    try:
        websocket.receive_data(answer.replace(b"@", generate_accept_token(key)))
    except (ProtocolError, UnicodeError):
        return False
    return isinstance(next(websocket.events(), None), AcceptConnection)


@pytest.mark.parametrize("seed", range(10))
def test_what_wsproto_refuses_is_refused_and_what_is_whole_is_taken(seed):
    answers = [damaged(random.Random(f"{seed} {number}")) for number in range(300)]
    taken = {answer for answer in answers if takes(answer)}
    known = {answer for answer in answers if wsproto_takes(answer)}
    assert taken
    assert taken <= known
    # It takes an empty line for the end of a head that goes on; nothing else divides the two.
    assert all(b"\n\n" in answer or b"\n\r\n" in answer[:-2] for answer in known - taken)


def test_what_wsproto_would_send_is_what_is_sent():
    asked = request("sk-1", **{"OpenAI-Safety-Identifier": "user 1"})
    websocket = WSConnection(ConnectionType.CLIENT)
    theirs = websocket.send(
        Request(
            host=asked.authority,
            target=asked.target,
            extra_headers=[(k.encode(), v.encode()) for k, v in asked.headers],
        )
    )
    key = theirs.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    assert ask(asked, key) == theirs


@pytest.mark.parametrize("bad", ["sk-1\r\nX: y", "sk-1\n", "sk\x00", "sk\x7f"])
def test_a_value_that_breaks_out_of_its_line_is_not_sent_and_not_repeated(bad):
    with pytest.raises(ValueError, match="control character") as caught:
        ask(request(bad), b"key")
    assert "sk" not in str(caught.value)


def test_a_target_that_breaks_out_of_its_line_is_not_sent():
    with pytest.raises(ValueError, match="space"):
        ask(request("sk-1", "ws://upstream.example/v1 HTTP/1.1"), b"key")


def test_the_fields_of_an_answer_are_found_by_their_names_in_lower_case():
    key = generate_nonce()
    head = b"\r\n".join([*ANSWER, b"", b""]).replace(b"@", generate_accept_token(key))
    assert accepted(head, key)[b"x-request-id"] == b"req_1"
