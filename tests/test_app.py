import logging
import os
import re
import threading
from pathlib import Path

import pytest

from relay_app.app import create_app
from relay_app.errors import RelayFault, UpstreamFault
from relay_app.ledger.stores.memory import MemoryStore
from relay_app.settings import Settings, SettingsError
from relay_app.settings_file import settings_from_toml

TEXT = """
[[keys]]
name = "a"
key = "rk-00000000"
[[upstreams]]
name = "u"
base_url = "ws://127.0.0.1:1/v1"
api_keys = ["sk-00000000"]
[store]
url = "{store}"
"""


def settings(store: str = "memory://", more: str = "") -> Settings:
    return settings_from_toml(TEXT.format(store=store) + more, environ={})


def upgrade(app, *, carried: bool = False, **headers: str):
    """The answer to an upgrade request that is refused, by a server that could carry it or not."""
    return app.test_client().get(
        "/v1/realtime?model=m",
        environ_overrides={"werkzeug.socket": None} if carried else {},
        headers={
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            **headers,
        },
    )


def test_making_an_application_starts_and_opens_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = threading.active_count(), sorted(os.listdir("/proc/self/fd"))
    more = '[audit]\nsink = "jsonl:audit.jsonl"'
    create_app(settings(f"sqlite:///{tmp_path}/relay.db", more))
    assert (threading.active_count(), sorted(os.listdir("/proc/self/fd"))) == before
    assert list(tmp_path.iterdir()) == []


def test_without_settings_those_of_the_environment_are_read(tmp_path, monkeypatch):
    file = tmp_path / "relay.toml"
    file.write_text(TEXT.format(store="memory://"))
    monkeypatch.setenv("RELAY_CONFIG", str(file))
    app = create_app()
    assert app.extensions["relay_app"].settings.source == str(file)
    file.unlink()
    with pytest.raises(SettingsError, match="cannot be read"):
        create_app()


@pytest.mark.parametrize(
    "store", ["postgresql+oops://u:pw@h/d", "oracle://u:pw@h", "nothing://", "sqlite://"]
)
def test_a_store_that_cannot_be_stops_the_start(store):
    with pytest.raises(SettingsError, match=r"settings: store.url: ") as caught:
        create_app(settings(store))
    assert "pw" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_store_that_is_given_is_used_and_those_of_the_settings_not():
    store = MemoryStore()
    app = create_app(settings("postgresql://h/d"), store=store)
    assert app.extensions["relay_app"].store is store


def test_a_server_that_carries_no_websocket_is_told_so():
    answer = upgrade(create_app(settings()), Authorization="Bearer rk-00000000")
    assert answer.status_code == 501
    assert answer.json["error"]["code"] == "server_not_supported"


def test_why_an_upstream_refused_is_for_the_operator_to_read(caplog, monkeypatch):
    asked = []

    def dial(request):
        asked.append(request)
        raise UpstreamFault("Our account\nis closed.", status=401, code="no_account")

    monkeypatch.setattr(logging.getLogger("relay_app"), "propagate", True)
    app = create_app(settings(), dial=dial)
    with caplog.at_level(logging.INFO, "relay_app"):
        answer = upgrade(app, Authorization="Bearer rk-00000000", carried=True)
        assert upgrade(app, carried=True).status_code == 401
    assert (answer.status_code, answer.json["error"]["code"]) == (401, "no_account")
    assert [(r.upstream, r.target) for r in asked] == [("u", "/v1/realtime?model=m")]
    ours, theirs = [
        said for record in caplog.records if (said := record.getMessage()).startswith("refused")
    ]
    assert ' by=upstream status=401 code=no_account key=a model=m tried="u (401)" ' in ours
    assert r' client=127.0.0.1 why="Our account\nis closed."' in ours
    assert " by=client status=401 code=" in theirs
    assert not re.search("why=|key=|tried=", theirs)
    assert "00000000" not in caplog.text
    exposed = app.extensions["relay_app"].metrics.exposition().decode()
    assert 'relay_refused_total{by="upstream",status="401"} 1.0' in exposed
    assert 'relay_refused_total{by="client",status="401"} 1.0' in exposed
    assert 'relay_upstream_attempts_total{result="401",upstream="u"} 1.0' in exposed


def test_what_is_known_of_a_refused_request_is_in_its_line(caplog, monkeypatch):
    def dial(request):
        raise UpstreamFault("It is down.", code="upstream_unreachable")

    monkeypatch.setattr(logging.getLogger("relay_app"), "propagate", True)
    more = """
[[upstreams]]
name = "other"
base_url = "ws://127.0.0.1:1/v1"
api_keys = ["sk-00000001"]
priority = 2
"""
    app = create_app(settings(more=more), dial=dial)
    relay = app.extensions["relay_app"]
    with caplog.at_level(logging.INFO, "relay_app"):
        upgrade(app, Authorization="Bearer rk-00000000", carried=True)
        relay.drain()
        upgrade(app, Authorization="Bearer rk-00000000", carried=True)
    down, draining = [
        said for record in caplog.records if (said := record.getMessage()).startswith("refused")
    ]
    tried = 'tried="u (unreachable), other (unreachable)"'
    assert f" by=upstream status=502 code=upstream_unreachable key=a model=m {tried} " in down
    assert " by=relay status=503 code=relay_draining key=a model=m client=" in draining


def test_a_relay_that_drains_is_not_ready():
    relay = create_app(settings()).extensions["relay_app"]
    relay.check_ready()
    relay.drain()
    for check in (relay.check_ready, relay.check_announced):
        with pytest.raises(RelayFault, match="shutting down") as caught:
            check()
        assert caught.value.status == 503
    relay.close()


def test_a_drain_that_is_announced_refuses_nobody_yet():
    relay = create_app(settings()).extensions["relay_app"]
    relay.announce_drain()
    relay.check_ready()
    with pytest.raises(RelayFault, match="Connect again to reach another"):
        relay.check_announced()
    relay.close()


def test_closing_twice_is_closing_once():
    relay = create_app(settings()).extensions["relay_app"]
    relay.close()
    relay.close()


def test_two_relays_in_one_process_are_strangers():
    one, other = (create_app(settings()).extensions["relay_app"] for _ in range(2))
    one.drain()
    other.check_ready()
    assert one.metrics is not other.metrics


def test_the_top_level_files_name_the_same_application():
    root = Path(__file__).parent.parent
    assert "create_app()" in (root / "wsgi.py").read_text()
    assert 'wsgi_app = "wsgi:app"' in (root / "gunicorn.conf.py").read_text()
