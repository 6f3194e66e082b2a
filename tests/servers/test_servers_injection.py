"""Whatever a client's request says, its upstream is asked by our words alone, byte for byte.

The requests go through a whole relay to a socket that keeps what comes, and beside the upstreams of
the settings listens one that nobody named.
"""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pytest
from servers_support import UPGRADE, dial, read_answer
from support.relays import RelayProcess, relay
from support.secrets import KEY, PROVIDER_KEY
from support.upstreams import raw_upstream, read_head

from relay_app import __version__

REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
"""Which is tried nowhere else, and makes nobody rest."""


class Listener:
    """An upstream that refuses everybody, and knows what it was sent."""

    def __init__(self) -> None:
        self.url = ""
        self.sent: list[bytes] = []

    @property
    def address(self) -> str:
        return urlsplit(self.url).netloc

    def handle(self, connection: socket.socket) -> None:
        head = read_head(connection)
        self.sent.append(head)
        connection.sendall(REFUSAL)
        connection.shutdown(socket.SHUT_WR)
        while more := connection.recv(65_536):
            self.sent[-1] += more


@contextmanager
def listening() -> Iterator[Listener]:
    made = Listener()
    with raw_upstream(made.handle) as made.url:
        yield made


class Place(NamedTuple):
    relay: RelayProcess
    upstream: Listener
    other: Listener
    """An upstream of the settings, for models that nobody here may use."""
    nobodys: Listener
    """Named nowhere, but in what clients say."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with ExitStack() as stack:
        upstream, other, nobodys = (stack.enter_context(listening()) for _ in range(3))
        more = f"""
[[upstreams]]
name = "other"
base_url = "{other.url}"
api_keys = ["{PROVIDER_KEY}-of-another"]
models = {{"other" = "other"}}
transcription = false
"""
        parts = {"keys": 'models = ["a*", "transcription"]', "more": more}
        folder: Path = tmp_path_factory.mktemp("injection")
        running = stack.enter_context(relay(folder, upstream.url, **parts))
        yield Place(running, upstream, other, nobodys)


def ask(place: Place, target: str, *lines: str, **replaced: str | None) -> tuple[int, list[bytes]]:
    """The status that a raw request gets, and what its upstream was sent meanwhile. In what is said
    ``NOBODYS`` is the address of the upstream that nobody named."""
    fields = {"Host": "relay", **UPGRADE, "Authorization": f"Bearer {KEY}"}
    fields |= {name.replace("_", "-"): value for name, value in replaced.items()}
    head = [f"GET {target} HTTP/1.1"]
    head += [f"{name}: {value}" for name, value in fields.items() if value is not None]
    text = "\r\n".join([*head, *lines, "", ""]).replace("NOBODYS", place.nobodys.address)
    place.upstream.sent.clear()
    with dial(place.relay) as client:
        client.sendall(text.encode("latin-1"))
        status = read_answer(client).status
    assert place.other.sent == []
    assert place.nobodys.sent == []
    return status, list(place.upstream.sent)


def check(place: Place, head: bytes, **said: str) -> None:
    """That ``head`` is one request, which says what ours do and, of the client's, ``said``."""
    first, *lines = head.decode("ascii").split("\r\n")
    assert lines[-2:] == ["", ""], "one head, and nothing behind it"
    assert all(character.isprintable() for line in lines for character in line)
    method, target, version = first.split(" ")
    assert (method, version) == ("GET", "HTTP/1.1")
    safety = said.pop("safety", None)
    parts = urlsplit(target)
    assert (parts.scheme, parts.netloc, parts.path, parts.fragment) == ("", "", "/v1/realtime", "")
    assert parse_qsl(parts.query, strict_parsing=True) == list(said.items())
    fields = [line.split(": ", 1) for line in lines[:-2]]
    found = {name.lower(): value for name, value in fields}
    assert len(found) == len(fields)
    assert re.fullmatch(r"[A-Za-z0-9+/]{22}==", found.pop("sec-websocket-key"))
    assert found == {
        "host": place.upstream.address,
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-version": "13",
        "authorization": f"Bearer {PROVIDER_KEY}",
        "user-agent": f"relay_app/{__version__}",
        **({} if safety is None else {"openai-safety-identifier": safety}),
    }


