"""What a client may do to a relay that listens, and what it may learn of the account behind it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.clients import TEXT, Peer, Provider, eventually, knock, provider
from support.relays import PROVIDER_KEY, RelayProcess, relay
from support.workers import metric
from websockets.exceptions import InvalidStatus

LIMIT = 50
ERROR = {
    "type": "error",
    "event_id": "event_1",
    "error": {
        "type": "invalid_request_error",
        "code": "invalid_api_key",
        "message": f"Incorrect API key provided: {PROVIDER_KEY} (org-AbCdEf123456).",
    },
}
RATE_LIMITS = {"type": "rate_limits.updated", "rate_limits": [{"name": "tokens", "limit": 40_000}]}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with provider() as listening:
        yield listening


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, upstream: Provider) -> Iterator[RelayProcess]:
    folder: Path = tmp_path_factory.mktemp("surface")
    parts = {
        "limits": f"max_messages_per_second = {LIMIT}",
        "auth": 'allowed_origins = ["https://a.example"]',
        "upstreams": "hide_rate_limits = true",
    }
    with relay(folder, upstream.url, **parts) as process:
        yield process
    assert "Traceback" not in process.output
    assert PROVIDER_KEY not in process.output
    assert process.key not in process.output


@contextmanager
def pair(running: RelayProcess, upstream: Provider) -> Iterator[tuple[Peer, Peer]]:
    with knock(running) as client, upstream.meet() as target:
        yield client, target


def test_what_an_upstream_says_tells_nothing_of_the_account(
    running: RelayProcess, upstream: Provider
) -> None:
    with pair(running, upstream) as (client, target):
        target.tell(**RATE_LIMITS)
        target.tell(**ERROR)
        error = client.told()["error"]
        assert error["message"] == "Incorrect API key provided: [redacted] ([redacted])."
        assert error["code"] == "invalid_api_key"
        target.say_close(4_001, f"no more of {PROVIDER_KEY}")
        assert client.hear_close() == (4_001, "no more of [redacted]")


def test_a_flood_of_messages_ends_with_1008(running: RelayProcess, upstream: Provider) -> None:
    count = 'relay_limit_stops_total{limit="messages"}'
    before = metric(running, count)
    with pair(running, upstream) as (client, target):
        flood = client.frame(TEXT, b'{"type":"input_audio_buffer.clear"}') * (LIMIT * 70)
        client.send(flood)
        error = client.told()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_exceeded", "rate_limit_exceeded")
        assert f"This relay takes {LIMIT}, on average" in error["message"]
        code, reason = client.hear_close()
        assert (code, error["message"].startswith(reason)) == (1008, True)
        assert target.hear() == b'{"type":"input_audio_buffer.clear"}'
    eventually(lambda: metric(running, count) == before + 1, "it is counted")


def test_a_page_may_connect_if_its_origin_is_allowed(
    running: RelayProcess, upstream: Provider
) -> None:
    with running.connect(origin="https://a.example"), upstream.meet():
        pass
    with pytest.raises(InvalidStatus) as refused:
        running.connect(origin="https://evil.example")
    assert refused.value.response.status_code == 403
    assert json.loads(refused.value.response.body)["error"]["code"] == "origin_not_allowed"


def test_who_brings_the_key_may_know_all_about_it(tmp_path: Path, upstream: Provider) -> None:
    options = {"mode": "passthrough", "upstreams": "hide_rate_limits = true"}
    with (
        relay(tmp_path, upstream.url, **options) as process,
        pair(process, upstream) as (client, target),
    ):
        target.tell(**RATE_LIMITS)
        target.tell(**ERROR)
        assert client.told() == RATE_LIMITS
        assert client.told() == ERROR
