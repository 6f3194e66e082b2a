"""Ends: what has ended a session so far, and whose doing it was.

The rule: any of the four may happen at any time and more than once; of each the first counts,
and nothing here blocks.
"""

from gevent.event import Event

from relay_app.errors import ClientFault, Fault, RelayFault, UpstreamFault
from relay_app.session.lifecycle import Cause, Ending, first_end
from relay_app.wire.frames import FrameError
from relay_app.wire.link import Link

__all__ = ["Ends"]


class Ends:
    """The ends of one session between ``client`` and ``target``."""

    __slots__ = ("_any", "_client", "_ends", "_events", "_target")

    def __init__(self, client: Link, target: Link) -> None:
        # To wait for this one rather than for any of four: they are 2 kB less while it idles.
        self._any = Event()
        self._client = client
        self._target = target
        self._ends: dict[Cause, Ending] = {}
        self._events: dict[Cause, Event] = {}

    def event(self, cause: Cause) -> Event:
        """Set once there is an end of this kind. Made when it is asked for: nobody of ours asks,
        and none of the four is of use to a session that idles."""
        event = self._events.get(cause)
        if event is None:
            event = self._events[cause] = Event()
            if cause in self._ends:
                event.set()
        return event

    def wait(self) -> Ending:
        """Waits for the first end, and returns the one that counts."""
        self._any.wait()
        return first_end(self._ends)

    def closed(self, link: Link) -> None:
        """The peer of ``link`` closed or vanished, as ``link.end`` says."""
        if link is self._client:
            self._ended(Ending(Cause.CLIENT, close=link.end))
        else:
            self._ended(Ending(Cause.TARGET, close=link.end))

    def broke_protocol(self, link: Link, error: FrameError) -> None:
        """The peer of ``link`` sent what it may not."""
        code = "message_too_big" if error.code == 1009 else "websocket_protocol_error"
        self._blame(link, f"the {_who(link)} sent: {error.message}", code, error.code)

    def stalled(self, link: Link, text: str) -> None:
        """The peer of ``link`` keeps everybody waiting; ``text`` says how."""
        self._blame(link, f"the {_who(link)} {text}", f"{_who(link)}_stalled", 1013)

    def fail(self) -> None:
        """Something of ours broke."""
        fault = RelayFault("the relay failed", code="relay_error")
        self._ended(Ending(Cause.FAILURE, fault=fault))

    def cancel(self, fault: Fault) -> None:
        """We end the session, for the reason that ``fault`` gives."""
        self._ended(Ending(Cause.CANCEL, fault=fault))

    def _blame(self, offender: Link, text: str, code: str, close_code: int) -> None:
        kind = ClientFault if offender is self._client else UpstreamFault
        other = self._target if offender is self._client else self._client
        ending = Ending(
            Cause.FAILURE,
            fault=kind(text, code=code, close_code=close_code),
            offender=offender.name,
            mid_message=other.mid_message,
        )
        self._ended(ending)

    def _ended(self, ending: Ending) -> None:
        self._ends.setdefault(ending.cause, ending)
        if ending.cause in self._events:
            self._events[ending.cause].set()
        self._any.set()


def _who(link: Link) -> str:
    return "client" if link.name == "client" else "upstream"
