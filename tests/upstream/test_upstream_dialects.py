from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_app import __version__
from relay_app.settings import Upstream
from relay_app.upstream.catalogue import Route
from relay_app.upstream.dialects import Credential, UpstreamRequest, request_for

KEY = "sk-0123456789"


def ask(
    base_url: str = "wss://api.openai.com/v1",
    dialect: str = "openai",
    model: str = "gpt-realtime",
    api_version: str = "",
    header: str = "",
    **options,
) -> UpstreamRequest:
    upstream = Upstream("up", base_url, dialect, api_version=api_version)
    return request_for(Route(upstream, model), Credential(KEY, header), **options)


@pytest.mark.parametrize(
    ("options", "host", "target"),
    [
        ({}, "api.openai.com", "/v1/realtime?model=gpt-realtime"),
        (
            {"dialect": "compatible", "base_url": "ws://localhost:9000/v1"},
            "localhost:9000",
            "/v1/realtime?model=gpt-realtime",
        ),
        ({"base_url": "https://h:443"}, "h", "/realtime?model=gpt-realtime"),
        ({"base_url": "http://h:80/x"}, "h", "/x/realtime?model=gpt-realtime"),
        ({"base_url": "ws://h:443/x"}, "h:443", "/x/realtime?model=gpt-realtime"),
        ({"base_url": "wss://[::1]/v1"}, "[::1]", "/v1/realtime?model=gpt-realtime"),
        ({"base_url": "wss://[::1]:8443/v1"}, "[::1]:8443", "/v1/realtime?model=gpt-realtime"),
        ({"intent": "transcription"}, "api.openai.com", "/v1/realtime?intent=transcription"),
        (
            {"dialect": "azure", "base_url": "wss://r.openai.azure.com", "model": "depl"},
            "r.openai.azure.com",
            "/openai/v1/realtime?model=depl",
        ),
        (
            {"dialect": "azure", "base_url": "wss://r.openai.azure.com/openai/v1", "model": "d"},
            "r.openai.azure.com",
            "/openai/v1/realtime?model=d",
        ),
        (
            {
                "dialect": "azure",
                "base_url": "wss://r.azure.com/openai",
                "api_version": "2025-04-01-preview",
                "model": "d",
            },
            "r.azure.com",
            "/openai/realtime?api-version=2025-04-01-preview&deployment=d",
        ),
        (
            {
                "dialect": "azure",
                "base_url": "wss://r.azure.com",
                "api_version": "2025-04-01-preview",
                "intent": "transcription",
            },
            "r.azure.com",
            "/openai/realtime?api-version=2025-04-01-preview&intent=transcription",
        ),
        (
            {"dialect": "azure", "base_url": "wss://r.azure.com", "intent": "transcription"},
            "r.azure.com",
            "/openai/v1/realtime?intent=transcription",
        ),
    ],
)  # fmt: skip
def test_each_provider_is_asked_at_its_own_place(options, host, target):
    request = ask(**options)
    assert request.authority == host
    assert request.target == target


@pytest.mark.parametrize(
    ("base_url", "host", "port", "tls"),
    [
        ("ws://h", "h", 80, False),
        ("http://h:8080", "h", 8080, False),
        ("wss://h", "h", 443, True),
        ("https://[2001:db8::1]:9", "2001:db8::1", 9, True),
    ],
)
def test_the_scheme_decides_port_and_tls(base_url, host, port, tls):
    request = ask(base_url)
    assert (request.host, request.port, request.tls) == (host, port, tls)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_model_name_stays_within_its_parameter(model):
    for options in (
        {},
        {"dialect": "azure"},
        {"dialect": "azure", "api_version": "2025-04-01-preview"},
    ):
        request = ask(model=model, **options)
        assert request.target.isascii()
        assert request.target.isprintable()
        assert " " not in request.target
        query = parse_qs(urlsplit(request.target).query, keep_blank_values=True)
        name = "deployment" if "api_version" in options else "model"
        assert query.pop(name) == [model]
        assert query == ({"api-version": ["2025-04-01-preview"]} if name == "deployment" else {})


@pytest.mark.parametrize(
    "model",
    ["a&intent=x", "a%26b", "a b", "a\r\nX-Evil: 1", "größe", "a#b", "a?b", "a+b", "/.."],
)
def test_a_hostile_model_name_is_encoded(model):
    target = ask(model=model).target
    assert target.count("&") == target.count("#") == 0
    assert target.count("?") == 1
    assert parse_qs(urlsplit(target).query) == {"model": [model]}


@pytest.mark.parametrize(
    ("dialect", "header", "sent"),
    [
        ("openai", "", ("Authorization", f"Bearer {KEY}")),
        ("compatible", "", ("Authorization", f"Bearer {KEY}")),
        ("azure", "", ("api-key", KEY)),
        # In passthrough mode as the client brought it: an Entra token is a bearer at Azure too.
        ("azure", "authorization", ("Authorization", f"Bearer {KEY}")),
        ("azure", "api-key", ("api-key", KEY)),
        ("openai", "api-key", ("api-key", KEY)),
        ("openai", "authorization", ("Authorization", f"Bearer {KEY}")),
    ],
)
def test_the_key_goes_as_the_provider_wants_it(dialect, header, sent):
    request = ask(dialect=dialect, header=header)
    assert request.headers == (sent, ("User-Agent", f"relay_app/{__version__}"))


def test_more_headers_are_only_those_that_are_given():
    request = ask(extra_headers={"OpenAI-Project": "p"})
    assert request.headers[2:] == (("OpenAI-Project", "p"),)


def test_the_key_is_in_no_repr():
    request = ask()
    assert request.secret == KEY
    assert KEY not in repr(request)
    assert KEY not in repr(Credential(KEY))
