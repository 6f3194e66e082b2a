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
_OF_THE_KEY: Final = (Blame.LIMIT, Blame.KEY)
"""What another key may not have, and what is its owner's own."""
_TELLING: Final = list(Blame)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A route, and a key for it: the one with that number, or one that a client ``brought``."""

    route: Route
    key: int
    credential: Credential
    brought: bool = False

    @property
    def upstream(self) -> str:
        return self.route.upstream.name

    @property
    def name(self) -> str:
        """What it is called in logs: with the number of its key, if there are several."""
        several = len(self.route.upstream.api_keys) > 1
        return f"{self.upstream}[{self.key}]" if several else self.upstream


_Failure = tuple[Candidate, UpstreamFault]


@dataclass(frozen=True, slots=True)
class Chosen:
    """An upstream that has answered 101. ``tried`` says who had not, and why; "" if it was the
    first to be asked."""

    dialled: Dialled
    candidate: Candidate
    asked_at: float
    tried: str

    @property
    def route(self) -> Route:
        return self.candidate.route


class Choice:
    """The upstreams of one worker, and what it has learnt about them.

    ``on_attempt`` is told the upstream and the result of each attempt, ``on_spoiled`` the upstream
    of each session that was accepted and could not begin, ``on_resting`` how many keys of an
    upstream rest, its own rest being one, whenever that changes.
    """

    def __init__(
        self,
        upstreams: Iterable[Upstream],
        dial: Dial,
        *,
        seconds: float,
        on_attempt: Callable[[str, str], None] = lambda upstream, result: None,
        on_spoiled: Callable[[str], None] = lambda upstream: None,
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
        self._on_spoiled = on_spoiled
        self._on_resting = on_resting
        self._told: dict[str, int] = {}
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
        failed: list[_Failure] = []
        while True:
            candidate, rested = self._next(waiting)
            seconds = _share(candidate, waiting, deadline - self._clock())
            asked_at = self._rests.trying(candidate.upstream, candidate.key)
            try:
                dialled = self._dial(request(candidate.route, candidate.credential, seconds))
            except UpstreamFault as fault:
                failed.append((candidate, fault))
                due_to = blame(fault)
                self._learn(candidate, fault, due_to, asked_at)
                waiting = _still_of_use(waiting, candidate, due_to, rested)
                in_time = deadline - self._clock() >= SHORTEST_TRY_SECONDS
                if not (waiting and in_time and len(failed) < MAX_TRIES):
                    raise _most_telling(failed) from None
            else:
                self._on_attempt(candidate.upstream, "ok")
                self._rests.accepted(candidate.upstream, candidate.key, asked_at)
                self._tell(candidate.upstream)
                return Chosen(dialled, candidate, asked_at, _tried(failed))

    def worked(self, chosen: Chosen) -> None:
        """A session has come to work, not just to its 101."""
        candidate = chosen.candidate
        self._rests.proved(candidate.upstream, candidate.key, chosen.asked_at)
        self._tell(candidate.upstream)

    def spoiled(self, chosen: Chosen, due_to: Blame, why: str) -> None:
        """An upstream ended a session as soon as it had begun, or said that it cannot have one."""
        candidate = chosen.candidate
        if _is_learnt(candidate, due_to):
            self._on_spoiled(candidate.upstream)
            self._rest(candidate, due_to, why, late=True)

    # -- in which order ----------------------------------------------------------------------

    def _candidates(self, routes: Sequence[Route], brought: Credential | None) -> list[Candidate]:
        found: list[Candidate] = []
        for _, group in groupby(routes, key=lambda route: route.upstream.priority):
            for route in self._drawn(list(group)):
                if brought is not None:
                    found.append(Candidate(route, 0, brought, brought=True))
                else:
                    found += self._of(route)
        return found

    def _of(self, route: Route) -> list[Candidate]:
        """The keys of a route, in any order."""
        keys = self._credentials[route.upstream.name] or [Credential("")]
        found = [Candidate(route, number, key) for number, key in enumerate(keys)]
        if len(found) > 1:
            self._random.shuffle(found)
        return found

    def _drawn(self, routes: list[Route]) -> list[Route]:
        """``routes`` as if drawn one after the other, each as likely as its weight is great."""
        if len(routes) == 1:
            return routes
        # Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006.
        return sorted(
            routes, key=lambda route: -(self._random.random() ** (1 / route.upstream.weight))
        )

    def _next(self, waiting: Sequence[Candidate]) -> tuple[Candidate, bool]:
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

    def _learn(
        self, candidate: Candidate, fault: UpstreamFault, due_to: Blame, asked_at: float
    ) -> None:
        self._on_attempt(candidate.upstream, result(fault))
        if due_to is not Blame.UPSTREAM:
            self._rests.answered(candidate.upstream, asked_at)
        if _is_learnt(candidate, due_to):
            asked = retry_after_seconds(fault.headers.get("Retry-After", ""), time.time())
            self._rest(candidate, due_to, result(fault), asked_seconds=asked)
        self._tell(candidate.upstream)

    def _rest(
        self,
        candidate: Candidate,
        due_to: Blame,
        why: str,
        *,
        asked_seconds: float | None = None,
        late: bool = False,
    ) -> None:
        of_the_key = due_to in _OF_THE_KEY
        seconds, is_news = self._rests.failed(
            candidate.upstream,
            candidate.key if of_the_key else ALL_KEYS,
            due_to,
            asked_seconds=asked_seconds,
            late=late,
        )
        if is_news:
            who = candidate.name if of_the_key else candidate.upstream
            _log.warning("upstream rests upstream=%s seconds=%.1f why=%s", who, seconds, why)
        self._tell(candidate.upstream)

    def _tell(self, upstream: str) -> None:
        resting = self._rests.resting(upstream)
        before, self._told[upstream] = self._told.get(upstream), resting
        if resting != before:
            self._on_resting(upstream, resting)
        if before and not resting:
            _log.info("upstream works again upstream=%s", upstream)


def _share(candidate: Candidate, waiting: Sequence[Candidate], left: float) -> float:
    """How much of the time that is left an attempt may take."""
    others = any(other.upstream != candidate.upstream for other in waiting)
    return left / 2 if others else left


def _is_learnt(candidate: Candidate, due_to: Blame) -> bool:
    """Whether a failure says something about an upstream or a key of ours."""
    return due_to is Blame.UPSTREAM or (due_to in _OF_THE_KEY and not candidate.brought)


def _still_of_use(
    waiting: Sequence[Candidate], failed: Candidate, due_to: Blame, rested: bool
) -> list[Candidate]:
    """Who of ``waiting`` may do better than ``failed``."""
    of_the_key = due_to in _OF_THE_KEY
    if due_to is Blame.REQUEST or (of_the_key and failed.brought):
        return []
    if of_the_key and not rested:
        return [other for other in waiting if other is not failed]
    # Other keys are of no use; and where all rest, one of an upstream is enough.
    return [other for other in waiting if other.upstream != failed.upstream]


def _most_telling(failed: Sequence[_Failure]) -> UpstreamFault:
    """The fault that a client can do most with, and who was tried."""
    fault = min((fault for _, fault in failed), key=lambda fault: _TELLING.index(blame(fault)))
    fault.tried = _tried(failed)
    if len(failed) == 1:
        return fault
    told = UpstreamFault(
        f"{fault.message} Tried: {fault.tried}.",
        status=fault.status,
        code=fault.code,
        type=fault.type,
        param=fault.param,
        headers=fault.headers,
    )
    told.answered, told.tried = fault.answered, fault.tried
    return told


def _tried(failed: Sequence[_Failure]) -> str:
    return ", ".join(f"{candidate.name} ({result(fault)})" for candidate, fault in failed)
