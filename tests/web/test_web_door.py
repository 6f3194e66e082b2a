"""What is refused at the door is refused before anything is looked up, and counted."""

from pathlib import Path
from typing import Any

import pytest
from realtime_support import Upstream, app_with, ask, refused
from support.relays import KEY


def metrics_of(app: Any) -> str:
    text: str = app.test_client().get("/metrics").text
    return text


def gone(ends: Any) -> Any:
    ends[0].close()
    return ends[1]


def test_an_address_that_asks_too_often_is_told_when_to_come_back(
    tmp_path: Path, upstream: Upstream, ends: Any
):
    app = app_with(upstream, tmp_path, server="max_requests_per_minute = 2")
    for _ in range(2):
        assert refused(ask(app, ends[1], Authorization=""))[0] == 401
    answer = ask(app, ends[1])
    assert refused(answer) == (429, "rate_limit_exceeded")
    assert answer.json["error"]["type"] == "rate_limit_exceeded"
    assert "2 requests a minute" in answer.json["error"]["message"]
    assert answer.headers["Retry-After"] == "30"
    assert not upstream.requests
    metrics = metrics_of(app)
    assert 'relay_limit_refusals_total{limit="requests"} 1.0' in metrics
    assert 'relay_refused_total{by="client",status="429"} 1.0' in metrics


def test_a_key_is_not_even_looked_up_for_it(tmp_path: Path, upstream: Upstream, ends: Any):
    app = app_with(upstream, tmp_path, server="max_requests_per_minute = 1")
    relay = app.extensions["relay_app"]
    asked = []
    relay._authenticator.principal = lambda *_: asked.append(1)
    relay.endpoint.door.check({"REMOTE_ADDR": "127.0.0.1"})
    assert refused(ask(app, ends[1]))[0] == 429
    assert not asked


def test_clients_behind_a_trusted_balancer_are_told_apart(
    tmp_path: Path, upstream: Upstream, ends: Any
):
    app = app_with(upstream, tmp_path, server="max_requests_per_minute = 1")
    first = {"X_Forwarded_For": "198.51.100.7", "Authorization": ""}
    assert refused(ask(app, ends[1], **first))[0] == 401
    assert refused(ask(app, ends[1], **first))[0] == 429
    assert refused(ask(app, ends[1], **{**first, "X_Forwarded_For": "198.51.100.8"}))[0] == 401


def test_usage_is_limited_with_the_rest_and_health_is_not(tmp_path: Path, upstream: Upstream):
    app = app_with(upstream, tmp_path, server="max_requests_per_minute = 1")
    client = app.test_client()
    key = {"Authorization": f"Bearer {KEY}"}
    assert client.get("/v1/usage", headers=key).status_code == 200
    answer = client.get("/v1/usage", headers=key)
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    assert client.get("/healthz").status_code == 200


def test_nobody_is_limited_unless_it_is_set(tmp_path: Path, upstream: Upstream, ends: Any):
    app = app_with(upstream, tmp_path)
    for _ in range(200):
        assert refused(ask(app, ends[1], Authorization=""))[0] == 401


def test_a_page_of_another_origin_is_refused_before_all_else(
    tmp_path: Path, upstream: Upstream, ends: Any
):
    app = app_with(upstream, tmp_path, auth='allowed_origins = ["https://app.example.com"]')
    answer = ask(app, ends[1], Origin="https://evil.example", Sec_WebSocket_Version="7")
    assert refused(answer) == (403, "origin_not_allowed")
    assert "evil" not in answer.text
    assert 'relay_refused_total{by="client",status="403"} 1.0' in metrics_of(app)
    with pytest.raises(BrokenPipeError):
        ask(app, gone(ends), Origin="https://app.example.com")
    assert len(upstream.requests) == 1


def test_without_a_list_keys_may_come_from_any_page(tmp_path: Path, upstream: Upstream, ends: Any):
    app = app_with(upstream, tmp_path)
    with pytest.raises(BrokenPipeError):
        ask(app, gone(ends), Origin="https://anywhere.example")


def test_a_relay_that_asks_nobody_for_a_key_lets_no_foreign_page_in(
    tmp_path: Path, upstream: Upstream, ends: Any
):
    app = app_with(upstream, tmp_path, mode="open")
    answer = ask(app, ends[1], Origin="https://evil.example")
    assert refused(answer) == (403, "origin_not_allowed")
    with pytest.raises(BrokenPipeError):
        ask(app, gone(ends), Origin="http://localhost:5173")


def test_a_worker_that_is_full_is_counted(tmp_path: Path, upstream: Upstream, ends: Any):
    app = app_with(upstream, tmp_path, server="max_sessions = 1")
    app.extensions["relay_app"].endpoint.opening = 1
    assert refused(ask(app, ends[1])) == (503, "relay_full")
    assert 'relay_limit_refusals_total{limit="worker"} 1.0' in metrics_of(app)
