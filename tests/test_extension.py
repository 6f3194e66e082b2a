import pytest
from flask import Flask, abort

from relay_app.app import Relay
from relay_app.extension import RealtimeRelay
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
url = "memory://"
"""


@pytest.fixture
def settings() -> Settings:
    return settings_from_toml(TEXT, environ={})


@pytest.fixture
def host() -> Flask:
    """Somebody's application, with habits of its own."""
    app = Flask("host")
    app.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": 25}
    app.register_error_handler(404, lambda error: ("the host's own page", 404))
    app.add_url_rule("/", "index", lambda: "the host")
    app.add_url_rule("/gone", "gone", lambda: abort(404))
    return app


def test_a_host_keeps_what_it_had(host, settings):
    before = dict(host.config)
    RealtimeRelay(host, settings=settings)
    assert dict(host.config) == before
    client = host.test_client()
    assert client.get("/").text == "the host"
    for path in ("/gone", "/nowhere"):
        assert client.get(path).text == "the host's own page"


def test_the_relays_routes_are_there_under_names_of_its_own(host, settings):
    had = set(host.view_functions)
    RealtimeRelay(host, settings=settings)
    added = set(host.view_functions) - had
    assert all(name.startswith("relay_app.") for name in added)
    client = host.test_client()
    assert client.get("/healthz").json == {"status": "ok"}
    assert client.get("/v1/usage").status_code == 401


def test_settings_come_from_the_argument_the_config_or_the_environment(
    host, settings, tmp_path, monkeypatch
):
    file = tmp_path / "other.toml"
    file.write_text(TEXT)

    def source(app: Flask) -> str:
        extension = RealtimeRelay()
        extension.init_app(app)
        assert extension.relay is app.extensions["relay_app"]
        return extension.relay.settings.source

    one, two, three = Flask("one"), Flask("two"), Flask("three")
    one.config["RELAY_SETTINGS"] = settings
    assert source(one) == "settings"
    two.config["RELAY_CONFIG"] = str(file)
    assert source(two) == str(file)
    monkeypatch.setenv("RELAY_CONFIG", str(file))
    assert source(three) == str(file)
    monkeypatch.setenv("RELAY_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(SettingsError, match="cannot be read"):
        RealtimeRelay(host)


def test_parts_are_passed_on(host, settings):
    store = MemoryStore()
    relay = RealtimeRelay(host, settings=settings, store=store, clock=lambda: 0.0).relay
    assert isinstance(relay, Relay)
    assert relay.store is store


def test_one_extension_serves_several_applications(settings):
    extension = RealtimeRelay(settings=settings)
    for name in ("one", "other"):
        app = Flask(name)
        extension.init_app(app)
        assert app.test_client().get("/healthz").status_code == 200


@pytest.mark.parametrize("had", [None, lambda path: "chat" if path == "/chat" else None])
def test_the_subprotocol_is_selected_on_our_path_alone(host, settings, had):
    # gevent-websocket's stock handler asks the application for it.
    if had is not None:
        host.app_protocol = had
    RealtimeRelay(host, settings=settings)
    assert host.app_protocol("/v1/realtime") == "realtime"
    assert host.app_protocol("/v1/realtime/x") is None
    assert host.app_protocol("/chat") == ("chat" if had else None)


def test_an_extension_without_an_application_has_no_relay_yet(settings):
    assert RealtimeRelay(settings=settings).relay is None
