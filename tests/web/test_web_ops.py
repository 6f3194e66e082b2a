import hashlib
import time
from collections.abc import Callable
from contextlib import contextmanager
from decimal import Decimal
from typing import Any
from urllib.request import urlopen

import gevent
import pytest
from support.relays import relay
from support.upstreams import echo, upstream

from relay_app.app import Relay, create_app
from relay_app.ledger.stores.base import StoreError
from relay_app.ledger.stores.keys import StoredKey
from relay_app.ledger.stores.memory import MemoryStore
from relay_app.meter.usage import Usage, UsageRecord, record_id
from relay_app.settings import Key
from relay_app.settings_file import settings_from_toml
from relay_app.web import ops

KEYS = (
    '[[keys]]\nname = "a"\nkey = "rk-aaaaaaaa"\n[[keys]]\nname = "anonymous"\nkey = "rk-bbbbbbbb"\n'
)
UPSTREAMS = '[[upstreams]]\nname = "u"\nbase_url = "ws://127.0.0.1:1/v1"\napi_keys = ["k"]\n'
STORE = '[store]\nurl = "memory://"\n'


class Moody(MemoryStore):
    """A memory store that raises what it is told to."""

    mood: Callable[[], None] | None = None

    def write(self, records: Any) -> None:
        if self.mood:
            self.mood()
        super().write(records)

    def ping(self) -> None:
        if self.mood:
            self.mood()
        super().ping()


def fails() -> None:
    raise StoreError("no such host postgres://user:hunter2@db/relay")


