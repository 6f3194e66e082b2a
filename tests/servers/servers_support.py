"""An upstream with many faces, and requests byte by byte, for the tests of every server."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from support.clients import KEY as NONCE
from support.clients import eventually
from support.relays import SERVERS, RelayProcess
from support.secrets import PROVIDER_KEY
from support.upstreams import upstream
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosedError
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection

UNFIT = ("sync", "wsgiref")
CARRIERS = [name for name in SERVERS if name not in UNFIT]
STOCK = "geventwebsocket-stock"
HOSTED = [name for name in CARRIERS if name != "gunicorn"]

FLOOD_MESSAGES = 1_280
FLOOD_MESSAGE = 16_384
MODELS = ["echo", "gated", "silent", "flood", "down", "refuse-*", "close-*"]


class Faces:
    """What the upstream is asked for decides what it does:

    ``echo``        sends every message back
    ``gated``       the same, but its 101 waits for ``gate``
    ``silent``      never answers
    ``flood``       after the first message sends 20 MB
    ``refuse-N``    answers N, and repeats the key it was given
    ``close-N``     after the first message closes with N
    """

    def __init__(self) -> None:
        self.url = ""
        self.open: set[ServerConnection] = set()
        self.closes: list[tuple[int | None, str | None]] = []
        self.flooded = 0
        self.asked: list[Request] = []
        self.waiting = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.over = threading.Event()

    def admit(self, connection: ServerConnection, request: Request) -> Response | None:
        self.asked.append(request)
        face = _face(request)
        if face == "silent":
            self.over.wait()
        elif face == "gated":
            self.waiting.release()
            self.gate.acquire()
        elif face.startswith("refuse-"):
            return _refusal(int(face.removeprefix("refuse-")))
        return None

    def handle(self, connection: ServerConnection) -> None:
        self.open.add(connection)
        try:
            face = _face(connection.request)
            for message in connection:
                if face == "flood":
                    self._flood(connection)
                elif face.startswith("close-"):
                    connection.close(int(face.removeprefix("close-")), "the upstream says so")
                else:
                    connection.send(message)
        except ConnectionClosedError:
            pass  # that is what some tests are about
        finally:
            self.closes.append((connection.close_code, connection.close_reason))
            self.open.discard(connection)

    def _flood(self, connection: ServerConnection) -> None:
        self.flooded = 0
        for number in range(FLOOD_MESSAGES):
            connection.send(flood_message(number))
            self.flooded += 1


def flood_message(number: int) -> str:
    return f'{{"type":"flood","n":{number},"pad":"'.ljust(FLOOD_MESSAGE - 2, "x") + '"}'


def flood_digest() -> str:
    digest = sha256()
    for number in range(FLOOD_MESSAGES):
        digest.update(flood_message(number).encode())
    return digest.hexdigest()


def _face(request: Request) -> str:
    query = parse_qs(urlsplit(request.path).query)
    return query.get("model", ["echo"])[0]


def _refusal(status: int) -> Response:
    error = {"message": f"no, {PROVIDER_KEY}", "type": "t", "code": f"c{status}", "param": None}
    body = json.dumps({"error": error}).encode()
    headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
    return Response(status, HTTPStatus(status).phrase, headers, body)


@contextmanager
def many_faced() -> Iterator[Faces]:
    faces = Faces()
    with upstream(faces.handle, process_request=faces.admit, ping_interval=None) as faces.url:
        try:
            yield faces
        finally:
            faces.over.set()


def settings_parts(faces: Faces) -> dict[str, str]:
    """Parts of a settings file with ``faces`` and an upstream that is down behind the relay."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = listener.getsockname()[1]
    served = ", ".join(f'"{m}" = "{m}"' for m in MODELS if m != "down")
    down = f"""
[[upstreams]]
name = "down"
dialect = "compatible"
base_url = "ws://127.0.0.1:{nobody}/v1"
api_keys = ["{PROVIDER_KEY}"]
models = {{"down" = "down"}}
transcription = false
"""
    return {
        "keys": f"models = {json.dumps([*MODELS, 'transcription'])}",
        "upstreams": f"models = {{{served}}}",
        "limits": "dial_seconds = 1",
        "more": down,
    }


class Answer(NamedTuple):
    """An HTTP answer to a request for the realtime path."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict:
        return json.loads(self.body)["error"]


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": NONCE,
}


def request_bytes(
    running: RelayProcess,
    query: str = "model=echo",
    *,
    key: str | None = None,
    path: str = "/v1/realtime",
    **headers: str | None,
) -> bytes:
    """An upgrade request with the relay's key, headers added or, with None, left out."""
    lines = {**UPGRADE, "Authorization": f"Bearer {running.key if key is None else key}"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    fields = [f"{name}: {value}\r\n" for name, value in lines.items() if value is not None]
    return f"GET {path}?{query} HTTP/1.1\r\nHost: relay\r\n{''.join(fields)}\r\n".encode()


def dial(running: RelayProcess) -> socket.socket:
    parts = urlsplit(running.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def read_answer(sock: socket.socket) -> Answer:
    """The head that comes, and its body if it is no 101. Frames behind a 101 stay unread."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, f"ended within the head: {data!r}"
        data += byte
    status_line, *lines = data.decode("latin-1").rstrip().split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    status = int(status_line.split()[1])
    if status == 101:
        return Answer(status, headers, b"")
    if "content-length" not in headers:
        return Answer(status, headers, read_rest(sock))
    body = b""
    while len(body) < int(headers["content-length"]):
        data = sock.recv(65_536)
        assert data, "ended within the body"
        body += data
    return Answer(status, headers, body)


def ask(running: RelayProcess, query: str = "model=echo", **options: str | None) -> Answer:
    """What an upgrade request is answered."""
    with dial(running) as sock:
        sock.sendall(request_bytes(running, query, **options))
        return read_answer(sock)


def read_rest(sock: socket.socket) -> bytes:
    """Everything that comes until the connection ends."""
    rest = b""
    while True:
        try:
            data = sock.recv(65_536)
        except ConnectionResetError:
            return rest
        if not data:
            return rest
        rest += data


def server_pid(running: RelayProcess) -> int:
    """The process that serves: gunicorn's worker, or the server itself."""
    pid = running.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


def descriptors(running: RelayProcess) -> int:
    return len(list(Path(f"/proc/{server_pid(running)}/fd").iterdir()))


def settled_descriptors(running: RelayProcess) -> int:
    """How many are open when nothing is going on: the same number thirty times in a row."""
    seen: list[int] = []

    def settled() -> bool:
        seen.append(descriptors(running))
        return len(seen) >= 30 and len(set(seen[-30:])) == 1

    eventually(settled, "the number of descriptors settles")
    return seen[-1]


def access_lines(running: RelayProcess, status: int) -> list[str]:
    """The lines of the server's own log for the realtime path with this status."""
    pattern = re.compile(rf'GET /v1/realtime[^"]*" {status}\b')
    return [line for line in running.output.splitlines() if pattern.search(line)]
