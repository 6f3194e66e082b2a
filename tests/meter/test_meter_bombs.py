"""What is made to be slow takes no longer than something ordinary of its size.

Measured is CPU time of this process, which is what the hub of a worker would be held for, beside
that of a plain message of the same size in the same run.
"""

import gc
import time
from collections.abc import Callable
from functools import cache

import pytest

from relay_app.meter import vocabulary
from relay_app.meter.message import WholeText
from relay_app.meter.meter import Meter

MB = 1 << 20
TIMES = 4
"""A plain text is parsed at 4 ns a byte; looking for what is too much of a thing is as quick."""
SERVER_SECONDS = 0.03
CLIENT_SECONDS = 0.03
"""What anything may take: as many values as are parsed, as many characters as are tokenised."""


@pytest.fixture(scope="module", autouse=True)
def _words() -> None:
    vocabulary.load()


def server(inside: bytes) -> bytes:
    return b'{"type":"response.done","response":' + inside


def client(inside: bytes) -> bytes:
    return b'{"type":"session.update","session":' + inside


def output(inside: bytes) -> bytes:
    return b'{"id":"r","output":[' + inside + b"1]}}"


def words(inside: bytes) -> bytes:
    item = b'{"type":"message","content":[{"type":"output_text","text":"' + inside + b'"}]}'
    return b'{"id":"r","instructions":"' + inside + b'","output":[' + item + b"]}}"


def usage(inside: bytes) -> bytes:
    return b'{"id":"r","usage":{"total_tokens":' + inside + b"}}}"


BOMBS: dict[str, Callable[[int], bytes]] = {
    "open arrays": lambda size: b"[" * size,
    "open objects": lambda size: b'{"a":' * (size // 5),
    "empty arrays": lambda size: output(b"[]," * (size // 3)),
    "arrays in arrays": lambda size: output(b"[[[[]]]]," * (size // 9)),
    "arrays as deep as may be": lambda size: output(
        (b"[" * 900 + b"]" * 900 + b",") * (size // 1801)
    ),
    "empty objects": lambda size: output(b"{}," * (size // 3)),
    "small objects": lambda size: output(b'{"a":1},' * (size // 8)),
    "digits": lambda size: output(b"1," * (size // 2)),
    "floats": lambda size: output(b"1e9," * (size // 4)),
    "a number without end": lambda size: usage(b"9" * size),
    "a fraction without end": lambda size: usage(b"0." + b"9" * size),
    "an exponent without end": lambda size: usage(b"1e" + b"9" * size),
    "an exponent of 400": lambda size: output(b"1e400," * (size // 6)),
    "numbers of 300 digits": lambda size: output((b"9" * 300 + b",") * (size // 301)),
    "fields": lambda size: b"{" + b",".join(b'"%d":0' % i for i in range(size // 12)) + b"}}",
    "one field again and again": lambda size: b"{" + b'"a":0,' * (size // 6) + b'"b":0}}',
    "escapes": lambda size: words(rb"\u0041" * (size // 12)),
    "halves of surrogate pairs": lambda size: words(rb"\ud800" * (size // 12)),
    "one letter": lambda size: words(b"a" * (size // 2)),
    "spaces": lambda size: words(b" " * (size // 2)),
    "newlines": lambda size: words(rb"\n" * (size // 4)),
    "digits in a text": lambda size: words(b"1" * (size // 2)),
    "exclamation marks": lambda size: words(b"!" * (size // 2)),
    "capitals and small letters": lambda size: words(b"aA" * (size // 4)),
    "joined emoji": lambda size: words("\N{MAN}\N{ZERO WIDTH JOINER}".encode() * (size // 14)),
    "zeros": lambda size: b"\0" * size,
    "no UTF-8": lambda size: words(b"\xff" * (size // 2)),
}


def seconds(payload: bytes, *, sent: bool) -> float:
    """What a session spends on it, to its end, but for cycles: what is there to be looked through
    is the tests', and a worker freezes its own."""
    best = float("inf")
    gc.disable()
    for _ in range(5):
        meter = Meter("s", key="k", upstream="u", model="m", upstream_model="m", clock=lambda: 0.0)
        message = WholeText(payload)
        begun = time.process_time()
        if sent:
            meter.sent(message)
        else:
            meter.received(message)
        meter.close()
        best = min(best, time.process_time() - begun)
    gc.enable()
    return best


@cache
def plain_seconds(size: int, *, sent: bool) -> float:
    inside = words(b"all kinds of words " * (size // 38))
    return seconds(client(inside) if sent else server(inside), sent=sent)


@pytest.mark.parametrize("size", [MB // 8, 4 * MB], ids=["128 kB", "4 MB"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_what_a_server_says_is_never_slow(bomb: str, size: int) -> None:
    spent = seconds(server(BOMBS[bomb](size)), sent=False)
    assert spent <= max(SERVER_SECONDS, TIMES * plain_seconds(size, sent=False))


@pytest.mark.parametrize("size", [MB // 32, MB // 4 - 200], ids=["32 kB", "256 kB"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_what_a_client_says_is_never_slow(bomb: str, size: int) -> None:
    spent = seconds(client(BOMBS[bomb](size)), sent=True)
    assert spent <= max(CLIENT_SECONDS, TIMES * plain_seconds(size, sent=True))
