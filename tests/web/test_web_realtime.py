"""The way of a request to its session: what is asked, what it may cost, what is given back."""

import threading
from pathlib import Path
from typing import Any

import gevent
import pytest
from realtime_support import Upstream, app_with, ask, refused
from support.clients import Peer, eventually
from werkzeug.test import TestResponse

from relay_app.errors import UpstreamFault
from relay_app.upstream.dial import Dialled
from relay_app.web import conversation, realtime


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 400, "missing_required_parameter"),
        ("model=", 400, "missing_required_parameter"),
        ("model=a&model=b", 400, "invalid_value"),
        ("model=" + "x" * 257, 400, "invalid_value"),
        ("model=a%0d%0ab", 400, "invalid_value"),
        ("intent=other", 400, "invalid_value"),
        ("intent=transcription&model=a", 400, "invalid_model"),
        ("call_id=rtc_1&model=a", 404, "call_id_not_supported"),
    ],
)
def test_a_question_that_cannot_be_answered_dials_nobody(
    query: str, status: int, code: str, tmp_path: Path, upstream: Upstream, ends
):
    assert refused(ask(app_with(upstream, tmp_path), ends[1], query)) == (status, code)
    assert not upstream.requests


def test_a_session_whose_key_has_no_budget_begins_without_reading_a_price(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends
):
    def dial(request: Any) -> Dialled:
        raise UpstreamFault("no", status=502)

    monkeypatch.setattr(realtime, "LivePrice", lambda price: pytest.fail("a price was read"))
    assert ask(app_with(dial, tmp_path), ends[1]).status_code == 502


def test_a_full_relay_refuses_and_says_when_to_come_back(tmp_path: Path, upstream: Upstream, ends):
    answered = gevent.event.Event()
    dialling = threading.Event()

    def slow(request: Any) -> Dialled:
        dialling.set()
        answered.wait()
        raise UpstreamFault("no", status=502)

    app = app_with(slow, tmp_path, server="max_sessions = 1")
    first: list[TestResponse] = []
    thread = threading.Thread(target=lambda: first.append(ask(app, ends[1])))
    thread.start()
    assert dialling.wait(10)
    answer = ask(app, ends[1])
    assert refused(answer) == (503, "relay_full")
    assert answer.headers["Retry-After"] == "5"
    app.extensions["relay_app"].hub.run(answered.set)
    thread.join(10)
    assert first[0].status_code == 502


def test_a_dial_that_fails_gives_its_place_back(tmp_path: Path, ends):
    def down(request: Any) -> Dialled:
        raise UpstreamFault("down", status=502, code="upstream_unreachable")

    app = app_with(down, tmp_path, server="max_sessions = 1")
    for _ in range(3):
        assert refused(ask(app, ends[1])) == (502, "upstream_unreachable")


def test_a_relay_that_drains_refuses(tmp_path: Path, upstream: Upstream, ends):
    app = app_with(upstream, tmp_path)
    app.extensions["relay_app"].drain()
    assert refused(ask(app, ends[1])) == (503, "relay_draining")
    assert not upstream.requests


def test_only_what_is_known_goes_upstream(tmp_path: Path, upstream: Upstream, ends):
    ends[0].close()
    with pytest.raises(BrokenPipeError):
        ask(
            app_with(upstream, tmp_path),
            ends[1],
            "model=gpt-realtime&temperature=1",
            OpenAI_Safety_Identifier="user-1",
            OpenAI_Organization="org-of-the-client",
            X_Other="something",
            Cookie="a=b",
        )
    [request] = upstream.requests
    assert request.target == "/v1/realtime?model=gpt-realtime"
    names = {name for name, _ in request.headers}
    assert names == {"Authorization", "User-Agent", "OpenAI-Safety-Identifier"}


def test_a_client_that_has_gone_gives_the_upstream_back(tmp_path: Path, upstream: Upstream, ends):
    ends[0].close()
    with pytest.raises(BrokenPipeError):
        ask(app_with(upstream, tmp_path), ends[1])
    assert upstream.given_back == 1


def test_a_101_that_comes_too_late_is_followed_by_the_reason(
    tmp_path: Path, upstream: Upstream, ends, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(conversation, "ACCEPT_SECONDS", 0.01)
    app = app_with(upstream, tmp_path)

    @app.after_request
    def slow(response: Any) -> Any:
        eventually(lambda: upstream.given_back, "the upstream is given back")
        return response

    client, server = ends
    with pytest.raises(BrokenPipeError):
        ask(app, server)
    head = client.recv(4096).partition(b"\r\n\r\n")
    peer = Peer(client, masks=True, head=head[0], early=head[2])
    assert peer.told()["error"]["code"] == "accepted_too_late"
    assert peer.hear_close()[0] == 1013
    assert upstream.given_back == 1
