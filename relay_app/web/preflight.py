"""Preflight: what would stop or endanger a start, found before anything is started.

The rule: what is wrong is said in one line, at once. A server that is left to find out by
itself tries again, forks, and prints tracebacks.
"""

import ipaddress
import socket
from collections.abc import Iterable

from relay_app.ledger.price_list import price_list
from relay_app.ledger.stores import Store, open_store
from relay_app.settings import Settings, SettingsError
from relay_app.upstream.trust import check_ca_files

__all__ = ["check_doors", "check_files", "check_free", "check_settings", "open_configured"]

_ACCEPTED = "expected HOST:PORT, like 127.0.0.1:8000 or [::1]:8000, or unix:PATH"


def check_settings(settings: Settings, hosts: Iterable[str]) -> None:
    """Raises SettingsError for whatever the two below do."""
    check_files(settings)
    check_doors(settings, hosts)


def check_files(settings: Settings) -> None:
    """Raises SettingsError for a store, a price list or a ``ca_file`` that is none."""
    open_configured(settings)
    price_list(settings)
    check_ca_files(settings.upstreams, settings.source)


def check_doors(settings: Settings, hosts: Iterable[str]) -> None:
    """Raises SettingsError for open doors to more than loopback."""
    for host in hosts:
        if settings.auth.mode == "open" and not _is_local(host):
            raise SettingsError(
                f'{settings.source}: auth.mode = "open" asks nobody for a key: expected binds to '
                f"loopback only, and {host} is not"
            )


def open_configured(settings: Settings) -> Store:
    """The store of the settings, unopened. Raises SettingsError."""
    try:
        return open_store(settings.store.url)
    except ValueError as error:
        raise SettingsError(f"{settings.source}: store.url: {error}") from None


def check_free(bind: str) -> str:
    """The host of ``bind``, "" for a Unix socket, once somebody could listen there.

    Raises ValueError for what is no bind or is taken. Port 0 is always free.
    """
    if bind.startswith("unix:") and len(bind) > len("unix:"):
        return ""
    host, colon, port = bind.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    well_formed = colon and host and bracketed == (":" in host)
    if not (well_formed and port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise ValueError(f"cannot listen on {bind}: {_ACCEPTED}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or _ACCEPTED
        raise ValueError(f"cannot listen on {bind}: {why}; choose another with --bind") from None
    return host


def _is_local(host: str) -> bool:
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
