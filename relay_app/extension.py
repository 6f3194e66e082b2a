"""RealtimeRelay: the same relay inside somebody's Flask application.

The rule: the host keeps its configuration, its error handlers and its SOCK_SERVER_OPTIONS; we
add routes under names of our own, and nothing else.
"""

from collections.abc import Callable
from typing import Any

from flask import Flask

from relay_app.app import Relay
from relay_app.settings import Settings
from relay_app.web.realtime import PATH

__all__ = ["RealtimeRelay"]


class RealtimeRelay:
    """A Flask extension::

        relay = RealtimeRelay(app, settings=Settings.from_file("relay.toml"))

    or ``RealtimeRelay().init_app(app)``, which takes ``app.config["RELAY_SETTINGS"]`` (a
    Settings) or the file that ``app.config["RELAY_CONFIG"]`` or the environment names.
    """

    def __init__(
        self, app: Flask | None = None, *, settings: Settings | None = None, **parts: Any
    ) -> None:
        self.relay: Relay | None = None
        self._settings = settings
        self._parts = parts
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Adds the relay to ``app``. Raises SettingsError."""
        settings = self._settings or app.config.get("RELAY_SETTINGS")
        if settings is None:
            path = app.config.get("RELAY_CONFIG")
            settings = Settings.from_file(path) if path else Settings.from_environment()
        self.relay = Relay(settings, **self._parts)
        self.relay.register(app)
        _select_subprotocol(app)


def _select_subprotocol(app: Any) -> None:
    """Lets gevent-websocket's stock handler select ``realtime`` on our path, and only there."""
    host: Callable[[str], str | None] | None = getattr(app, "app_protocol", None)

    def app_protocol(path: str) -> str | None:
        if path == PATH:
            return "realtime"
        return host(path) if host is not None else None

    app.app_protocol = app_protocol
