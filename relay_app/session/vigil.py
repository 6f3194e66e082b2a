"""Vigil: whether both peers live and take what they are sent, and whether anybody speaks.

The rule: it is asked, once a second, and looks, unless nothing but time can have changed and no
deadline has come; no session has timers of its own, and no message pays for any of it. Nothing here
blocks.
"""

from relay_app.errors import ClientFault, Fault
from relay_app.observe.logs import SessionLog
from relay_app.session.ends import Ends
from relay_app.session.rest import Rest
from relay_app.settings import Server
from relay_app.wire.frames import ABNORMAL
from relay_app.wire.link import Link

__all__ = ["Vigil"]

ROOM_SECONDS = 60.0
"""How long a large frame may keep room that other sessions wait for: 16 MiB at 2.2 Mbit/s."""
BURST_SECONDS = 60.0
"""Recordings are sent as fast as they go: an hour of them, in pieces of 100 ms, is 36,000 messages
and has to pass."""


class Vigil:
    """Over one session between ``client`` and ``target`` that begins ``now``."""

    __slots__ = (
        "_active",
        "_client",
        "_ends",
        "_left",
        "_limits",
        "_log",
        "_looked",
        "_seen_messages",
        "_sent",
        "_started",
        "_target",
        "_warned",
        "rest",
    )

    def __init__(
        self, client: Link, target: Link, ends: Ends, limits: Server, log: SessionLog, now: float
    ) -> None:
        self._client = client
        self._target = target
        self._ends = ends
        self._limits = limits
        self._log = log
        self._started = self._active = self._looked = now
        self._seen_messages = self._sent = 0
        self._left = limits.max_messages_per_second * BURST_SECONDS
        self._warned = False
        self.rest = Rest(client, target)

    def rests(self, elapsed_seconds: float, now: float) -> bool:
        """Whether this round would find nothing new, so that nobody need look."""
        rest = self.rest
        if rest.lasts(elapsed_seconds, now):
            return True
        if rest.seconds:
            self._client.skip(rest.seconds)
            self._target.skip(rest.seconds)
            self.flooded(self._sent, rest.then)  # nothing came: its allowance has grown
            rest.made_good()
        return False

    def let_rest(self) -> None:
        """Everything has been looked at, and only what peers do or time can bring news."""
        limits = self._limits
        silent = max(self._client.silent_seconds, self._target.silent_seconds)
        expires = self._started + limits.max_session_seconds
        idles = self._active + limits.idle_seconds
        self.rest.begin(limits.ping_seconds - silent, min(expires, idles))

    def look_at_peers(self, elapsed_seconds: float, now: float) -> None:
        """Gives up who does not live, and tells the ends of who keeps everybody waiting."""
        limits = self._limits
        stall_seconds, ping_seconds = limits.stall_seconds, limits.ping_seconds
        client, target = self._client, self._target
        for link, sink in ((client, target), (target, client)):
            if not link.pulse(elapsed_seconds, ping_seconds) and link.end is None:
                if not self._takes_nothing(link):
                    self._log.warning("gave up a silent peer", side=link.name)
                link.abort()
            blocked, untaken = link.blocked_since, link.untaken_since
            if blocked is not None and now - blocked > stall_seconds:
                self._stalled(link)
            elif untaken is not None and now - untaken > stall_seconds + ping_seconds:
                # Nobody of ours waits for it yet. It may be behind a dead stretch of network,
                # and behind a balancer that looks like a client which does not read.
                self._stalled(link)
            if link.hoards_room(ROOM_SECONDS):
                slow = link if sink.blocked_since is None else sink
                self._ends.stalled(slow, "took too long over a large message")

    def ended(self, link: Link) -> None:
        """The peer of ``link`` closed or vanished. If it had taken nothing for long that was a
        stall, whichever clock was the first: the kernel has one of its own, and so have pings."""
        lost = link.end is not None and link.end.code == ABNORMAL
        if lost and self._takes_nothing(link):
            self._stalled(link)
        else:
            self._ends.closed(link)

    def _takes_nothing(self, link: Link) -> bool:
        return link.untaken_seconds() >= self._limits.stall_seconds

    def _stalled(self, link: Link) -> None:
        self._ends.stalled(link, f"read nothing for {self._limits.stall_seconds:g} seconds")

    def overdue(self, messages: int, now: float) -> Fault | None:
        """Why the session has to end, if it does: silent or open for too long. ``messages`` is how
        many have passed so far."""
        limits = self._limits
        if now - self._started > limits.max_session_seconds:
            text = f"the session hit this relay's maximum of {limits.max_session_seconds:g} seconds"
            return ClientFault(text, code="session_expired")
        if messages != self._seen_messages:
            self._seen_messages = messages
            self._active = now
        elif now - self._active > limits.idle_seconds:
            text = f"no message in either direction for {limits.idle_seconds:g} seconds"
            return ClientFault(text, code="session_idle")
        return None

    def flooded(self, sent: int, now: float) -> Fault | None:
        """Why the session has to end, if its client sends too many messages: ``sent`` so far, with
        parts of messages and control frames, which keep us as busy."""
        limit = self._limits.max_messages_per_second
        most = limit * BURST_SECONDS
        came, seconds = sent - self._sent, now - self._looked
        self._sent, self._looked = sent, now
        self._left = min(most, self._left - came + seconds * limit)
        if not limit or self._left >= most / 2:
            return None
        pace = round(came / seconds) if seconds > 0 else came
        if self._left < 0:
            return ClientFault(
                f"Rate limit reached: {pace} messages in a second. This relay takes {limit}, on "
                "average over a minute.",
                status=429,
                type="rate_limit_exceeded",
                code="rate_limit_exceeded",
            )
        if not self._warned:
            self._warned = True
            self._log.warning("the client sends many messages", per_second=pace, limit=limit)
        return None
