"""Trust: which certificates prove that an upstream is what its URL says.

The rule: the certificate and the host's name are always verified. A ``ca_file`` adds to what the
system trusts, and nothing takes verification away; who wants no TLS at all, over a network, is told
at each start.
"""

import ipaddress
import logging
import ssl
from collections.abc import Iterable
from urllib.parse import urlsplit

import gevent.ssl

from relay_app import snapshot
from relay_app.settings import SettingsError, Upstream

__all__ = ["check_ca_files", "trust_also", "verifying_context", "warn_of_clear_text"]

logger = logging.getLogger("relay_app")


def verifying_context() -> ssl.SSLContext:
    """Verifies the certificate and the host's name, against the system's certificates or those
    that ``SSL_CERT_FILE`` names; on gevent.

    ``gevent.ssl.create_default_context()`` makes a context of the standard library, unless the
    process was patched; its sockets would block the hub, past every deadline.
    """
    context: ssl.SSLContext = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    return context


def trust_also(context: ssl.SSLContext, ca_file: str) -> None:
    """Adds the certificates of a ``ca_file``. Raises OSError, which an SSLError is."""
    # Of the text between certificates, which may name authorities in any alphabet, OpenSSL
    # wants none.
    text = snapshot.read(ca_file).decode("ascii", "ignore")
    if not text:
        raise ssl.SSLError("no certificate")
    context.load_verify_locations(cadata=text)


def check_ca_files(upstreams: Iterable[Upstream], source: str) -> None:
    """Raises SettingsError for a ``ca_file`` that is not there, or holds no certificates."""
    for index, upstream in enumerate(upstreams):
        if not upstream.ca_file:
            continue
        try:
            trust_also(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), upstream.ca_file)
        except OSError as error:
            # A file that is no PEM is an SSLError, whose strerror is its place in OpenSSL.
            none = isinstance(error, ssl.SSLError)
            why = "no PEM certificate in it" if none else f"cannot be read ({error.strerror})"
            raise SettingsError(
                f"{source}: upstreams[{index}].ca_file = {upstream.ca_file!r}: {why}: "
                "expected the path of a PEM file of certificates"
            ) from None


def warn_of_clear_text(upstreams: Iterable[Upstream]) -> None:
    """Logs which upstreams on other machines are asked without TLS."""
    for upstream in upstreams:
        if not upstream.tls and not _is_here(urlsplit(upstream.base_url).hostname or ""):
            logger.warning(
                "upstream %s is asked without TLS: its key, and what is said, can be read and "
                "changed on the way; use wss://, unless the network is trusted",
                upstream.name,
            )


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
