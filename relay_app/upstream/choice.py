"""Choice: which upstream a session gets, by trying them one at a time until one says 101.

The rules:

1. The lowest priority first, of one priority by chance and weight, of one upstream any key; what
   rests comes last.
2. One deadline over all attempts. As long as there is another upstream to try, an attempt may take
   half of the time that is left.
3. What would fail everywhere is not tried elsewhere, and a client's own key is judged once.
4. After its 101 an upstream has the session for good: there is nothing to try again.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from random import Random, SystemRandom
from typing import Final

from relay_app.errors import UpstreamFault
from relay_app.settings import Upstream
from relay_app.upstream.blame import Blame, blame, result
from relay_app.upstream.catalogue import Route
from relay_app.upstream.dial import Dial, Dialled
from relay_app.upstream.dialects import Credential, UpstreamRequest
from relay_app.upstream.rests import ALL_KEYS, Rests
from relay_app.upstream.retry_after import retry_after_seconds

__all__ = ["Choice", "Chosen"]

MAX_TRIES: Final = 8
SHORTEST_TRY_SECONDS: Final = 0.1
"""With less time than this left another attempt is not worth its packets."""
_LASTING: Final = (Blame.LIMIT, Blame.UPSTREAM, Blame.KEY)
_OF_THE_KEY: Final = (Blame.LIMIT, Blame.KEY)
_TELLING: Final = list(Blame)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Candidate:
    route: Route
    key: int
    credential: Credential

    @property
    def upstream(self) -> str:
        return self.route.upstream.name

    @property
    def name(self) -> str:
        """What it is called in logs: with the number of its key, if there are several."""
        several = len(self.route.upstream.api_keys) > 1
        return f"{self.upstream}[{self.key}]" if several else self.upstream


@dataclass(frozen=True, slots=True)
class Chosen:
    """An upstream that has answered 101. ``tried`` says who had not, and why; "" if it was the
    first to be asked. ``ours`` says that the provider's key is not the client's."""

    dialled: Dialled
    route: Route
    key: int = 0
    ours: bool = True
    tried: str = ""


class Choice:
    """The upstreams of one worker, and what it has learnt about them.

    ``on_attempt`` is told the upstream and the result of each attempt, ``on_resting`` how many keys
    of an upstream rest, its own rest being one.
    """

    def __init__(
        self,
        upstreams: Iterable[Upstream],
        dial: Dial,
        *,
        seconds: float,
        on_attempt: Callable[[str, str], None] = lambda upstream, result: None,
        on_resting: Callable[[str, int], None] = lambda upstream, count: None,
        rests: Rests | None = None,
        random: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credentials = {
            upstream.name: [Credential(key) for key in upstream.api_keys] for upstream in upstreams
        }
        self._dial = dial
        self._seconds = seconds
        self._on_attempt = on_attempt
        self._on_resting = on_resting
        self._rests = Rests(clock=clock) if rests is None else rests
        # Not the global one, which a host may have seeded; and not one that forks inherit.
        self._random = SystemRandom() if random is None else random
        self._clock = clock

    def dial(
        self,
        routes: Sequence[Route],
        request: Callable[[Route, Credential, float], UpstreamRequest],
        brought: Credential | None = None,
    ) -> Chosen:
        """Dials one of ``routes``, which come by priority, within ``seconds``.

        ``brought`` is the provider's key if the client came with its own. Raises the UpstreamFault
        that tells the client most, which names all that were tried if there were several.
        """
        deadline = self._clock() + self._seconds
        waiting = self._candidates(routes, brought)
        failed: list[tuple[_Candidate, UpstreamFault]] = []
        while True:
            candidate, rested = self._next(waiting)
            left = deadline - self._clock()
            others = any(other.upstream != candidate.upstream for other in waiting)
            seconds = left / 2 if others else left
            self._rests.trying(candidate.upstream, candidate.key)
            try:
                dialled = self._dial(request(candidate.route, candidate.credential, seconds))
            except UpstreamFault as fault:
                failed.append((candidate, fault))
                due_to = blame(fault)
                self._note(candidate, fault, due_to, own=brought is None)
                if due_to is Blame.REQUEST or (brought is not None and due_to in _OF_THE_KEY):
                    raise self._telling(failed[-1:], failed) from None
                # Other keys of an upstream are of use only if it is the key's doing.
                whole = rested or due_to not in _OF_THE_KEY
                waiting = [
                    other
                    for other in waiting
                    if other is not candidate
                    and not (whole and other.upstream == candidate.upstream)
                ]
                no_time = deadline - self._clock() < SHORTEST_TRY_SECONDS
                if not waiting or no_time or len(failed) == MAX_TRIES:
                    raise self._telling(failed, failed) from None
            else:
                self._on_attempt(candidate.upstream, "ok")
                self._rests.accepted(candidate.upstream, candidate.key)
                self._tell(candidate.upstream)
                ours, tried = brought is None, _tried(failed)
                return Chosen(dialled, candidate.route, candidate.key, ours, tried)

    def worked(self, chosen: Chosen) -> None:
        """A session has come to work, not just to its 101."""
        upstream = chosen.route.upstream.name
        self._rests.proved(upstream, chosen.key)
        self._tell(upstream)

    def spoiled(self, chosen: Chosen, due_to: Blame, why: str) -> None:
        """An upstream ended a session as soon as it had begun, or said that it cannot have one."""
        if due_to in _LASTING and (chosen.ours or due_to not in _OF_THE_KEY):
            self._on_attempt(chosen.route.upstream.name, "accepted_then_failed")
            key = chosen.key if due_to in _OF_THE_KEY else ALL_KEYS
            self._rest(chosen.route.upstream.name, key, due_to, why, late=True)

    # -- in which order ----------------------------------------------------------------------

    def _candidates(self, routes: Sequence[Route], brought: Credential | None) -> list[_Candidate]:
        found = []
        for _, group in groupby(routes, key=lambda route: route.upstream.priority):
            for route in self._drawn(list(group)):
                own = self._credentials.get(route.upstream.name) or [Credential("")]
                keys = [brought] if brought is not None else own
                of_this = [_Candidate(route, key, one) for key, one in enumerate(keys)]
                if len(of_this) > 1:
                    self._random.shuffle(of_this)
                found += of_this
        return found

    def _drawn(self, routes: list[Route]) -> list[Route]:
        """``routes`` as if drawn one after the other, each as likely as its weight is great."""
        if len(routes) == 1:
            return routes
        # Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006.
        return sorted(
            routes, key=lambda route: -(self._random.random() ** (1 / route.upstream.weight))
        )

    def _next(self, waiting: Sequence[_Candidate]) -> tuple[_Candidate, bool]:
        """Who is asked next, and whether it still rests."""
        best, least = waiting[0], float("inf")
        # Anew for each attempt: other sessions learn while this one waits.
        for candidate in waiting:
            left = self._rests.left(candidate.upstream, candidate.key)
            if not left:
                return candidate, False
            if left < least:
                best, least = candidate, left
        return best, True

    # -- what came of it ---------------------------------------------------------------------

    def _note(
        self, candidate: _Candidate, fault: UpstreamFault, due_to: Blame, *, own: bool
    ) -> None:
        self._on_attempt(candidate.upstream, result(fault))
        if due_to is Blame.UPSTREAM:
            key = ALL_KEYS
        else:
            self._rests.answered(candidate.upstream)
            key = candidate.key
        if due_to in _LASTING and (own or due_to is Blame.UPSTREAM):
            asked = retry_after_seconds(fault.headers.get("Retry-After", ""), time.time())
            self._rest(candidate.upstream, key, due_to, result(fault), asked_seconds=asked)
        self._tell(candidate.upstream)

    def _rest(
        self,
        upstream: str,
        key: int,
        due_to: Blame,
        why: str,
        *,
        asked_seconds: float | None = None,
        late: bool = False,
    ) -> None:
        seconds, begun = self._rests.failed(
            upstream, key, due_to, asked_seconds=asked_seconds, late=late
        )
        if begun:
            alone = key == ALL_KEYS or len(self._credentials[upstream]) < 2
            whole = "" if alone else f" key={key}"
            _log.warning("upstream rests upstream=%s%s seconds=%.1f why=%s",
                         upstream, whole, seconds, why)  # fmt: skip
        self._tell(upstream)

    def _tell(self, upstream: str) -> None:
        self._on_resting(upstream, self._rests.resting(upstream))

    def _telling(
        self,
        among: Sequence[tuple[_Candidate, UpstreamFault]],
        failed: Sequence[tuple[_Candidate, UpstreamFault]],
    ) -> UpstreamFault:
        """The fault that a client can do most with, and who was tried."""
        fault = min((fault for _, fault in among), key=lambda fault: _TELLING.index(blame(fault)))
        if len(failed) == 1:
            return fault
        told = UpstreamFault(
            f"{fault.message} Tried: {_tried(failed)}.",
            status=fault.status,
            code=fault.code,
            type=fault.type,
            param=fault.param,
            headers=fault.headers,
        )
        told.answered = fault.answered
        return told


def _tried(failed: Sequence[tuple[_Candidate, UpstreamFault]]) -> str:
    return ", ".join(f"{candidate.name} ({result(fault)})" for candidate, fault in failed)