@pytest.mark.parametrize(
    ("query", "model"),
    [
        ("model=a%26model%3Dother", "a&model=other"),
        ("model=a%23fragment", "a#fragment"),
        ("model=a%3Fb", "a?b"),
        ("model=a%2F..%2F..%2Fadmin", "a/../../admin"),
        ("model=a/../../admin", "a/../../admin"),
        ("model=a%20HTTP/1.1", "a HTTP/1.1"),
        ("model=a%250d%250aX:%20y", "a%0d%0aX: y"),
        ("model=a@NOBODYS", "a@NOBODYS"),
        ("model=a;intent=transcription", "a;intent=transcription"),
        ("model=a%C3%A9", "a\u00e9"),
        ("model=a&host=NOBODYS&base_url=ws://NOBODYS/v1&upstream=other", "a"),
        ("model=a&scenario=x&api-version=1&deployment=other", "a"),
        ("model=a&url=http://169.254.169.254/latest", "a"),
        ("intent=realtime&model=a", "a"),
    ],
)
def test_a_model_is_one_value_of_one_parameter(place: Place, query: str, model: str):
    status, sent = ask(place, f"/v1/realtime?{query}")
    assert status == 502
    (head,) = sent
    check(place, head, model=model.replace("NOBODYS", place.nobodys.address))


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("model=a%0d%0aHost:%20NOBODYS", 400),
        ("model=a%0aX:%20y", 400),
        ("model=a%00", 400),
        ("model=a%E2%80%A8b", 400),  # U+2028, a line's end to some
        ("model=a%C2%85b", 400),  # U+0085, another
        ("model=" + "a" * 257, 400),
        ("model=a&model=other", 400),
        ("model=a&intent=transcription", 400),
        ("intent=transcription%0d%0aX:%20y", 400),
        ("intent=../other", 400),
        ("model=other", 404),
        ("model=//NOBODYS/", 404),
        ("model=ws://NOBODYS/v1", 404),
        ("model=../../a", 404),
        ("call_id=ws://NOBODYS", 404),
    ],
)
def test_what_is_no_name_goes_nowhere(place: Place, query: str, status: int):
    assert ask(place, f"/v1/realtime?{query}") == (status, [])


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "NOBODYS"},
        {"Host": "user:password@NOBODYS"},
        {"X_Forwarded_Host": "NOBODYS", "X_Forwarded_Proto": "https", "Forwarded": "host=NOBODYS"},
        {"X_Forwarded_For": "NOBODYS", "X_Real_IP": "NOBODYS", "Via": "1.1 NOBODYS"},
        {"X_Original_URL": "/admin", "X_Rewrite_URL": "/admin", "X_HTTP_Method_Override": "POST"},
        {"Proxy_Authorization": "Basic eDp5", "Proxy": "http://NOBODYS"},  # HTTP_PROXY, in CGI
        {"Cookie": "a=b", "Referer": "http://NOBODYS/", "User_Agent": "somebody else"},
        {"OpenAI_Organization": "org-1", "OpenAI_Project": "p", "OpenAI_Beta": "realtime=v1"},
        {"Sec_WebSocket_Protocol": "realtime, openai-organization.o, openai-project.p"},
        {"Sec_WebSocket_Protocol": "realtime, ws://NOBODYS/v1, host.NOBODYS"},
        {"Sec_WebSocket_Extensions": "permessage-deflate; client_max_window_bits"},
        {"OpenAI_Safety_Identifier": "user\t1"},
        {"OpenAI_Safety_Identifier": "us\xe9r"},
        {"OpenAI_Safety_Identifier": "x" * 513},
    ],
    ids=lambda headers: " ".join(f"{name}={value[:30]}" for name, value in headers.items()),
)
def test_no_header_of_a_client_goes_along(place: Place, headers: dict[str, str]):
    status, sent = ask(place, "/v1/realtime?model=a", **headers)
    assert status == 502
    (head,) = sent
    check(place, head, model="a")


