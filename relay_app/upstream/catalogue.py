"""Catalogue: the model asked for, to the upstreams that may be asked for it, best first.

The rule: model names are matched by patterns with at most one ``*``. An exact name beats a
pattern and a longer pattern beats a shorter one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from relay_app.errors import ClientFault
from relay_app.settings import Upstream

__all__ = ["Catalogue", "Route", "matches"]

MAX_REMEMBERED = 1_000
"""Models that were looked up. Clients name them, so there is no end to them."""


@dataclass(frozen=True, slots=True)
class Route:
    """One upstream, and the model it is to be asked for. ``model`` is "" for an intent."""

    upstream: Upstream
    model: str


def matches(name: str, pattern: str) -> str | None:
    """What the ``*`` of ``pattern`` stands for in ``name``: "" if it has none, None if no match."""
    if "*" not in pattern:
        return "" if name == pattern else None
    before, _, after = pattern.partition("*")
    long_enough = len(name) >= len(before) + len(after)
    if long_enough and name.startswith(before) and name.endswith(after):
        return name[len(before) : len(name) - len(after)]
    return None


class Catalogue:
    """The upstreams of the settings, in the order of their priority, then of the file; which of
    one priority is asked first is not decided here."""

    def __init__(self, upstreams: Iterable[Upstream]) -> None:
        self._upstreams = sorted(upstreams, key=lambda upstream: upstream.priority)
        self._found = lru_cache(MAX_REMEMBERED)(self._find)

    def routes(self, model: str, allowed: Sequence[str]) -> list[Route]:
        """Where ``model`` can go, best first.

        Raises ClientFault 404 when it can go nowhere, or may not for this key; the message
        names the models that are allowed.
        """
        routes = self._found(model, tuple(allowed))
        if not routes:
            names = ", ".join(self.models(allowed)) or "none"
            raise ClientFault(
                f"The model {model[:100]!r} does not exist or you do not have access to it. "
                f"Models allowed to this key: {names}.",
                status=404,
                code="model_not_found",
                param="model",
            )
        return list(routes)

    def _find(self, model: str, allowed: Sequence[str]) -> Sequence[Route]:
        if all(matches(model, pattern) is None for pattern in allowed):
            return ()
        asked = ((upstream, _mapped(model, upstream)) for upstream in self._upstreams)
        return tuple(Route(upstream, name) for upstream, name in asked if name is not None)

    def transcription_routes(self) -> list[Route]:
        """Where ``intent=transcription`` can go, best first. Raises ClientFault 404 for nowhere."""
        routes = [Route(upstream, "") for upstream in self._upstreams if upstream.transcription]
        if not routes:
            raise ClientFault(
                "No upstream of this relay takes intent=transcription.",
                status=404,
                code="intent_not_supported",
                param="intent",
            )
        return routes

    def models(self, allowed: Sequence[str]) -> list[str]:
        """The names and patterns that both a key and some upstream allow."""
        found = set()
        for upstream in self._upstreams:
            for offered in upstream.models:
                for pattern in allowed:
                    if matches(offered, pattern) is not None:
                        found.add(offered)
                    elif matches(pattern, offered) is not None:
                        found.add(pattern)
        return sorted(found)


def _mapped(model: str, upstream: Upstream) -> str | None:
    best: tuple[bool, int] = (False, -1)
    target = None
    for pattern, given in upstream.models.items():
        wild = matches(model, pattern)
        rank = ("*" not in pattern, len(pattern))
        if wild is not None and rank > best:
            best, target = rank, given.replace("*", wild)
    return target
