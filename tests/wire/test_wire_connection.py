"""Connection: any kind of socket, with the options that it needs."""

import ssl as stdlib_ssl
from typing import Any

import gevent
import pytest
from gevent import socket
from websockets.frames import Opcode
from wire_support import (
    KINDS,
    SECONDS,
    Open,
    receiver,
    tcp_pair,
    tls_pair,
)

from relay_app.wire.frames import TEXT, encode


class Elsewhere(socket.socket):
    """A TCP socket whose peer seems to be somewhere else."""

    peer: Any = ("192.0.2.1", 443)

    def getpeername(self) -> Any:
        if isinstance(self.peer, OSError):
            raise self.peer
        return self.peer


@pytest.mark.parametrize(
    ("peer", "verbatim"),
    [
        (("127.0.0.1", 1), True),
        (("127.8.9.1", 1), True),
        (("::1", 1, 0, 0), True),
        (("::ffff:127.0.0.1", 1, 0, 0), True),
        (("192.0.2.1", 1), False),
        (("::ffff:192.0.2.1", 1, 0, 0), False),
        (("2001:db8::1", 1, 0, 0), False),
        (OSError("not connected"), False),
    ],
)
def test_masks_of_others_go_out_only_where_no_intermediary_sees_them(
    opened: Open, monkeypatch: pytest.MonkeyPatch, peer: Any, verbatim: bool
) -> None:
    monkeypatch.setattr(Elsewhere, "peer", peer)
    ours, theirs = tcp_pair()
    ours = Elsewhere(fileno=ours.detach())
    link, _ = opened(pair_=(ours, theirs))
    assert link.verbatim is verbatim


@pytest.mark.parametrize("kind", KINDS)
def test_loopback_tls_and_unix_sockets_carry_masks_verbatim(opened: Open, kind: str) -> None:
    assert opened(kind)[0].verbatim is True


@pytest.mark.parametrize("kind", KINDS)
def test_an_intermediary_gets_masks_of_ours_unless_inside_tls(opened: Open, kind: str) -> None:
    assert opened(kind, carried_on=True)[0].verbatim is ("tls" in kind)


def test_tcp_options_are_set(opened: Open) -> None:
    ours, theirs = tcp_pair()
    opened(pair_=(ours, theirs), user_timeout_seconds=7.5)
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7_500


class Reluctant:
    """A TLS socket that wants to read before it writes, for a while."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self.refusals = 0
        self.willing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def pending(self) -> int:
        return 0

    def send(self, data: Any) -> int:
        if not self.willing:
            self.refusals += 1
            raise stdlib_ssl.SSLWantReadError
        return int(self._sock.send(data))


def test_tls_that_must_read_before_it_writes_does_not_spin(opened: Open) -> None:
    ours, theirs = tcp_pair()
    reluctant = Reluctant(ours)
    link, peer = opened(pair_=(reluctant, theirs))
    sender = gevent.spawn(link.send, encode(TEXT, b"at last"))
    gevent.sleep(0.1)
    assert reluctant.refusals < 30
    reluctant.willing = True
    assert peer.receive_data() == b"at last"
    sender.get(timeout=SECONDS)
    ours.close()


def test_tls_with_small_buffers_keeps_frames_and_pongs_whole(opened: Open) -> None:
    ours, theirs = tls_pair(send_buffer=4_096, receive_buffer=4_096)
    link, peer = opened(pair_=(ours, theirs))
    receiver(link)
    asked = gevent.spawn(lambda: [peer.send(Opcode.PING, b"%0120d" % i) for i in range(500)])
    words = [bytes((65 + i,)) * 40_000 for i in range(8)]
    senders = [gevent.spawn(link.send, encode(TEXT, word)) for word in words]
    got = []
    while len(got) < len(words):
        frame = peer.receive()
        if frame.opcode is Opcode.TEXT:
            got.append(bytes(frame.data))
    assert got == words
    gevent.joinall([asked, *senders], timeout=SECONDS, raise_error=True)
