"""The dial against real sockets: servers on threads, the dialler on this thread's hub."""

import base64
import gc
import hashlib
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import gevent
import pytest
import trustme
from support.links import receive
from support.proxies import connect_proxy
from support.upstreams import raw_upstream, read_head

from relay_app import __version__
from relay_app.errors import UpstreamFault
from relay_app.settings import Server, Upstream
from relay_app.upstream import dial
from relay_app.upstream.catalogue import Route
from relay_app.upstream.dial import Dialled, Dialler
from relay_app.upstream.dialects import Credential, request_for
from relay_app.upstream.trust import verifying_context
from relay_app.wire.rooms import Rooms

KEY = "sk-planted-0123456789"
HELLO = b"\x81\x05hello"


def dialler(seconds: float = 5, **options) -> Dialler:
    return Dialler(Server(dial_seconds=seconds), Rooms(1 << 20), **options)


def request(base_url: str, *, ca_file: str = "", proxy: str = "", **options):
    upstream = Upstream("up", base_url, ca_file=ca_file, proxy=proxy)
    return request_for(Route(upstream, "gpt-realtime"), Credential(KEY), **options)


@contextmanager
def dialled(base_url: str, make: Dialler | None = None, **options) -> Iterator[Dialled]:
    opened = (make or dialler())(request(base_url, **options))
    try:
        yield opened
    finally:
        opened.link.dispose()
        opened.close()


def refusal_of(
    handler: Callable[[socket.socket], None], *, seconds: float = 5, **options
) -> UpstreamFault:
    with raw_upstream(handler) as url, pytest.raises(UpstreamFault) as caught:
        dialler(seconds)(request(url, **options))
    assert KEY not in caught.value.message
    return caught.value


@pytest.fixture(autouse=True)
def no_descriptor_is_left_open() -> Iterator[None]:
    gevent.get_hub().threadpool.apply(len, ((),))  # the hub's own are opened at first use
    gevent.socket.getaddrinfo("localhost", 80)
    # A socket that only the garbage collector closes counts as left open.
    gc.collect()
    gc.disable()
    before = os.listdir("/proc/self/fd")
    try:
        yield
        assert len(os.listdir("/proc/self/fd")) == len(before)
    finally:
        gc.enable()


# -- looking up ----------------------------------------------------------------------------------


def test_an_address_is_read_once_and_a_name_looked_up_each_time(monkeypatch):
    read, asked = [], []

    def reads(host, *others, **flags):
        read.append(host)
        return socket.getaddrinfo(host, *others, **flags)

    def asks(host, *others):
        asked.append(host)
        return [("found", host)]

    monkeypatch.setattr(dial, "_getaddrinfo", reads)
    monkeypatch.setattr(gevent.socket, "getaddrinfo", asks)
    for _ in range(2):
        (found,) = dial.look_up("127.0.0.99", 80, 0, socket.SOCK_STREAM)
        assert found[4] == ("127.0.0.99", 80)
        assert dial.look_up("name.invalid", 80) == [("found", "name.invalid")]
    assert read.count("127.0.0.99") == 1
    assert asked == ["name.invalid", "name.invalid"]


# -- what a handler can do ----------------------------------------------------------------------


def accept_for(head: bytes) -> bytes:
    key = re.search(rb"(?i)sec-websocket-key: *(\S+)", head)[1]
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest)


def switching(head: bytes, *more: bytes) -> bytes:
    lines = [
        b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept_for(head), *more, b"", b"",
    ]  # fmt: skip
    return b"\r\n".join(lines)


