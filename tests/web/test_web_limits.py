"""What a key may use is looked up before anybody is dialled, and given back whatever follows."""

import time
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from realtime_support import Upstream, app_with, ask, refused
from support.clients import eventually
from support.relays import write_settings
from support.secrets import KEY

from relay_app.app import Relay, create_app
from relay_app.errors import UpstreamFault
from relay_app.ledger.stores import StoreError
from relay_app.ledger.stores.keys import StoredKey
from relay_app.ledger.stores.leases import Ask, Lease
from relay_app.ledger.stores.memory import MemoryStore
from relay_app.meter.usage import UsageRecord
from relay_app.settings import Key
from relay_app.settings_file import settings_from_file


def limited(upstream: Any, folder: Path, keys: str) -> Flask:
    return app_with(upstream, folder, store=MemoryStore(), keys=keys)


def relay_of(app: Flask) -> Relay:
    relay: Relay = app.extensions["relay_app"]
    return relay


def spend(app: Flask, dollars: str) -> None:
    now = time.time()
    record = UsageRecord(
        id=f"record-{now}",
        session_id="rs_before",
        kind="response",
        source="reported",
        status="completed",
        key="tester",
        upstream="up",
        model="gpt-realtime",
        upstream_model="gpt-realtime",
        unit_id="resp_1",
        started_at=now,
        ended_at=now,
        cost_usd=Decimal(dollars),
    )
    relay_of(app).store.write([record])


def occupy(app: Flask) -> Any:
    """The slot of a session that lasts."""
    relay = relay_of(app)
    return relay.hub.run(relay.budgets.reserve, "rs_other", relay.settings.keys[0])


def nothing_is_held(app: Flask) -> None:
    eventually(lambda: len(relay_of(app).budgets) == 0, "the slot is given back")


@pytest.fixture
def gone(ends: Any) -> Any:
    """The server's end of a client that is gone once it is answered."""
    ends[0].close()
    return ends[1]


def test_a_spent_budget_is_refused_with_402(tmp_path: Path, upstream: Upstream, ends: Any):
    app = limited(upstream, tmp_path, 'budget_usd = "1.00"')
    spend(app, "1.00")
    answer = ask(app, ends[1])
    assert refused(answer) == (402, "insufficient_quota")
    assert answer.json["error"]["type"] == "insufficient_quota"
    assert "Retry-After" not in answer.headers
    assert not upstream.requests


@pytest.mark.parametrize(("period", "days"), [("day", 1), ("month", 31)])
def test_a_budget_that_renews_says_when(
    period: str, days: int, tmp_path: Path, upstream: Upstream, ends: Any
):
    keys = f'budget_usd = "1.00"\nbudget_period = "{period}"'
    app = limited(upstream, tmp_path, keys)
    spend(app, "1.00")
    answer = ask(app, ends[1])
    assert refused(answer) == (402, "insufficient_quota")
    assert 0 < int(answer.headers["Retry-After"]) <= days * 86_400
    assert f"the next {period}" in answer.json["error"]["message"]


def test_a_session_too_many_is_refused_with_429(tmp_path: Path, upstream: Upstream, ends: Any):
    app = limited(upstream, tmp_path, "max_sessions = 1")
    occupy(app)
    answer = ask(app, ends[1])
    assert refused(answer) == (429, "rate_limit_exceeded")
    assert answer.json["error"]["type"] == "rate_limit_exceeded"
    assert int(answer.headers["Retry-After"]) > 0
    assert not upstream.requests


def test_tokens_beyond_those_of_the_minute_are_refused_with_429(
    tmp_path: Path, upstream: Upstream, ends: Any
):
    app = limited(upstream, tmp_path, "max_tokens_per_minute = 100")
    used = Ask("rs_before", "tester", occupy(app).ask().limits, tokens=200)
    relay_of(app).store.lease([used], seconds=35)
    answer = ask(app, ends[1])
    assert refused(answer) == (429, "rate_limit_exceeded")
    assert answer.headers["Retry-After"] == "30"


def test_a_budget_is_not_ignored_for_a_model_without_a_price(
    tmp_path: Path, upstream: Upstream, ends: Any
):
    app = limited(upstream, tmp_path, 'budget_usd = "1.00"')
    answer = ask(app, ends[1], "model=nobody-priced-me")
    assert refused(answer) == (403, "model_not_priced")
    assert "nobody-priced-me" in answer.json["error"]["message"]
    assert not upstream.requests


