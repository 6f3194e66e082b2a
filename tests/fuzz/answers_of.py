"""An upstream's answer: a 101 that wsproto would take too, or a refusal without our secrets.

An input is a head, in which ``@`` stands for the accept token, and behind it the body.
"""

import math
import re
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha1

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request
from wsproto.utilities import ProtocolError

from fuzz.target import Target
from relay_app import codec
from relay_app.upstream.opening import accepted, is_switch
from relay_app.upstream.refusal import refusal
from relay_app.upstream.retry_after import retry_after_seconds

__all__ = ["TARGET", "check"]

END = b"\r\n\r\n"
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SECRET = "kq-planted-secret-0123456789"
NOW = datetime(2026, 10, 21, 7, 27, 30, tzinfo=UTC).timestamp()
_DATE = re.compile(r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} (?:19[7-9]|20\d)\d "
                   r"\d\d:\d\d:\d\d GMT", re.ASCII)  # fmt: skip


def check(data: bytes) -> None:
    """Nothing raises but what is documented, and nothing is taken that wsproto refuses."""
    head, _, body = data.partition(END)
    head += END
    assert not _takes(head) or not _wsproto_refuses(head)
    status = re.match(rb"HTTP/1\.1 (\d{3})", head)
    lines = (line.partition(":") for line in head.decode("latin-1").split("\r\n"))
    fields = {name.strip().lower(): value.strip() for name, _, value in lines}
    _refused(int(status[1]) if status else 500, fields, body)
    _waits(fields.get("retry-after", ""))


def _takes(head: bytes) -> bool:
    key = b"dGhlIHNhbXBsZSBub25jZQ=="
    head = head.replace(b"@", _token(key))
    try:
        return is_switch(head) and bool(accepted(head, key))
    except ProtocolError:
        return False


def _wsproto_refuses(head: bytes) -> bool:
    websocket = WSConnection(ConnectionType.CLIENT)
    asked = websocket.send(Request(host="upstream", target="/"))
    key = asked.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    try:
        websocket.receive_data(head.replace(b"@", _token(key)))
    except ProtocolError:
        return True
    except UnicodeError:
        return False  # it cannot read a token that is not ASCII, in a field that is said again
    return not isinstance(next(websocket.events(), None), AcceptConnection)


def _token(key: bytes) -> bytes:
    return b64encode(sha1(key + GUID).digest())


def _refused(status: int, fields: dict[str, str], body: bytes) -> None:
    fault = refusal("up", status, fields, body, SECRET)
    assert fault.answered == status
    assert 400 <= fault.status <= 599
    told = codec.dumps([fault.body(), fault.headers]).encode()
    assert SECRET.encode() not in told
    assert len(told) < 20_000
    assert all(re.fullmatch(r"[ -~]{1,64}", value) for value in fault.headers.values())


def _waits(value: str) -> None:
    seconds = retry_after_seconds(value, NOW)
    assert seconds is None or (seconds >= 0 and math.isfinite(seconds))
    if re.fullmatch("[0-9]{1,9}", value):
        assert seconds == int(value)
    if _DATE.fullmatch(value):
        try:
            date = datetime.strptime(value, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
        except ValueError:
            return
        assert seconds == max(0.0, date.timestamp() - NOW)


def _seeds() -> Iterator[bytes]:
    switch = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: @\r\nX-Request-ID: req_1\r\n"
    )
    yield switch + b"\r\n"
    yield switch + b"Date: a\r\n folded\r\n\r\n"
    yield switch + b"Sec-WebSocket-Protocol: realtime\r\n\r\n"
    yield switch.replace(b"@", b"@x") + b"\r\n"
    yield switch.replace(b"\r\n", b"\n") + b"\r\n\r\n"
    refused = b"HTTP/1.1 %d No\r\nRetry-After: %b\r\nContent-Type: application/json\r\n\r\n%b"
    error = b'{"error":{"message":"%b","type":"a","code":null,"param":"p"}}'
    secret = SECRET.encode()
    yield refused % (401, b"7", error % (b"Incorrect key: " + secret))
    yield refused % (
        429,
        b"Wed, 21 Oct 2026 07:28:00 GMT",
        error % b"org-AbC123xyz \\ud800 sk-abcd1234",
    )
    yield refused % (503, b"Wednesday, 21-Oct-26 07:28:00 GMT", b'{"message":"\\u00e9 ***-***"}')
    yield refused % (302, b"Wed Oct 21 07:28:00 2026", b"<html>")
    yield refused % (500, b"Wed, 21 Oct 2026 07:28:00 +0200", b'{"error":[]}')


TARGET = Target(
    check,
    _seeds,
    max_bytes=800,
    between=b"\r\n",
    words=(b"\r\n", b"\n ", b"@", b"HTTP/1.1 101", b"Upgrade: websocket", b"Connection: ",
           b"keep-alive, ", b"Sec-WebSocket-Extensions: x", b"Retry-After: ", b"GMT", b"-0000",
           b"Wed, 21 Oct 2026 07:28:00 ", b"9999", b'"message":', b'"error":', b"sk-", b"org-",
           b"***", b"\\ud800", b"\\u0000", SECRET.encode()),
)  # fmt: skip
