"""Credential carriers to a Principal: who is asking, and what they may ask for.

The rules: a credential comes in a header or in a subprotocol, never in the query string, where
every log on the way would keep it; two different credentials in one request are refused; keys
are compared by their SHA-256 in constant time, and no message repeats one.
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from relay_app.errors import ClientFault
from relay_app.ledger.stored_keys import StoredKeys
from relay_app.settings import Key

__all__ = ["Authenticator", "Principal", "credential_of", "is_query_credential"]

KEY_SUBPROTOCOL = "openai-insecure-api-key."
"""How the ``openai`` Node client sends a key from a browser, which can set no headers."""

_QUERY_CREDENTIALS = {
    "api-key", "api_key", "apikey", "key", "token", "access_token", "authorization", "bearer",
    "client_secret", "ephemeral_key", "subscription-key",
}  # fmt: skip
_CARRIED = re.compile(r"[!-~]{1,4096}")
"""What can be carried on in a header: a provider's key, or the longer tokens of Entra."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking. ``secret`` is set only where it is the provider's and goes upstream, ``key``
    only where it is one of ours, with its limits."""

    name: str
    models: tuple[str, ...]
    secret: str = field(default="", repr=False)
    header: str = ""
    key: Key | None = None


@dataclass(frozen=True, slots=True)
class _Carried:
    secret: str = field(repr=False)
    header: str


def is_query_credential(name: str) -> bool:
    """Whether a query parameter of this name carries a credential."""
    return name.lower() in _QUERY_CREDENTIALS


def credential_of(
    environ: Mapping[str, object], subprotocols: Sequence[str], query_names: Sequence[str]
) -> _Carried | None:
    """The one credential that a request carries, None if none. Raises ClientFault 401."""
    for name in query_names:
        if is_query_credential(name):
            raise _refused(
                f"A credential in the query string ({name}=) is refused because it would be "
                "logged. Send it as 'Authorization: Bearer KEY', as 'api-key: KEY', or as the "
                f"subprotocols 'realtime, {KEY_SUBPROTOCOL}KEY'.",
                "credential_in_query",
            )
    found = []
    authorization = str(environ.get("HTTP_AUTHORIZATION", "")).strip()
    if authorization:
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise _refused(
                "The Authorization header must read 'Bearer KEY'.", "invalid_authorization"
            )
        found.append(_Carried(secret.strip(), "authorization"))
    api_key = str(environ.get("HTTP_API_KEY", "")).strip()
    if api_key:
        found.append(_Carried(api_key, "api-key"))
    for protocol in subprotocols:
        if protocol.startswith(KEY_SUBPROTOCOL):
            found.append(_Carried(protocol[len(KEY_SUBPROTOCOL) :], ""))
    if len({carried.secret for carried in found}) > 1:
        raise _refused(
            "The request carries more than one credential, and they differ.", "ambiguous_api_key"
        )
    return found[0] if found else None


class Authenticator:
    """Tells who holds a credential, by the mode of the settings.

    The ``keys`` of the settings win over the ``stored`` ones, by digest and by name, so that
    whoever may only write to the store cannot take over what the file says.
    """

    def __init__(self, mode: str, keys: Sequence[Key], stored: StoredKeys | None = None) -> None:
        self._mode = mode
        self._keys = {key.key_sha256.lower(): key for key in keys}
        self._names = {key.name for key in keys}
        self._stored = stored if mode == "keys" else None

    def knows(self, name: str) -> bool:
        """Whether who was told to be ``name`` still is. In other modes nobody can be revoked."""
        return self._stored is None or name in self._names or self._stored.has(name)

    def stored(self, name: str) -> Key | None:
        """The key of this name in the store, if that is where it comes from."""
        return None if self._stored is None or name in self._names else self._stored.named(name)

    def principal(self, carried: _Carried | None, peer: str = "") -> Principal:
        """Who is asking, from the address ``peer``, "" for a Unix socket. May wait for a store,
        so it is called on the hub.

        Raises ClientFault 401, RelayFault 503 if there are keys that cannot be read, and 403 in
        mode "open" for a peer on another machine: a host application may listen anywhere.
        """
        if self._mode == "open":
            if peer and not _is_loopback(peer):
                raise ClientFault(
                    'This relay asks nobody for a key (auth.mode "open") and is for clients on '
                    "its own machine.",
                    status=403,
                    code="not_local",
                )
            return Principal("anonymous", ("*",))
        if carried is None or not carried.secret:
            raise _refused(
                "You didn't provide an API key. Send it as 'Authorization: Bearer KEY', as "
                f"'api-key: KEY', or as the subprotocols 'realtime, {KEY_SUBPROTOCOL}KEY'.",
                "missing_api_key",
            )
        digest = hashlib.sha256(carried.secret.encode("utf-8", "replace")).hexdigest()
        if self._mode == "passthrough":
            if not _CARRIED.fullmatch(carried.secret):
                raise _refused("Incorrect API key provided.", "invalid_api_key")
            # The provider decides about the key; the ledger tells keys apart by their digest.
            name = f"sha256:{digest[:16]}"
            return Principal(name, ("*",), carried.secret, carried.header)
        key = self._keys.get(digest) or self._find_stored(digest)
        if key is None or not hmac.compare_digest(digest, key.key_sha256.lower()):
            raise _refused("Incorrect API key provided.", "invalid_api_key")
        return Principal(key.name, key.models, key=key)

    def _find_stored(self, digest: str) -> Key | None:
        key = None if self._stored is None else self._stored.find(digest)
        return None if key is None or key.name in self._names else key


def _is_loopback(peer: str) -> bool:
    try:
        return ipaddress.ip_address(peer.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False


def _refused(message: str, code: str) -> ClientFault:
    return ClientFault(
        message, status=401, code=code, headers={"WWW-Authenticate": 'Bearer realm="relay_app"'}
    )