@pytest.mark.parametrize(
    ("keys", "query"),
    [
        ("max_sessions = 1", "model=nobody-priced-me"),
        ('budget_usd = "1.00"', "intent=transcription"),
    ],
)
def test_a_price_is_not_needed_where_no_budget_hangs_on_it(
    keys: str, query: str, tmp_path: Path, upstream: Upstream, gone: Any
):
    app = limited(upstream, tmp_path, keys)
    with pytest.raises(BrokenPipeError):
        ask(app, gone, query)
    assert upstream.requests
    nothing_is_held(app)


def test_a_dial_that_fails_gives_the_slot_back(tmp_path: Path, ends: Any):
    def down(request: Any) -> Any:
        raise UpstreamFault("down", status=502, code="upstream_unreachable")

    app = limited(down, tmp_path, "max_sessions = 1")
    for _ in range(3):
        assert refused(ask(app, ends[1])) == (502, "upstream_unreachable")
        nothing_is_held(app)


def test_a_client_that_has_gone_gives_the_slot_back(tmp_path: Path, upstream: Upstream, gone: Any):
    app = limited(upstream, tmp_path, "max_sessions = 1")
    for _ in range(3):
        with pytest.raises(BrokenPipeError):
            ask(app, gone)
        nothing_is_held(app)


def test_without_the_stores_answer_a_limited_key_waits_and_others_do_not(
    tmp_path: Path, upstream: Upstream, ends: Any, monkeypatch: pytest.MonkeyPatch
):
    def down(asks: Sequence[Ask], *, seconds: float) -> list[Lease]:
        raise StoreError("down")

    app = limited(upstream, tmp_path, "max_sessions = 1")
    monkeypatch.setattr(relay_of(app).store, "lease", down)
    answer = ask(app, ends[1])
    assert refused(answer) == (503, "budget_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    ends[0].close()
    free = app_with(upstream, tmp_path)
    monkeypatch.setattr(relay_of(free).store, "lease", down)
    with pytest.raises(BrokenPipeError):
        ask(free, ends[1])


def test_refusals_are_counted_by_limit_and_logged_with_the_reason(
    tmp_path: Path, upstream: Upstream, ends: Any, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "relay_app")
    app = limited(upstream, tmp_path, "max_sessions = 1")
    occupy(app)
    ask(app, ends[1])
    metrics = app.test_client().get("/metrics").text
    assert 'relay_limit_refusals_total{limit="sessions"} 1.0' in metrics
    assert 'relay_refused_total{by="client",status="429"} 1.0' in metrics
    assert "1 session open at a time" in caplog.text


class Shared(MemoryStore):
    """A store that other workers use too."""

    def close(self) -> None:
        pass


def test_a_worker_that_closes_gives_its_slots_back(tmp_path: Path, upstream: Upstream, gone: Any):
    keys, store = "max_sessions = 1", Shared()
    leaving = app_with(upstream, tmp_path, store=store, keys=keys)
    occupy(leaving)
    relay_of(leaving).close()
    with pytest.raises(BrokenPipeError):
        ask(app_with(upstream, tmp_path, store=store, keys=keys), gone)


def test_limits_that_are_changed_hold_for_open_sessions(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
):
    store = MemoryStore()
    before = Key(name="stored", key_sha256="0" * 64, max_sessions=1)
    stored = StoredKey(before, created_at=0.0)
    store.put_key(stored, instead_of=None)
    config = write_settings(tmp_path, "ws://unused.invalid/v1")
    app = create_app(settings_from_file(config), store=store, dial=upstream, key_seconds=0.01)
    relay = relay_of(app)
    allowance = relay.hub.run(relay.budgets.reserve, "rs_other", before)
    monkeypatch.setattr("relay_app.ledger.stored_keys.ASK_SECONDS", 0.01)
    relay.start()
    limited = replace(stored, key=replace(before, budget_usd=Decimal(2)))
    store.put_key(limited, instead_of=stored)
    eventually(lambda: allowance.key.budget_usd == 2, "the new limit is known")
    relay.close()


def test_a_key_may_ask_what_is_left_of_its_limits(tmp_path: Path, upstream: Upstream):
    keys = 'budget_usd = "5.00"\nbudget_period = "month"\nmax_sessions = 7'
    app = limited(upstream, tmp_path, keys)
    occupy(app)
    spend(app, "1.25")
    answer = app.test_client().get("/v1/usage", headers={"Authorization": f"Bearer {KEY}"})
    assert answer.json["limits"] == {
        "budget_usd": "5.00",
        "budget_period": "month",
        "budget_left_usd": "3.740000",
        "max_sessions": 7,
        "sessions": 1,
    }
    answer = (
        app_with(upstream, tmp_path)
        .test_client()
        .get("/v1/usage", headers={"Authorization": f"Bearer {KEY}"})
    )
    assert "limits" not in answer.json