class Site:
    """An application with a store at hand."""

    def __init__(self, text: str = KEYS + UPSTREAMS + STORE) -> None:
        self.store = Moody()
        self.app = create_app(settings_from_toml(text, environ={}), store=self.store)
        self.relay: Relay = self.app.extensions["relay_app"]

    def get(self, path: str, key: str = "", **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return self.app.test_client().get(path, headers=headers, **options)

    def close(self) -> None:
        self.store.mood = None
        self.relay.close()


@pytest.fixture
def site():
    made = Site()
    yield made
    made.close()


def record(unit: str, key: str = "a", **changes: Any) -> UsageRecord:
    return UsageRecord(
        **{
            "id": record_id("rs_1", unit), "session_id": "rs_1", "kind": "response",
            "source": "reported", "status": "completed", "key": key, "upstream": "u",
            "model": "gpt-realtime", "upstream_model": "gpt-realtime", "unit_id": unit,
            "started_at": 1_767_225_600.0, "ended_at": 1_767_225_601.0,
            "usage": Usage(output_audio_tokens=10), "cost_usd": Decimal("0.5"), "price": None,
            "usage_raw": None, "estimate": None, **changes,
        }
    )  # fmt: skip


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"


# -- health and readiness -----------------------------------------------------------------------


def test_healthz_says_that_we_are_there_whatever_else_is_not(site):
    site.store.mood = fails
    site.relay.announce_drain()
    assert (site.get("/healthz").status_code, site.get("/healthz").json) == (200, {"status": "ok"})


def test_readyz_says_that_sessions_are_welcome(site):
    assert (site.get("/readyz").status_code, site.get("/readyz").json) == (200, {"status": "ready"})


def test_readyz_is_503_while_the_store_cannot_be_reached(site):
    site.store.mood = fails
    answer = site.get("/readyz")
    assert answer.status_code == 503
    assert answer.json["error"]["code"] == "store_unavailable"
    assert "hunter2" not in answer.text
    site.store.mood = None
    assert site.get("/readyz").status_code == 200


def test_readyz_is_503_while_the_store_hangs(site, monkeypatch):
    monkeypatch.setattr(ops, "STORE_SECONDS", 0.05)
    gate = gevent.monkey.get_original("threading", "Event")()
    site.store.mood = lambda: gate.wait(10)
    answer = site.get("/readyz")
    gate.set()
    assert answer.status_code == 503
    assert answer.json["error"]["message"] == "the store does not answer"


def test_readyz_is_503_while_the_relay_drains(site):
    site.relay.announce_drain()
    answer = site.get("/readyz")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json["error"]["code"] == "relay_draining"


def test_readyz_is_503_while_usage_cannot_be_recorded(site):
    accountant = site.relay.accountant
    site.store.mood = fails
    site.relay.hub.run(accountant.record, [record("r1")])
    wait_until(lambda: not accountant.healthy)
    site.store.mood = None
    with_retry = site.get("/readyz")
    assert (with_retry.status_code, with_retry.headers["Retry-After"]) == (503, "5")
    assert with_retry.json["error"]["code"] == "ledger_unavailable"
    assert site.relay.hub.run(accountant.flush, 10)
    assert site.get("/readyz").status_code == 200


# -- usage --------------------------------------------------------------------------------------


def test_usage_is_shown_to_its_own_key_alone(site):
    site.store.write([record("r1"), record("r2"), record("r3", key="other")])
    answer = site.get("/v1/usage?by=key", "rk-aaaaaaaa")
    assert answer.status_code == 200
    assert answer.json["by"] == "key"
    [total] = answer.json["totals"]
    assert (total["group"], total["records"], total["output_audio_tokens"]) == ("a", 2, 20)
    assert total["cost_usd"] == "1.0"


def test_a_key_that_is_called_anonymous_sees_no_more_than_its_own(site):
    site.store.write([record("r1")])
    assert site.get("/v1/usage", "rk-bbbbbbbb").json["totals"] == []


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/v1/usage", "", 401),
        ("/v1/usage", "rk-wrong-key", 401),
        ("/v1/usage?api_key=rk-aaaaaaaa", "", 401),
        ("/v1/usage?API-KEY=rk-aaaaaaaa", "rk-aaaaaaaa", 401),
        ("/v1/usage?by=secret", "rk-aaaaaaaa", 400),
        ("/v1/usage?by=", "rk-aaaaaaaa", 400),
        ("/v1/usage?since=yesterday", "rk-aaaaaaaa", 400),
        ("/v1/usage?until=2026-13-01", "rk-aaaaaaaa", 400),
        ("/v1/usage?since=", "rk-aaaaaaaa", 400),
        ("/v1/usage?since=0001-01-01&until=9999-12-31T23:59:59-23:59", "rk-aaaaaaaa", 200),
        ("/v1/usage?since=2026-01-01T00:00:00Z&by=day", "rk-aaaaaaaa", 200),
    ],
)
def test_usage_says_what_is_wrong_with_a_question(site, path, key, status):
    answer = site.get(path, key)
    assert answer.status_code == status
    assert set(answer.json) == ({"error"} if status != 200 else {"by", "totals"})
    assert "rk-aaaaaaaa" not in answer.text
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize(
    ("query", "records"),
    [
        ("", 3), ("since=2026-01-01", 2), ("since=2026-01-02", 1), ("until=2026-01-02", 2),
        ("since=2026-01-01&until=2026-01-02", 1), ("until=2026-01-01T00:00:01Z", 1),
        ("since=2026-01-01T01:00:02%2B01:00", 1), ("since=2026-01-02&until=2026-01-01", 0),
    ],
)  # fmt: skip
def test_usage_is_cut_by_time(site, query, records):
    day = 86_400
    site.store.write(
        [record(f"r{i}", ended_at=1_767_225_601.0 + (i - 1) * day) for i in range(3)]
    )  # around 2026-01-01T00:00:01Z
    totals = site.get(f"/v1/usage?{query}", "rk-aaaaaaaa").json["totals"]
    assert sum(total["records"] for total in totals) == records


def test_usage_is_503_while_the_store_cannot_answer(site, monkeypatch):
    monkeypatch.setattr(site.store, "totals", lambda *a, **o: fails())
    answer = site.get("/v1/usage", "rk-aaaaaaaa")
    assert (answer.status_code, answer.json["error"]["code"]) == (503, "store_unavailable")


def test_an_answer_of_flask_is_json_too(site):
    for answer, status in (
        (site.get("/v1/models"), 404),
        (site.app.test_client().post("/healthz"), 405),
    ):
        assert answer.status_code == status
        assert answer.json["error"]["type"] == "invalid_request_error"
    assert "GET" in answer.headers["Allow"]


