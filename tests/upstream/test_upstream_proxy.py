import socket
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_app.upstream.proxy import MAX_HEAD_BYTES, Proxy, ProxyRefused, open_tunnel

ANSWER = b"HTTP/1.1 200 Connection established\r\nVia: somebody\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


class Wire:
    """A socket on which ``packets`` come one after the other."""

    def __init__(self, packets: Sequence[bytes]) -> None:
        self.sent = b""
        self.waiting = b""
        self._packets = [packet for packet in packets if packet]

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def recv(self, size: int, flags: int = 0) -> bytes:
        if not self.waiting and self._packets:
            self.waiting = self._packets.pop(0)
        found = self.waiting[:size]
        if flags != socket.MSG_PEEK:
            self.waiting = self.waiting[size:]
        return found

    @property
    def rest(self) -> bytes:
        return self.waiting + b"".join(self._packets)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    ends = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[begin:end] for begin, end in pairwise(ends)]


@given(
    st.sampled_from([ANSWER, INTERIM + ANSWER, ANSWER.replace(b"\r\n", b"\n")]),
    st.binary(max_size=50),
    st.lists(st.integers(0, 1_000)),
)
def test_however_it_comes_the_answer_is_read_and_nothing_behind_it(answer, behind, places):
    wire = Wire(cut(answer + behind, places))
    open_tunnel(wire, Proxy("p", 3128), "h", 443)
    assert wire.rest == behind


@given(st.binary(max_size=200), st.lists(st.integers(0, 1_000)))
def test_whatever_a_proxy_says_it_opens_or_refuses(data, places):
    with suppress(ProxyRefused):
        open_tunnel(Wire(cut(data, places)), Proxy("p", 3128), "h", 443)
        assert data.startswith(b"HTTP/1.")


def test_an_endless_head_is_not_read_to_its_end():
    wire = Wire([b"HTTP/1.1 200 OK\r\n"] + [b"X: y\r\n" * 1_000] * 1_000)
    with pytest.raises(ProxyRefused, match="endless"):
        open_tunnel(wire, Proxy("p", 3128), "h", 443)
    assert len(wire.rest) > 6_000_000 - 2 * MAX_HEAD_BYTES


@pytest.mark.parametrize(("host", "said"), [("h.example", b"h.example:443"), ("::1", b"[::1]:443")])
def test_it_is_told_where_to_and_by_whom(host, said):
    wire = Wire([ANSWER])
    open_tunnel(wire, Proxy("p", 3128, "Basic dXNlcjpwYXNz"), host, 443)
    assert wire.sent.startswith(b"CONNECT " + said + b" HTTP/1.1\r\nHost: " + said + b"\r\n")
    assert wire.sent.endswith(b"\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n\r\n")


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://h", Proxy("h", 80)),
        ("http://h:3128/", Proxy("h", 3128)),
        ("http://[::1]:3128", Proxy("::1", 3128)),
        ("http://user:pass@h:1", Proxy("h", 1, "Basic dXNlcjpwYXNz")),
        ("http://user@h:1", Proxy("h", 1, "Basic dXNlcjo=")),
        ("http://u:%0d%0aX:%20y@h:1", Proxy("h", 1, "Basic dToNClg6IHk=")),
    ],
)
def test_a_url_says_where_it_is_and_who_we_are(url, proxy):
    assert Proxy.of(url) == proxy
    assert proxy.authorization not in repr(proxy) or not proxy.authorization
