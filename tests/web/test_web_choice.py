"""Several upstreams behind one endpoint: what a session costs, and whose it is."""

from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from realtime_support import Upstream, app_with, ask, refused
from support.clients import eventually
from support.relays import KEY, PROVIDER_KEY, write_settings

from relay_app.app import create_app
from relay_app.errors import UpstreamFault
from relay_app.ledger.stores.memory import MemoryStore
from relay_app.settings import SettingsError
from relay_app.settings_file import settings_from_file
from relay_app.upstream.dial import Dialled

SECOND = """
models = {first}

[[upstreams]]
name = "second"
dialect = "compatible"
base_url = "ws://second.invalid/v1"
api_keys = ["sk-planted-second-1", "sk-planted-second-2"]
models = {second}
priority = 2
"""
ANY = '{ "*" = "*" }'


class FirstIsDown:
    """A dial that fails for the first upstream, and then for ``failing`` more."""

    def __init__(self, upstream: Upstream, failing: int = 0) -> None:
        self.upstream = upstream
        self.asked: list[tuple[str, str]] = []
        self.leased: list[int] = []
        self.app: Flask | None = None
        self._failing = failing

    def __call__(self, request: Any) -> Dialled:
        self.asked.append((request.upstream, request.secret))
        self.leased.append(len(self.app.extensions["relay_app"].budgets))
        if request.upstream == "up":
            raise UpstreamFault("down", code="upstream_unreachable")
        if self._failing:
            self._failing -= 1
            raise UpstreamFault("limited", status=429)
        return self.upstream(request)


def made(dial: FirstIsDown, folder: Path, **sections: str) -> Flask:
    app = app_with(dial, folder, store=MemoryStore(), **sections)
    dial.app = app
    return app


def nothing_is_held(app: Flask) -> None:
    budgets = app.extensions["relay_app"].budgets
    eventually(lambda: len(budgets) == 0, "the reservation is given back")


def two(first: str = ANY, second: str = ANY) -> str:
    return SECOND.format(first=first, second=second)


def test_an_attempt_more_is_not_a_reservation_more(
    tmp_path: Path, upstream: Upstream, ends, caplog: pytest.LogCaptureFixture
):
    dial = FirstIsDown(upstream, failing=1)
    app = made(dial, tmp_path, upstreams=two(), keys='budget_usd = "5.00"\nmax_sessions = 1')
    ends[0].close()
    with pytest.raises(BrokenPipeError):
        ask(app, ends[1])
    assert [name for name, _ in dial.asked] == ["up", "second", "second"]
    assert len(set(dial.asked)) == 3
    assert dial.leased == [1, 1, 1]
    assert upstream.given_back == 1
    nothing_is_held(app)
    assert "planted" not in caplog.text


def test_what_was_reserved_is_given_back_when_all_fail(tmp_path: Path, upstream: Upstream, ends):
    dial = FirstIsDown(upstream, failing=2)
    app = made(dial, tmp_path, upstreams=two(), keys="max_sessions = 1", server="max_sessions = 1")
    for number in range(2):
        dial._failing = 2
        answer = ask(app, ends[1])
        assert refused(answer)[0] == 429, number
        nothing_is_held(app)
    assert "Tried: " in answer.json["error"]["message"]
    assert "planted" not in answer.text


def test_a_key_with_a_budget_is_sent_only_where_there_is_a_price(
    tmp_path: Path, upstream: Upstream, ends
):
    dial = FirstIsDown(upstream)
    app = made(
        dial,
        tmp_path,
        upstreams=two(
            second='{ "alias" = "nobody-priced-me" }', first='{ "alias" = "gpt-realtime" }'
        ),
        keys='budget_usd = "5.00"',
    )
    assert refused(ask(app, ends[1], "model=alias")) == (502, "upstream_unreachable")
    assert [name for name, _ in dial.asked] == ["up"]


def test_a_client_with_a_key_of_its_own_brings_it_to_each(tmp_path: Path, upstream: Upstream, ends):
    config = write_settings(tmp_path, "ws://unused.invalid/v1", upstreams=two())
    text = config.read_text().replace('mode = "keys"', 'mode = "passthrough"')
    keys = text[text.index("[[keys]]") : text.index("[[upstreams]]")]
    text = text.replace(keys, "").replace(f'api_keys = ["{PROVIDER_KEY}"]', "")
    text = text.replace('api_keys = ["sk-planted-second-1", "sk-planted-second-2"]', "")
    config.write_text(text)
    dial = FirstIsDown(upstream)
    dial.app = create_app(settings_from_file(config), dial=dial, store=MemoryStore())
    ends[0].close()
    with pytest.raises(BrokenPipeError):
        ask(dial.app, ends[1])
    assert dial.asked == [("up", KEY), ("second", KEY)]


def test_a_ca_file_that_is_none_is_told_when_the_application_is_made(tmp_path: Path):
    config = write_settings(tmp_path, "wss://h", upstreams='ca_file = "none.pem"')
    with pytest.raises(SettingsError, match=r"ca_file = .*none\.pem': cannot be read"):
        create_app(settings_from_file(config), store=MemoryStore())
