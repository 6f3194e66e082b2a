"""Faults before the 101: the provider refuses, says nothing, or does not speak HTTP.

The rule: the request has been read, for only it says which scenario is asked for; to the client
that looks no different.
"""

from typing import ClassVar

import gevent
from gevent.socket import socket

from relay_app.errors import ClientFault, Fault, RelayFault
from relay_app.simulator.channel import cut
from relay_app.simulator.faults.normal import Normal
from relay_app.simulator.handshake import Handshake

__all__ = [
    "DripsHead", "Gone", "HangsUp", "NoHttp", "Refuses401", "Refuses403", "Refuses404",
    "Refuses429", "Refuses500", "Refuses503", "Resets", "Silent", "WrongAccept",
]  # fmt: skip

HOLD_SECONDS = 300.0
"""How long somebody is kept waiting: longer than any client's own patience with a handshake."""
DRIP_SECONDS = 0.2


class Gone(Exception):
    """The connection is over, and there is nothing more to answer."""


class Refuses401(Normal):
    """The key is refused at the upgrade, whatever it is."""

    fault: ClassVar[type[Fault]] = ClientFault
    status: ClassVar[int] = 401
    code: ClassVar[str | None] = "invalid_api_key"
    type: ClassVar[str | None] = None
    message: ClassVar[str] = "Incorrect API key provided."
    headers: ClassVar[dict[str, str]] = {}

    def admit(self, handshake: Handshake, sock: socket) -> None:
        """Refuse."""
        raise self.fault(
            self.message, status=self.status, code=self.code, type=self.type, headers=self.headers
        )


class Refuses403(Refuses401):
    """The account may not be used from where the request comes from."""

    status = 403
    code = "unsupported_country_region_territory"
    type = "request_forbidden"
    message = "Country, region, or territory not supported"


class Refuses404(Refuses401):
    """The model does not exist, whatever it is."""

    status = 404
    code = "model_not_found"
    message = "The model does not exist or you do not have access to it."


class Refuses429(Refuses401):
    """The account is over its rate limit at the upgrade; it may come back in a second."""

    status = 429
    code = "rate_limit_exceeded"
    type = "requests"
    message = "Rate limit reached for requests. Please try again in 1s."
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class Refuses500(Refuses401):
    """The provider fails at the upgrade."""

    fault = RelayFault
    status = 500
    code = None
    message = "The server had an error while processing your request."


class Refuses503(Refuses401):
    """The provider is overloaded; it asks to come back in 30 seconds."""

    fault = RelayFault
    status = 503
    code = None
    message = "The engine is currently overloaded, please try again later."
    headers: ClassVar[dict[str, str]] = {"Retry-After": "30"}


class Silent(Normal):
    """The connection is accepted, and the request never answered."""

    def admit(self, handshake: Handshake, sock: socket) -> None:
        """Read until the client has enough."""
        gevent.with_timeout(HOLD_SECONDS, _read_out, sock, timeout_value=None)
        raise Gone


class DripsHead(Normal):
    """The head of the answer never ends: a few bytes of it come, again and again."""

    def admit(self, handshake: Handshake, sock: socket) -> None:
        """Say one header after the other."""
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n")
        for count in range(int(HOLD_SECONDS / DRIP_SECONDS)):
            sock.sendall(b"x-%d: wait\r\n" % count)
            gevent.sleep(DRIP_SECONDS)
        raise Gone


class HangsUp(Normal):
    """The connection is accepted, and closed without an answer."""

    def admit(self, handshake: Handshake, sock: socket) -> None:
        """Close."""
        cut(sock, reset=False)
        raise Gone


class Resets(Normal):
    """The connection is accepted, and reset without an answer."""

    def admit(self, handshake: Handshake, sock: socket) -> None:
        """Reset."""
        cut(sock, reset=True)
        raise Gone


class NoHttp(Normal):
    """What answers speaks another protocol than HTTP."""

    def admit(self, handshake: Handshake, sock: socket) -> None:
        """Greet as a mail server does."""
        sock.sendall(b"220 mail.example ESMTP\r\n\r\n")
        raise Gone


class WrongAccept(Normal):
    """The 101 belongs to another request: its Sec-WebSocket-Accept is wrong."""

    def admit(self, handshake: Handshake, sock: socket) -> None:
        """Answer somebody else."""
        sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n"
        )
        raise Gone


def _read_out(sock: socket) -> None:
    while sock.recv(65_536):
        pass