@pytest.mark.parametrize("value", ["user-1", "a:b", "a b=c; d", 'x"y', "x" * 512])
def test_but_for_whom_it_is_asked(place: Place, value: str):
    _, sent = ask(place, "/v1/realtime?model=a", OpenAI_Safety_Identifier=value)
    check(place, sent[0], model="a", safety=value)


@pytest.mark.parametrize(
    "lines",
    [
        # A line that goes on, a bare CR or LF, a NUL: the server refuses them, or they are no
        # value that is carried on. One that a parser takes for two lines is two of the client's.
        ["OpenAI-Safety-Identifier: a\r\n Host: NOBODYS"],
        ["OpenAI-Safety-Identifier: a\rHost: NOBODYS"],
        ["OpenAI-Safety-Identifier: a\nHost: NOBODYS"],
        ["OpenAI-Safety-Identifier: a\0b"],
        ["OpenAI-Safety-Identifier : a"],
        ["OpenAI_Safety_Identifier: a"],
        ["OpenAI-Safety-Identifier: a", "OpenAI-Safety-Identifier: b"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
    ],
    ids=repr,
)
def test_lines_that_parsers_read_differently_break_nothing(place: Place, lines: list[str]):
    status, sent = ask(place, "/v1/realtime?model=a", *lines)
    assert status in (400, 502)
    assert bool(sent) == (status == 502)
    for head in sent:
        carried = re.search(rb"(?im)^openai-safety-identifier: ([^\r]*)\r$", head)
        safety = {} if carried is None else {"safety": carried[1].decode()}
        assert not safety or safety["safety"] in ("a", "b", "a,b", "a, b", "a Host: NOBODYS")
        check(place, head, model="a", **safety)


@pytest.mark.parametrize(
    "target",
    [
        "http://NOBODYS/v1/realtime?model=a",
        "//NOBODYS/v1/realtime?model=a",
        "/v1/realtime/../realtime?model=a",
        "/v1/realtime%3Fmodel=other?model=a",
        "/v1/realtime?model=a#@NOBODYS/",
        "/v1/realtime;host=NOBODYS?model=a",
        "NOBODYS",
        "*",
    ],
)
def test_no_target_leads_elsewhere(place: Place, target: str):
    status, sent = ask(place, target)
    assert status in (400, 404, 502)
    assert bool(sent) == (status == 502)
    for head in sent:
        check(place, head, model="a")


def test_what_is_sent_behind_a_request_is_no_request_of_its_upstream(place: Place):
    """Neither as a body, nor as a request that is smuggled along."""
    second = "GET /v1/realtime?model=other HTTP/1.1\r\nHost: NOBODYS\r\n\r\n"
    for more in (second, "x" * 5):
        status, sent = ask(
            place, "/v1/realtime?model=a", f"Content-Length: {len(more)}", "", more.rstrip("\r\n")
        )
        assert status in (400, 502)
        for head in sent:
            check(place, head, model="a")


def test_an_intent_is_one_of_two_words(place: Place):
    status, sent = ask(place, "/v1/realtime?intent=transcription&language=en%26x")
    assert status == 502
    check(place, sent[0], intent="transcription")


def test_many_at_once_are_each_asked_for_their_own(place: Place):
    """Nothing of one request is left for the next."""
    place.upstream.sent.clear()
    threads = []
    heads = []
    for number in range(20):
        text = (
            f"GET /v1/realtime?model=a{number} HTTP/1.1\r\nHost: relay\r\n"
            + "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
            + f"Authorization: Bearer {KEY}\r\nOpenAI-Safety-Identifier: user-{number}\r\n\r\n"
        )

        def run(text: str = text) -> None:
            with dial(place.relay) as client:
                client.sendall(text.encode())
                heads.append(read_answer(client).status)

        threads.append(threading.Thread(target=run))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heads == [502] * 20
    found = set()
    for head in place.upstream.sent:
        number = re.search(rb"model=a(\d+) ", head)[1].decode()
        check(place, head, model=f"a{number}", safety=f"user-{number}")
        found.add(number)
    assert len(found) == 20
