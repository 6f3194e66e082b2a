"""RealtimeRelay: the same relay inside somebody's Flask application.

The rule: the host keeps its configuration, its error handlers and its SOCK_SERVER_OPTIONS; we
add routes under names of our own, and nothing else.
"""

from typing import Any

from flask import Flask

from relay_app.app import Relay
from relay_app.observe.logs import configure
from relay_app.settings import Settings
from relay_app.settings_file import settings_from_environment, settings_from_file

__all__ = ["RealtimeRelay"]


class RealtimeRelay:
    """A Flask extension::

        relay = RealtimeRelay(app, settings=settings_from_file("relay.toml"))

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
            settings = settings_from_file(path) if path else settings_from_environment()
        configure()
        self.relay = Relay(settings, **self._parts)
        self.relay.register(app)

    def drain(self) -> None:
        """Ends sessions: idle ones at once with 1001, the others after their response."""
        if self.relay is not None:
            self.relay.drain()

    def close(self) -> None:
        """Ends every session now and makes every record durable: for the host's last moments."""
        if self.relay is not None:
            self.relay.close()
