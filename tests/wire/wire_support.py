"""Two ends of a real socket: a Link on one, on the other a peer that reads RFC 6455 by itself."""

import ctypes
import socket as stdlib_socket
import ssl as stdlib_ssl
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import gevent
import pytest
import trustme
from gevent import socket
from gevent import ssl as gevent_ssl
from support.links import receive
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from relay_app.wire.frames import TEXT, FrameError, encode, xor
from relay_app.wire.link import Link, LinkEnded
from relay_app.wire.rooms import Rooms

SECONDS = 20.0
"""How long anything may take before it counts as a failure."""
MANY = 30_000_000
"""More bytes than any socket buffer holds."""
KINDS = ["unix", "tcp", "stdlib", "tls", "stdlib-tls"]


class Authority:
    """A certificate authority of the tests' own, made once."""

    def __init__(self) -> None:
        self._ca = trustme.CA()
        self._certificate = self._ca.issue_cert("localhost")

    def server(self, module: Any) -> Any:
        context = module.SSLContext(stdlib_ssl.PROTOCOL_TLS_SERVER)
        self._certificate.configure_cert(context)
        return context

    def client(self, module: Any) -> Any:
        context = module.SSLContext(stdlib_ssl.PROTOCOL_TLS_CLIENT)
        self._ca.configure_trust(context)
        return context


_authority: list[Authority] = []


def compiled(name: str) -> Any:
    """The twin in C of something of the wire, or None where it is not built."""
    try:
        return getattr(import_module("relay_app.wire._compiled"), name)
    except ImportError:
        return None


def those_there(twins: Mapping[str, Any]) -> list[Any]:
    """The names of ``twins`` as parameters; those that are not built are skipped."""
    return [
        pytest.param(
            name, marks=pytest.mark.skipif(twin is None, reason="the compiled parts are not built")
        )
        for name, twin in twins.items()
    ]


def authority() -> Authority:
    if not _authority:
        _authority.append(Authority())
    return _authority[0]


def tcp_pair(send_buffer: int = 0, receive_buffer: int = 0) -> tuple[Any, Any]:
    """Ours and theirs, over loopback; small buffers where asked for (set before connecting)."""
    listener = socket.socket()
    try:
        if receive_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        ours = socket.socket()
        if send_buffer:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
        return ours, theirs
    finally:
        listener.close()


@contextmanager
def dead_line(sock: Any) -> Iterator[None]:
    """Meanwhile nothing that is sent to ``sock`` arrives, as in a tunnel."""
    so_attach_filter, so_detach_filter = 26, 27
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0
    program = struct.pack("HP", 1, ctypes.addressof(drop_all))
    sock.setsockopt(socket.SOL_SOCKET, so_attach_filter, program)
    try:
        yield
    finally:
        sock.setsockopt(socket.SOL_SOCKET, so_detach_filter, 0)


def tls_pair(**buffers: int) -> tuple[Any, Any]:
    ours, theirs = tcp_pair(**buffers)
    server = gevent.spawn(authority().server(gevent_ssl).wrap_socket, theirs, server_side=True)
    ours = authority().client(gevent_ssl).wrap_socket(ours, server_hostname="localhost")
    return ours, server.get(timeout=SECONDS)


def _as_stdlib(sock: Any) -> Any:
    # Under monkey patching there is no other kind, and then this is gevent's.
    return stdlib_socket.socket(fileno=sock.detach())


def stdlib_tls_pair() -> tuple[Any, Any]:
    """Ours is the standard library's TLS, shaken hands with through memory."""
    ours, theirs = tcp_pair()
    server = gevent.spawn(authority().server(gevent_ssl).wrap_socket, theirs, server_side=True)
    plain = _as_stdlib(ours)
    plain.setblocking(False)
    wrapped = (
        authority()
        .client(stdlib_ssl)
        .wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=False)
    )
    while True:
        try:
            wrapped.do_handshake()
            break
        except stdlib_ssl.SSLWantReadError:
            gevent.socket.wait_read(wrapped.fileno(), timeout=SECONDS)
    return wrapped, server.get(timeout=SECONDS)


