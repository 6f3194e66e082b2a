"""Dialects: how each kind of provider wants to be asked. Pure: values in, a request out.

The rule: only what is known goes upstream, each value encoded for its place.

Sources: the URLs and headers of the ``openai`` Python and Node clients, and Azure's OpenAI
reference for its preview (``api-version``, ``deployment``) and GA (``/openai/v1``) paths.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from relay_app import __version__
from relay_app.settings import Upstream
from relay_app.upstream.catalogue import Route
from relay_app.upstream.proxy import Proxy

__all__ = ["Credential", "UpstreamRequest", "request_for"]

MAX_REMEMBERED = 1_000
"""Places that were put together. Clients name models, so there is no end to them."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A provider's key. ``header`` is how it came, for one that a client brought itself."""

    secret: str = field(repr=False)
    header: str = ""


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """One upgrade request, and how it is to be brought there.

    ``secret`` is in ``headers`` too; here it is known for scrubbing. ``seconds`` is how long an
    answer is waited for, None for as long as the settings say.
    """

    upstream: str
    host: str
    port: int
    tls: bool
    target: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    secret: str = field(repr=False)
    ca_file: str = ""
    proxy: Proxy | None = None
    seconds: float | None = None

    @property
    def authority(self) -> str:
        """The Host header: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def request_for(
    route: Route,
    credential: Credential,
    *,
    intent: str = "",
    extra_headers: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> UpstreamRequest:
    """The request that opens ``route``, for a model or, with ``intent``, without one."""
    upstream = route.upstream
    place = _place(upstream.dialect, upstream.base_url, upstream.api_version, route.model, intent)
    header, value = _authorization(upstream, credential)
    return UpstreamRequest(
        upstream=upstream.name,
        host=place.host,
        port=place.port,
        tls=upstream.tls,
        target=place.target,
        headers=(
            (header, value),
            ("User-Agent", f"relay_app/{__version__}"),
            *(extra_headers or {}).items(),
        ),
        secret=credential.secret,
        ca_file=upstream.ca_file,
        proxy=Proxy.of(upstream.proxy) if upstream.proxy else None,
        seconds=seconds,
    )


def _authorization(upstream: Upstream, credential: Credential) -> tuple[str, str]:
    default = "api-key" if upstream.dialect == "azure" else "authorization"
    if (credential.header or default) == "api-key":
        return "api-key", credential.secret
    return "Authorization", f"Bearer {credential.secret}"


class _Place(NamedTuple):
    """Where a model, or an intent, is asked for."""

    host: str
    port: int
    target: str


@lru_cache(MAX_REMEMBERED)
def _place(dialect: str, base_url: str, api_version: str, model: str, intent: str) -> _Place:
    parts = urlsplit(base_url)
    path, query = _PATHS[dialect](api_version, parts.path, model, intent)
    port = parts.port or (443 if parts.scheme in ("wss", "https") else 80)
    return _Place(parts.hostname or "", port, f"{path}?{urlencode(query)}")


Query = dict[str, str]


def _openai(api_version: str, path: str, model: str, intent: str) -> tuple[str, Query]:
    return f"{path}/realtime", {"intent": intent} if intent else {"model": model}


def _azure(api_version: str, path: str, model: str, intent: str) -> tuple[str, Query]:
    # The base URL may be the resource alone or, as Azure's portal shows it, with its path.
    root = path.removesuffix("/v1").removesuffix("/openai")
    if not api_version:
        return f"{root}/openai/v1/realtime", {"intent": intent} if intent else {"model": model}
    query = {"api-version": api_version}
    return f"{root}/openai/realtime", query | (
        {"intent": intent} if intent else {"deployment": model}
    )


_PATHS: dict[str, Callable[[str, str, str, str], tuple[str, Query]]] = {
    "openai": _openai,
    "compatible": _openai,
    "azure": _azure,
}