def wait_for_the_end(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


def answers(data: bytes, *, stays: bool = True) -> Callable[[socket.socket], None]:
    def handler(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(data)
        if stays:
            wait_for_the_end(connection)

    return handler


def status(line: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {line}", f"Content-Length: {size}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


# -- the handshake ------------------------------------------------------------------------------


def test_an_upstream_that_answers_is_a_link():
    def handler(connection: socket.socket) -> None:
        head = read_head(connection)
        connection.sendall(switching(head, b"X-Request-ID: req_1") + HELLO)
        wait_for_the_end(connection)

    with raw_upstream(handler) as url, dialled(url) as opened:
        assert opened.request_id == "req_1"
        assert receive(opened.link).data.endswith(HELLO)


@pytest.mark.parametrize("cut", range(1, len(HELLO)))
def test_a_frame_that_begins_in_the_packet_of_the_101_is_whole(cut):
    rest = threading.Event()

    def handler(connection: socket.socket) -> None:
        connection.sendall(switching(read_head(connection)) + HELLO[:cut])
        rest.wait(10)
        connection.sendall(HELLO[cut:])
        wait_for_the_end(connection)

    with raw_upstream(handler) as url, dialled(url) as opened:
        rest.set()
        run = receive(opened.link)
        assert [run.data[f.payload : f.end] for f in run.frames] == [b"hello"]


def test_a_head_that_comes_byte_by_byte_is_read():
    def handler(connection: socket.socket) -> None:
        for byte in switching(read_head(connection)) + HELLO:
            connection.sendall(bytes([byte]))
        wait_for_the_end(connection)

    with raw_upstream(handler) as url, dialled(url) as opened:
        assert receive(opened.link).frames


def test_interim_answers_are_not_the_answer():
    def handler(connection: socket.socket) -> None:
        head = read_head(connection)
        early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        connection.sendall(early + switching(head) + HELLO)
        wait_for_the_end(connection)

    with raw_upstream(handler) as url, dialled(url) as opened:
        assert receive(opened.link).data.endswith(HELLO)


def test_nothing_goes_upstream_that_is_not_known():
    heads: list[bytes] = []

    def handler(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        connection.sendall(switching(heads[0]))
        wait_for_the_end(connection)

    extra = {"OpenAI-Safety-Identifier": "u1"}
    with raw_upstream(handler) as url, dialled(url, extra_headers=extra):
        address = url.removeprefix("ws://").removesuffix("/v1")
    first, *lines = heads[0].decode().removesuffix("\r\n\r\n").split("\r\n")
    fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert first == "GET /v1/realtime?model=gpt-realtime HTTP/1.1"
    assert len(base64.b64decode(fields.pop("sec-websocket-key"))) == 16
    assert fields == {
        "host": address,
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-version": "13",
        "authorization": f"Bearer {KEY}",
        "user-agent": f"relay_app/{__version__}",
        "openai-safety-identifier": "u1",
    }


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda head: b"garbage\r\n\r\n", "broke the WebSocket handshake"),
        (lambda head: b"\r\n\r\n", "broke the WebSocket handshake"),
        (lambda head: b"\x16\x03\x01\x00\xff" * 20 + b"\r\n\r\n", "broke the WebSocket handshake"),
        (lambda head: b"SSH-2.0-OpenSSH_9.2\r\n", "closed before it answered"),
        (
            lambda head: switching(head).replace(accept_for(head), b"d3Jvbmcgd3Jvbmcgd3Jvbmc="),
            "Bad accept token",
        ),
        (
            lambda head: switching(head).replace(b"Sec-WebSocket-Accept", b"X-Nothing"),
            "Bad accept token",
        ),
        (
            lambda head: switching(head, b"Sec-WebSocket-Protocol: realtime"),
            "unrecognized subprotocol",
        ),
        (
            lambda head: switching(head, b"Sec-WebSocket-Protocol: " + KEY.encode()),
            "unrecognized subprotocol",
        ),
        (
            lambda head: switching(head, b"Sec-WebSocket-Protocol: caf\xe9"),
            "broke the WebSocket handshake",
        ),
        (
            lambda head: switching(head, b"Sec-WebSocket-Extensions: permessage-deflate"),
            "unrecognized extension",
        ),
        (lambda head: switching(head).replace(b"Upgrade: websocket", b"X: y"), "Missing header"),
        (lambda head: switching(head).replace(b"Connection: U", b"X: u"), "Missing header"),
        (lambda head: switching(head, b"bad header"), "Bad HTTP message"),
        (lambda head: switching(head).replace(b"HTTP/1.1", b"HTTP/2.0"), "broke the"),
    ],
)
def test_a_broken_handshake_is_a_bad_gateway(answer, said):
    def handler(connection: socket.socket) -> None:
        connection.sendall(answer(read_head(connection)))
        connection.shutdown(socket.SHUT_WR)
        wait_for_the_end(connection)

    fault = refusal_of(handler)
    assert fault.status == 502
    assert said in fault.message
    assert fault.message.startswith("The upstream up ")


def test_an_http_1_0_answer_is_never_an_upgrade():
    def handler(connection: socket.socket) -> None:
        connection.sendall(switching(read_head(connection)).replace(b"HTTP/1.1", b"HTTP/1.0"))
        wait_for_the_end(connection)

    assert refusal_of(handler).status == 502


def test_a_head_without_end_is_not_read_to_its_end():
    def handler(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\n")
        while True:
            connection.sendall(b"X-Filler: " + b"x" * 1000 + b"\r\n")

    fault = refusal_of(handler)
    assert fault.status == 502
    assert "endless response head" in fault.message


def test_interim_answers_without_end_are_not_read_to_their_end():
    def handler(connection: socket.socket) -> None:
        read_head(connection)
        while True:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

    assert "endless response head" in refusal_of(handler).message


# -- silence ------------------------------------------------------------------------------------


def drips(connection: socket.socket) -> None:
    """Always alive and never done: no time-out of a single read would notice."""
    read_head(connection)
    tick = threading.Event()
    for byte in b"HTTP/1.1 101 Switching Protocols\r\n" * 1000:
        connection.sendall(bytes([byte]))
        tick.wait(0.01)


@pytest.mark.parametrize("handler", [wait_for_the_end, answers(b"HTTP/1.1 101 Sw"), drips])
def test_one_deadline_ends_every_wait(handler):
    started = time.monotonic()
    fault = refusal_of(handler, seconds=0.3)
    assert time.monotonic() - started < 2
    assert (fault.status, fault.code) == (504, "upstream_timeout")
    assert fault.message == "The upstream up did not answer within 0.3 seconds."


def test_a_request_may_bring_a_deadline_of_its_own():
    with raw_upstream(wait_for_the_end) as url, pytest.raises(UpstreamFault) as caught:
        dialler(60)(request(url, seconds=0.123456))
    assert caught.value.message.endswith("did not answer within 0.12 seconds.")


def test_a_timeout_of_somebody_else_is_not_ours_to_answer():
    with raw_upstream(wait_for_the_end) as url:  # noqa: SIM117 - the upstream ends last
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.1):
            dialler()(request(url))


def test_one_that_closes_at_once_is_told_from_one_that_is_silent():
    def handler(connection: socket.socket) -> None:
        read_head(connection)

    fault = refusal_of(handler)
    assert (fault.status, fault.code) == (502, "upstream_closed")


def test_a_reset_is_a_bad_gateway():
    def handler(connection: socket.socket) -> None:
        read_head(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    fault = refusal_of(handler)
    assert (fault.status, fault.code) == (502, "upstream_unreachable")
    assert "Connection reset by peer" in fault.message


@pytest.mark.parametrize("handler", [wait_for_the_end, drips, answers(b"HTTP/1.1 403 F\r\n")])
def test_a_greenlet_that_is_killed_while_it_dials_leaves_nothing(handler):
    asked = threading.Event()

    def asked_first(connection: socket.socket) -> None:
        asked.set()
        handler(connection)

    with raw_upstream(asked_first) as url:
        dialling = gevent.spawn(dialler(), request(url))
        gevent.get_hub().threadpool.apply(asked.wait, (10,))
        dialling.kill()
        assert isinstance(dialling.value, gevent.GreenletExit)


# -- addresses ----------------------------------------------------------------------------------


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_a_port_where_nobody_listens_is_named_unreachable():
    with pytest.raises(UpstreamFault) as caught:
        dialler()(request(f"ws://127.0.0.1:{closed_port()}/v1"))
    assert (caught.value.status, caught.value.code) == (502, "upstream_unreachable")
    assert caught.value.message == "The upstream up cannot be reached: Connection refused."


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".invalid", "a..b"])
def test_a_name_that_does_not_resolve_is_a_bad_gateway(host):
    with pytest.raises(UpstreamFault) as caught:
        dialler()(request(f"ws://{host}/v1"))
    assert (caught.value.status, caught.value.code) == (502, "upstream_unreachable")
    assert "does not resolve" in caught.value.message