def pair(kind: str) -> tuple[Any, Any]:
    if kind == "unix":
        return socket.socketpair()
    if kind == "tls":
        return tls_pair()
    if kind == "stdlib-tls":
        return stdlib_tls_pair()
    ours, theirs = tcp_pair()
    return (_as_stdlib(ours), theirs) if kind == "stdlib" else (ours, theirs)


def link_on(sock: Any, *, name: str = "client", **options: Any) -> Link:
    options.setdefault("max_message_bytes", 16_777_216)
    options.setdefault("rooms", Rooms(268_435_456))
    return Link(sock, name=name, masks=name == "target", **options)


class Peer:
    """What is at the other end: ``masks`` if it is the WebSocket client."""

    def __init__(self, sock: Any, *, masks: bool = True) -> None:
        self.sock = sock
        self.masks = masks
        sock.settimeout(SECONDS)
        self._reader = StreamReader()

    def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        self.sock.sendall(self.frame_bytes(opcode, payload, fin=fin))

    def frame_bytes(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
        return Frame(Opcode(opcode), payload, fin).serialize(mask=self.masks)

    def text(self, text: str) -> None:
        self.send(Opcode.TEXT, text.encode())

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.send(Opcode.CLOSE, struct.pack("!H", code) + reason.encode())

    def receive(self) -> Frame:
        """The next frame. Raises EOFError at the end of the stream."""
        parser = Frame.parse(self._reader.read_exact, mask=not self.masks)
        while True:
            try:
                next(parser)
            except StopIteration as done:
                frame: Frame = done.value
                return frame
            data = self.sock.recv(65_536)
            if data:
                self._reader.feed_data(data)
            else:
                self._reader.feed_eof()

    def receive_data(self) -> bytes:
        """The payload of the next data frame; pings are answered on the way."""
        while True:
            frame = self.receive()
            if frame.opcode is Opcode.PING:
                self.send(Opcode.PONG, bytes(frame.data))
            elif frame.opcode is Opcode.CLOSE:
                raise AssertionError(f"closed with {bytes(frame.data)!r}")
            elif frame.opcode is not Opcode.PONG:
                return bytes(frame.data)

    def receive_close(self) -> tuple[int | None, str]:
        """Code and reason of the next close frame; what comes before it is dropped."""
        while (frame := self.receive()).opcode is not Opcode.CLOSE:
            pass
        data = bytes(frame.data)
        return (struct.unpack("!H", data[:2])[0], data[2:].decode()) if data else (None, "")

    def rest(self) -> bytes:
        """Every byte until the end of the stream."""
        out = bytearray()
        while data := self.sock.recv(65_536):
            out += data
        return bytes(out)


Open = Callable[..., tuple[Link, Peer]]
"""What the fixture ``opened`` gives: makes a Link and its peer."""


def receiver(link: Link) -> "gevent.Greenlet[..., str]":
    """Receives until the end and says what that was; keeps the payloads in ``link.got``."""
    got: list[bytes] = []

    def hear_out() -> str:
        try:
            while True:
                run = receive(link)
                got.extend(xor(bytes(run.data[f.payload : f.end]), f.key) for f in run.frames)
        except LinkEnded:
            assert link.end is not None
            return f"ended {link.end.code} {link.end.reason.decode()}".strip()
        except FrameError as error:
            return f"broken {error.code}"

    greenlet = gevent.spawn(hear_out)
    greenlet.got = got
    return greenlet


def until(condition: Callable[[], object]) -> None:
    """Lets the others run until ``condition``; the deadline is of failures only."""
    with gevent.Timeout(SECONDS):
        while not condition():
            gevent.sleep(0.001)


def blocked_sender(link: Link, data: bytes) -> "gevent.Greenlet[..., None]":
    greenlet = gevent.spawn(link.send, data)
    until(lambda: link.blocked_since is not None)
    return greenlet


def fill(link: Link) -> bytes:
    """Sends until not one byte more fits; what was sent."""
    sent = b""
    while True:
        data = encode(TEXT, bytes(100))
        if gevent.with_timeout(0.05, link.send, data, timeout_value="full") == "full":
            return sent
        sent += data
