"""SessionContext: who is talking to whom, decided before the session begins and never after."""

import os
from dataclasses import dataclass

__all__ = ["SessionContext", "new_session_id"]


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What the door and the route found out. ``key`` is the key's name, never its secret;
    ``tried`` says which upstreams were asked before this one."""

    id: str
    key: str
    upstream: str
    model: str
    upstream_model: str
    client_address: str = "-"
    upstream_request_id: str = "-"
    tried: str = ""


def new_session_id() -> str:
    """An id of our own, also given to the client and written on every log line."""
    return f"rs_{os.urandom(16).hex()}"