def resolving_to(*addresses: tuple[str, int]) -> Callable[..., list]:
    def resolve(*_) -> list:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]

    return resolve


@contextmanager
def black_hole() -> Iterator[tuple[str, int]]:
    """An address that swallows packets: its backlog is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()


def welcome(connection: socket.socket) -> None:
    connection.sendall(switching(read_head(connection)))
    wait_for_the_end(connection)


def address_of(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("ws://").removesuffix("/v1").split(":")
    return host, int(port)


def test_every_address_is_tried():
    dead = ("127.0.0.1", closed_port())
    with raw_upstream(welcome) as url:
        make = dialler(resolve=resolving_to(dead, dead, address_of(url)))
        with dialled("ws://several.example:80/v1", make) as opened:
            assert opened.request_id == "-"


def test_an_address_that_swallows_packets_leaves_time_for_its_sibling():
    with black_hole() as hole, raw_upstream(welcome) as url:
        make = dialler(1.5, resolve=resolving_to(hole, address_of(url)))
        with dialled("ws://several.example:80/v1", make) as opened:
            assert opened.link is not None


def test_one_deadline_holds_over_all_addresses():
    with black_hole() as hole:
        make = dialler(0.6, resolve=resolving_to(hole, hole, hole))
        started = time.monotonic()
        with pytest.raises(UpstreamFault) as caught:
            make(request("ws://several.example:80/v1"))
    assert caught.value.status == 504
    assert 0.5 < time.monotonic() - started < 2


def test_a_resolver_that_hangs_is_within_the_deadline():
    with pytest.raises(UpstreamFault) as caught:
        dialler(0.2, resolve=lambda *_: gevent.sleep(60))(request("ws://slow.example/v1"))
    assert caught.value.status == 504


def test_a_name_without_addresses_is_unreachable():
    with pytest.raises(UpstreamFault, match="cannot be reached: no address"):
        dialler(resolve=resolving_to())(request("ws://empty.example/v1"))


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [401, 403, 404, 429, 500, 503])
def test_a_refusal_keeps_its_status_and_its_words(code):
    body = b'{"error":{"message":"No %s for you","type":"t","code":"c"}}' % KEY.encode()
    fault = refusal_of(answers(status(f"{code} No", body, "Retry-After: 3")))
    assert (fault.status, fault.code, fault.type) == (code, "c", "t")
    assert fault.message == "No [redacted] for you"
    assert fault.headers == {"Retry-After": "3"}


@pytest.mark.parametrize("line", ["400 Bad Request", "418 I'm a teapot", "200 OK", "204 No"])
def test_any_other_answer_is_a_bad_gateway(line):
    fault = refusal_of(answers(status(line, b"" if "204" in line else b"hm")))
    assert fault.status == 502
    assert f"answered {line[:3]} to the WebSocket upgrade" in fault.message


def test_a_redirect_is_not_followed():
    fault = refusal_of(answers(status("302 Found", b"", "Location: ws://127.0.0.1:1/")))
    assert (fault.status, fault.headers) == (502, {})


CHUNKED = b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        status("403 No", b"<html>" + b"x" * 500_000),
        status("403 No", b"not json at all"),
        status("403 No", b"short", length=10_000),
        status("403 No", b""),
        b"HTTP/1.1 403 No\r\n\r\nuntil the end",
        CHUNKED + b"4\r\nword\r\n0\r\n\r\n",
        CHUNKED + b"zz\r\nbroken chunk",
        CHUNKED + b"ffffff\r\nshort",
    ],
    ids=["huge", "text", "torn", "empty", "until-eof", "chunked", "broken", "torn-chunk"],
)
@pytest.mark.parametrize("stays", [True, False], ids=["stays", "closes"])
def test_a_body_of_any_kind_leaves_the_status(data, stays):
    fault = refusal_of(answers(data, stays=stays), seconds=1)
    assert fault.status == 403
    assert fault.message == "The upstream up refused the connection with status 403."


def test_a_body_in_chunks_is_put_together():
    body = b'{"error":{"message":"nope"}}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    assert refusal_of(answers(CHUNKED + chunks)).message == "nope"


def endless(connection: socket.socket) -> None:
    read_head(connection)
    connection.sendall(CHUNKED)
    while True:
        connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")


def endless_drip(connection: socket.socket) -> None:
    read_head(connection)
    connection.sendall(CHUNKED)
    tick = threading.Event()
    while True:
        connection.sendall(b"1\r\nx\r\n")
        tick.wait(0.01)


@pytest.mark.parametrize("handler", [endless, endless_drip])
def test_a_body_without_end_costs_neither_status_nor_deadline(handler):
    started = time.monotonic()
    assert refusal_of(handler, seconds=0.4).status == 403
    assert time.monotonic() - started < 2


# -- TLS ----------------------------------------------------------------------------------------

CA = trustme.CA()


def trusting() -> ssl.SSLContext:
    context = verifying_context()
    CA.configure_trust(context)
    return context


def over_tls(
    handler: Callable[[socket.socket], None], seen: list[str | None] | None = None
) -> Callable[[socket.socket], None]:
    """``handler`` behind TLS, for a server whose certificate is for ``localhost``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("localhost").configure_cert(context)
    if seen is not None:
        context.sni_callback = lambda sock, name, ctx: seen.append(name)

    def wrapped(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            handler(secure)

    return wrapped


def secure(url: str, host: str = "localhost") -> str:
    return url.replace("ws://127.0.0.1", f"wss://{host}")


def test_tls_is_verified_and_names_the_host():
    seen: list[str | None] = []
    with (
        raw_upstream(over_tls(welcome, seen)) as url,
        dialled(secure(url), dialler(tls=trusting)) as opened,
    ):
        assert opened.link is not None
    assert seen == ["localhost"]


@pytest.mark.parametrize(
    ("host", "tls", "said"),
    [
        ("127.0.0.1", trusting, "failed TLS: its certificate is for another host.$"),
        ("localhost", verifying_context, "failed TLS: self-signed certificate|"
         "failed TLS: unable to get local issuer certificate"),
    ],
)  # fmt: skip
def test_a_certificate_that_does_not_prove_the_host_is_refused(host, tls, said):
    heads: list[bytes] = []

    def handler(connection: socket.socket) -> None:
        heads.append(read_head(connection))

    with raw_upstream(over_tls(handler)) as url, pytest.raises(UpstreamFault, match=said) as caught:
        dialler(tls=tls)(request(secure(url, host)))
    assert (caught.value.status, caught.value.code) == (502, "upstream_tls_error")
    assert heads in ([], [b""])  # the key never went out


def test_tls_to_a_server_that_speaks_none_is_refused():
    def handler(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        wait_for_the_end(connection)

    with raw_upstream(handler) as url, pytest.raises(UpstreamFault) as caught:
        dialler(tls=trusting)(request(secure(url)))
    assert (caught.value.status, caught.value.code) == (502, "upstream_tls_error")


@pytest.mark.parametrize("handler", [wait_for_the_end, over_tls(wait_for_the_end)])
def test_silence_before_and_behind_the_tls_handshake_is_a_timeout(handler):
    with raw_upstream(handler) as url, pytest.raises(UpstreamFault) as caught:
        dialler(0.3, tls=trusting)(request(secure(url)))
    assert caught.value.status == 504


def test_a_greenlet_killed_in_the_tls_handshake_leaves_nothing():
    asked = threading.Event()

    def handler(connection: socket.socket) -> None:
        connection.recv(1)
        asked.set()
        wait_for_the_end(connection)

    with raw_upstream(handler) as url:
        dialling = gevent.spawn(dialler(tls=trusting), request(secure(url)))
        gevent.get_hub().threadpool.apply(asked.wait, (10,))
        dialling.kill()


def test_a_ca_file_is_trusted_for_its_upstream_alone(tmp_path):
    CA.cert_pem.write_to_path(tmp_path / "ca.pem")
    make = dialler()
    with raw_upstream(over_tls(welcome)) as url:
        with dialled(secure(url), make, ca_file=str(tmp_path / "ca.pem")) as opened:
            assert opened.link is not None
        with pytest.raises(UpstreamFault, match="failed TLS"):
            make(request(secure(url)))


def test_a_ca_file_is_trusted_besides_what_the_system_trusts(tmp_path):
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    ca_file = str(tmp_path / "other.pem")
    with (
        raw_upstream(over_tls(welcome)) as url,
        dialled(secure(url), dialler(tls=trusting), ca_file=ca_file) as opened,
    ):
        assert opened.link is not None


def test_a_ca_file_does_not_make_another_host_right(tmp_path):
    CA.cert_pem.write_to_path(tmp_path / "ca.pem")
    with (
        raw_upstream(over_tls(welcome)) as url,
        pytest.raises(UpstreamFault, match="certificate is for another host"),
    ):
        dialler()(request(secure(url, "127.0.0.1"), ca_file=str(tmp_path / "ca.pem")))


def test_a_ca_file_that_has_gone_since_the_start_is_told(tmp_path):
    with raw_upstream(over_tls(welcome)) as url, pytest.raises(UpstreamFault) as caught:
        dialler()(request(secure(url), ca_file=str(tmp_path / "ca.pem")))
    assert caught.value.message == "The upstream up has a ca_file that cannot be read any more."


# -- through a proxy ----------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda handler: handler, over_tls], ids=["ws", "wss"])
def test_a_proxy_resolves_the_name_and_carries_the_rest(wrap):
    names = {"provider.invalid": "127.0.0.1", "localhost": "127.0.0.1"}

    def asked(*arguments):
        assert arguments[0] == "127.0.0.1", "the proxy's name alone is looked up here"
        return socket.getaddrinfo(*arguments)

    tls = wrap is over_tls
    with raw_upstream(wrap(welcome)) as url, connect_proxy(names=names) as proxy:
        port = url.rpartition(":")[2].removesuffix("/v1")
        host = "localhost" if tls else "provider.invalid"
        make = dialler(tls=trusting, resolve=asked)
        url = f"{'wss' if tls else 'ws'}://{host}:{port}/v1"
        with dialled(url, make, proxy=proxy.url("user:p%40ss")) as opened:
            assert opened.link.verbatim is tls  # the proxy sees what is not encrypted
    first, *lines = proxy.heads[0].decode().split("\r\n")
    assert first == f"CONNECT {host}:{port} HTTP/1.1"
    assert f"Host: {host}:{port}" in lines
    token = base64.b64encode(b"user:p@ss").decode()
    assert f"Proxy-Authorization: Basic {token}" in lines
    assert KEY not in proxy.heads[0].decode()


def test_a_proxy_that_wants_no_password_is_sent_none():
    with raw_upstream(welcome) as url, connect_proxy() as proxy, dialled(url, proxy=proxy.url()):
        pass
    assert b"Authorization" not in proxy.heads[0]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\nVia: x\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 204 Fine\n\n",
        b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_what_comes_behind_a_proxys_answer_belongs_to_the_upstream(answer):
    """In the very packet of the answer, as a server that speaks first would."""

    def then(client: socket.socket) -> None:
        client.sendall(switching(read_head(client)) + HELLO)
        wait_for_the_end(client)

    with (
        connect_proxy(answer=answer, then=then) as proxy,
        dialled("ws://provider.invalid/v1", proxy=proxy.url()) as opened,
    ):
        assert receive(opened.link).data.endswith(HELLO)


def test_a_byte_behind_the_proxys_answer_is_not_lost():
    early = b"HTTP/1.1 100 Continue\r\n\r\n"

    def then(client: socket.socket) -> None:
        client.sendall(switching(read_head(client)))
        wait_for_the_end(client)

    answer = b"HTTP/1.1 200 OK\r\n\r\n" + early + b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"
    with connect_proxy(answer=answer, then=then) as proxy, pytest.raises(UpstreamFault) as caught:
        dialler()(request("ws://provider.invalid/v1", proxy=proxy.url()))
    assert caught.value.answered == 401


SECRET_USER = "planted-user:planted-password"


@pytest.mark.parametrize(
    ("answer", "said", "code"),
    [
        (b"HTTP/1.1 407 planted\r\n\r\n", "wants other credentials than it was given", "refused"),
        (b"HTTP/1.1 403 planted\r\n\r\n", "answered 403 to CONNECT", "refused"),
        (b"HTTP/1.1 502 planted\r\n\r\n<html>", "answered 502 to CONNECT", "refused"),
        (b"HTTP/1.1 302 x\r\nLocation: http://planted\r\n\r\n", "answered 302", "refused"),
        (b"HTTP/1.1 103 planted\r\n\r\n" * 9, "answered 103 to CONNECT", "refused"),
        (b"SSH-2.0-planted\r\n\r\n", "answered no HTTP", "handshake"),
        (b"HTTP/2 200 planted\r\n\r\n", "answered no HTTP", "handshake"),
        (b"HTTP/1.1 200 OK\r\n", "closed before it answered", "closed"),
        (b"", "closed before it answered", "closed"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5_000, "sent an endless response", "handshake"),
    ],
)  # fmt: skip
def test_what_a_proxy_does_wrong_is_told_as_its_doing(answer, said, code):
    def then(client: socket.socket) -> None:
        client.shutdown(socket.SHUT_WR)
        wait_for_the_end(client)

    with (
        connect_proxy(answer=answer, then=then) as proxy,
        pytest.raises(UpstreamFault) as caught,
    ):
        dialler()(request("wss://provider.invalid/v1", proxy=proxy.url(SECRET_USER)))
    fault = caught.value
    assert fault.message.startswith(f"The proxy of upstream up {said}")
    assert (fault.status, fault.code) == (502, f"upstream_proxy_{code}")
    assert "planted" not in fault.message
    assert str(proxy.port) not in fault.message


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        (lambda: f"http://127.0.0.1:{closed_port()}", "cannot be reached: Connection refused"),
        (lambda: "http://no-such-proxy.invalid:3128", "has a host name that does not resolve"),
    ],
)
def test_a_proxy_that_is_not_there_is_told(proxy, said):
    with pytest.raises(UpstreamFault) as caught:
        dialler()(request("wss://provider.invalid/v1", proxy=proxy()))
    assert caught.value.message == f"The proxy of upstream up {said}."
    assert (caught.value.status, caught.value.code) == (502, "upstream_proxy_unreachable")


