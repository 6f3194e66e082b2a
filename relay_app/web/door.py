"""Door: what is asked of every request before anything is looked up for it.

The rule: it costs no store, no upstream and no hashing, for it is what stands before them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from relay_app.errors import ClientFault
from relay_app.settings import Auth, Server
from relay_app.web.address import client_address
from relay_app.web.origins import check_origin
from relay_app.web.turnstile import Turnstile

__all__ = ["Door"]


class Door:
    """Asked on the hub. ``on_refused`` is told the limit of this relay's that was reached."""

    def __init__(self, limits: Server, auth: Auth, *, on_refused: Callable[[str], None]) -> None:
        self._trusted = limits.forwarded_allow_ips
        self._per_minute = limits.max_requests_per_minute
        self._turnstile = Turnstile(self._per_minute) if self._per_minute else None
        self._origins = auth.allowed_origins
        # A page of anybody's can reach what listens on its visitor's own machine.
        self._asks_origin = auth.mode == "open" or self._origins is not None
        self.on_refused = on_refused

    def check(self, environ: Mapping[str, Any]) -> None:
        """Raises ClientFault 403 or 429."""
        if self._asks_origin:
            check_origin(environ, self._origins)
        if self._turnstile is None:
            return
        seconds = self._turnstile.ask(client_address(environ, self._trusted))
        if seconds:
            self.on_refused("requests")
            raise ClientFault(
                f"Rate limit reached. This relay takes {self._per_minute} requests a minute from "
                f"one address. Try again in {seconds} s.",
                status=429,
                type="rate_limit_exceeded",
                code="rate_limit_exceeded",
                headers={"Retry-After": str(seconds)},
            )
