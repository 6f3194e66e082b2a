"""Faults at the end: when a provider stops, and how.

The rule: what happens ``at:EVENT`` happens right behind the first event of that name, and
nothing is said any more.
"""

from collections.abc import Iterable, Iterator

from relay_app.simulator.channel import Channel
from relay_app.simulator.faults.arguments import event_named, number
from relay_app.simulator.faults.frames import TEXT, frame
from relay_app.simulator.faults.normal import Do, Event, Normal, Step
from relay_app.simulator.ids import new_id

__all__ = [
    "AcceptsThenErrs", "BadFrameAt", "CloseAt", "ErrorAt", "ExpireAfter", "GarbageAt",
    "HalfFrameAt", "HalfOpenAt", "HangUpAt", "MuteAfter101", "MuteAt", "RstAt", "SilentAfter101",
]  # fmt: skip


class MuteAfter101(Normal):
    """Not one event comes, but what the client says is read and its pings are answered."""

    def say(self, event: Event) -> Iterable[Step]:
        """Nothing."""
        return ()


class SilentAfter101(Normal):
    """Nothing comes after the 101 and nothing is read, the client's pings included."""

    def say(self, event: Event) -> Iterable[Step]:
        """Stop reading; it is the first event that wakes us."""
        return (Channel.deafen,)


class MuteAt(Normal):
    """Behind this event nothing comes, but what the client says is read, its pings answered."""

    takes = "EVENT"

    def __init__(self, argument: str = "") -> None:
        self._event = event_named(argument)
        self._over = False

    def say(self, event: Event) -> Iterator[Step]:
        """Everything up to the event, then the end."""
        if self._over:
            return
        yield event
        if event["type"] == self._event:
            self._over = True
            yield from self.end()

    def end(self) -> Iterable[Step]:
        """What happens then."""
        return ()


class HalfOpenAt(MuteAt):
    """Behind this event nothing comes and nothing is read, as after a crash of the machine."""

    def end(self) -> Iterable[Step]:
        """Stop reading."""
        return (Channel.deafen,)


class CloseAt(MuteAt):
    """Behind this event the provider closes with 1011."""

    def end(self) -> Iterable[Step]:
        """Close."""
        return (_close(1011, "internal error"),)


class HangUpAt(MuteAt):
    """Behind this event the connection ends, without a close frame."""

    def end(self) -> Iterable[Step]:
        """FIN."""
        return (Channel.hang_up,)


class RstAt(MuteAt):
    """Behind this event the connection is reset."""

    def end(self) -> Iterable[Step]:
        """RST."""
        return (Channel.reset,)


class HalfFrameAt(MuteAt):
    """Behind this event comes half a frame, and then the connection ends."""

    def end(self) -> Iterable[Step]:
        """A frame without its second half, and FIN."""
        return (frame(TEXT, b"x" * 4000)[:1000], Channel.hang_up)


class BadFrameAt(MuteAt):
    """Behind this event comes a frame with a reserved bit set."""

    def end(self) -> Iterable[Step]:
        """As if compression had been agreed on."""
        return (frame(TEXT, b"{}", reserved=4),)


class GarbageAt(MuteAt):
    """Behind this event the provider closes with 1000, and sends garbage behind the close."""

    def end(self) -> Iterable[Step]:
        """Close, and 5,000 bytes that are no frame."""
        return (_close(1000, ""), b"\xff" * 5000)


class ErrorAt(MuteAt):
    """Behind this event come an error of the server's and a close with 1011."""

    def end(self) -> Iterable[Step]:
        """Say so, and close."""
        message = "The server had an error while processing your request."
        return (_error("server_error", None, message), _close(1011, "server_error"))


class AcceptsThenErrs(Normal):
    """The upgrade is answered with 101, and then the account has no quota: an error, a close."""

    def say(self, event: Event) -> Iterable[Step]:
        """An error instead of session.created."""
        message = "You exceeded your current quota, please check your plan and billing details."
        error = _error("insufficient_quota", "insufficient_quota", message)
        return (error, _close(1008, "insufficient_quota"))


class ExpireAfter(Normal):
    """After so many minutes the session expires: an error session_expired, a close with 1001."""

    takes = "MINUTES"

    def __init__(self, argument: str = "") -> None:
        self._minutes = number(argument, "minutes", 0, 10_000)

    def meanwhile(self, do: Do) -> Iterator[float]:
        """Wait, and end it."""
        yield self._minutes * 60_000
        message = f"Your session hit the maximum duration of {self._minutes:g} minutes."
        do(_error("invalid_request_error", "session_expired", message))
        do(_close(1001, ""))


def _close(code: int, reason: str) -> Step:
    return lambda channel: channel.close(code, reason)


def _error(type: str, code: str | None, message: str) -> Event:
    error = {"type": type, "code": code, "message": message, "param": None, "event_id": None}
    return {"type": "error", "event_id": new_id("event"), "error": error}
