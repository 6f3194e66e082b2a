"""How a session ends: who was first, and what each side is told. Pure.

The laws:

1. Of several ends seen at once the first of client, target, failure, cancel counts.
2. A close is mirrored: the other side gets the same code and reason.
3. Codes that mean "there was no close frame" (1006, 1015) are told as 1011, because they may
   not be sent (RFC 6455 section 7.4.1); no code at all (1005) is told as an empty close frame.
4. An error event precedes a close of ours and a 1011 that stands for a vanished peer, never a
   mirrored close: clients take error events for fatal. It does not precede a 1002 or 1007 to
   the side that broke the framing, which is not listening for events any more.
"""

from dataclasses import dataclass
from enum import Enum

from relay_app.errors import ClientFault, Fault, RelayFault, UpstreamFault, close_reason
from relay_app.wire.frames import ABNORMAL, Close

__all__ = ["Cause", "Ending", "Farewell", "farewells", "first_end"]


class Cause(Enum):
    """What ended a session, in the order in which ends are considered."""

    CLIENT = "client"
    TARGET = "target"
    FAILURE = "failure"
    CANCEL = "cancel"


_NEVER_SENT = {ABNORMAL, 1015}
_GOODBYE = Close(1000)


@dataclass(frozen=True, slots=True)
class Ending:
    """Who ended the session and how.

    ``close`` is what that side said, for CLIENT and TARGET. ``fault`` is the reason of a FAILURE
    or CANCEL; ``offender`` names the side whose fault it was, None if it was neither's.
    ``mid_message`` says that the other side has got the beginning of a message without its end.
    """

    cause: Cause
    close: Close | None = None
    fault: Fault | None = None
    offender: str | None = None
    mid_message: bool = False

    @property
    def code(self) -> int:
        """The close code to log and count."""
        if self.close is not None:
            return self.close.code
        return self.fault.close_code if self.fault is not None else 1011


@dataclass(frozen=True, slots=True)
class Farewell:
    """What one side is told: an error event perhaps, then a close frame, or a reset."""

    close: Close | None
    event: Fault | None = None
    reset: bool = False


def first_end(ended: dict[Cause, Ending]) -> Ending:
    """The one end that counts among those that have happened. ``ended`` is not empty."""
    return next(ended[cause] for cause in Cause if cause in ended)


def farewells(ending: Ending) -> tuple[Farewell, Farewell]:
    """What to tell the client, and what to tell the target.

    A side that closed by itself has had its answer from its Link, so telling it again is
    harmless: a Link closes once.
    """
    if ending.close is not None:
        told = mirrored(ending.close, of=ending.cause.value)
        own = Farewell(ending.close)
        return (own, told) if ending.cause is Cause.CLIENT else (told, own)
    fault = ending.fault or RelayFault("the relay failed", code="relay_error")
    close = Close(fault.close_code, close_reason(fault.message))
    if ending.offender is None:
        return Farewell(close, event=fault), Farewell(close)
    other = _to_the_other(fault, ending.mid_message)
    if ending.offender == "client":
        return _offender(close, fault), Farewell(other)
    event = UpstreamFault(fault.message, code=fault.code)
    return Farewell(other, event=event), _offender(close, fault)


def mirrored(close: Close, *, of: str) -> Farewell:
    """What the other side is told when ``of`` ("client" or "target") closed."""
    if close.code not in _NEVER_SENT:
        return Farewell(close)
    who = "upstream" if of == "target" else of
    fault = UpstreamFault(f"the {who} connection was lost", code=f"{who}_connection_lost")
    return Farewell(
        Close(1011, close_reason(fault.message)), event=fault if of == "target" else None
    )


def _offender(close: Close, fault: Fault) -> Farewell:
    if fault.close_code == 1013:
        # It does not read: a close frame would wait behind what it does not read.
        return Farewell(None, reset=True)
    if fault.close_code in (1002, 1007) or isinstance(fault, UpstreamFault):
        return Farewell(close)
    return Farewell(close, event=fault)


def _to_the_other(fault: Fault, mid_message: bool) -> Close:
    if isinstance(fault, ClientFault) and fault.close_code != 1013 and not mid_message:
        # Nothing is wrong with the upstream; the conversation is simply over.
        return _GOODBYE
    code = 1013 if fault.close_code == 1013 else 1011
    return Close(code, close_reason(fault.message))