def test_a_silent_proxy_is_within_the_deadline_and_told_from_a_silent_upstream():
    with connect_proxy(answer=b"HTTP/1.1 ", then=wait_for_the_end) as proxy:
        with pytest.raises(UpstreamFault) as caught:
            dialler(0.2)(request("ws://provider.invalid/v1", proxy=proxy.url()))
        assert caught.value.message.startswith("The proxy of upstream up did not answer within")
        assert (caught.value.status, caught.value.code) == (504, "upstream_proxy_timeout")
    with connect_proxy(then=wait_for_the_end) as proxy:
        with pytest.raises(UpstreamFault) as caught:
            dialler(0.2)(request("ws://provider.invalid/v1", proxy=proxy.url()))
        assert caught.value.code == "upstream_timeout"


def test_the_environments_proxies_are_not_looked_at(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with raw_upstream(welcome) as url, dialled(url) as opened:
        assert opened.link is not None


@pytest.mark.parametrize("patched", ["", "from gevent import monkey; monkey.patch_all()\n"])
def test_the_certificates_of_ssl_cert_file_are_trusted(tmp_path, patched):
    CA.cert_pem.write_to_path(tmp_path / "ca.pem")
    script = (
        "import sys\n"
        "from relay_app.settings import Server, Upstream\n"
        "from relay_app.upstream.catalogue import Route\n"
        "from relay_app.upstream.dial import Dialler\n"
        "from relay_app.upstream.dialects import Credential, request_for\n"
        "from relay_app.wire.rooms import Rooms\n"
        "route = Route(Upstream('up', sys.argv[1]), 'm')\n"
        "opened = Dialler(Server(), Rooms(1))(request_for(route, Credential('k')))\n"
        "print('dialled')\nopened.link.dispose()\nopened.close()\n"
    )
    with raw_upstream(over_tls(welcome)) as url:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", patched + script, secure(url)],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "SSL_CERT_FILE": str(tmp_path / "ca.pem")},
        )
    assert done.stdout == "dialled\n", done.stderr