# -- metrics ------------------------------------------------------------------------------------


def test_metrics_are_text_for_prometheus(site):
    site.store.write([record("r1")])
    answer = site.get("/metrics")
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert "relay_sessions_open 0.0" in answer.text


def test_metrics_are_up_to_date_when_they_are_asked_for(site):
    relay = site.relay
    for count in (1, 3):
        relay.hub.run(relay.accountant.record, [record(f"{count}-{i}") for i in range(2)])
        assert relay.hub.run(relay.accountant.flush, 10)
        assert (
            f"relay_records_total {relay.accountant.records_written:.1f}"
            in site.get("/metrics").text
        )


def scrape(url: str) -> dict[str, float]:
    with urlopen(f"{url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))
    }


@contextmanager
def sessions(relayed: Any, count: int):
    clients = [relayed.connect() for _ in range(count)]
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


NAMES = {
    "open": "relay_sessions_open",
    "opened": "relay_sessions_opened_total",
    "sent": 'relay_messages_total{direction="sent"}',
}


def test_the_sum_over_two_workers_is_right_whichever_answers(tmp_path):
    def figures() -> dict[str, float]:
        found = scrape(relayed.url)
        closed = [v for n, v in found.items() if n.startswith("relay_sessions_closed_total")]
        return {short: found.get(name, 0) for short, name in NAMES.items()} | {
            "closed": sum(closed)
        }

    def settles(**expected: float) -> None:
        wait_until(lambda: figures() == expected)
        # Whichever worker is asked, and however often: nothing is counted twice.
        assert all(figures() == expected for _ in range(10))

    with upstream(echo) as base_url, relay(tmp_path, base_url, workers=2) as relayed:
        with sessions(relayed, 6) as clients:
            for client in clients:
                for text in ("one", "two"):
                    client.send(text)
                    assert client.recv(10) == text
            settles(open=6, opened=6, sent=12, closed=0)
        settles(open=0, opened=6, sent=12, closed=6)


# -- keys of the store --------------------------------------------------------------------------


def keep(site: Site, secret: str, revoked_at: float | None = None) -> None:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    site.store.put_key(StoredKey(Key("stored", digest), 1.0, revoked_at), instead_of=None)


def test_a_key_of_the_store_sees_its_own_usage(site):
    keep(site, "rk-of-the-store")
    site.store.write([record("r1"), record("r2", key="stored")])
    answer = site.get("/v1/usage?by=key", "rk-of-the-store")
    assert [total["group"] for total in answer.json["totals"]] == ["stored"]


def test_readyz_warns_while_keys_cannot_be_read(site, monkeypatch):
    keep(site, "rk-of-the-store")
    monkeypatch.setattr(site.store, "keys", fails)
    refused = site.get("/v1/usage", "rk-of-the-store")
    assert (refused.status_code, refused.json["error"]["code"]) == (503, "keys_unavailable")
    answer = site.get("/readyz")
    assert answer.status_code == 200
    assert answer.json["warning"].startswith("keys cannot be read from the store, none is known: ")
    assert "hunter2" not in answer.text
    assert "relay_key_read_failures_total 0.0" not in site.get("/metrics").text
    monkeypatch.undo()
    assert site.get("/v1/usage", "rk-of-the-store").status_code == 200
    assert site.get("/readyz").json == {"status": "ready"}


def test_what_was_known_serves_on_while_keys_cannot_be_read(site, monkeypatch):
    keep(site, "rk-of-the-store")
    assert site.get("/v1/usage", "rk-of-the-store").status_code == 200
    monkeypatch.setattr(site.store, "keys", fails)
    assert site.get("/v1/usage", "rk-unknown-key").status_code == 503
    assert site.get("/v1/usage", "rk-of-the-store").status_code == 200
    assert "revoked ones may still work" in site.get("/readyz").json["warning"]


def test_a_relay_whose_keys_were_never_read_knows_those_of_its_file(site, monkeypatch):
    monkeypatch.setattr(site.store, "keys", fails)
    assert site.get("/v1/usage", "rk-aaaaaaaa").status_code == 200
