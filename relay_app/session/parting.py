"""Parting: how one side of a session is told its farewell, heard out and let go.

The rule: everything here is bounded, and a side that does not listen delays nobody but itself.
"""

from relay_app import codec
from relay_app.session.lifecycle import Farewell
from relay_app.session.reader import Reader
from relay_app.wire.link import Link, LinkEnded

__all__ = ["bid", "dismiss", "see_off"]

CLOSE_SECONDS = 2.0
"""How long a peer may take to answer our close; what a provider reports meanwhile counts."""
LINGER_SECONDS = 1.0


def see_off(link: Link, reader: Reader, farewell: Farewell, *, event_id: str) -> None:
    """Says ``farewell``, lets ``reader`` hear what the peer has left to say, and ends the
    connection. Takes at most about four seconds."""
    bid(link, farewell, event_id=event_id)
    reader.join(CLOSE_SECONDS)
    reader.kill()
    link.finish(LINGER_SECONDS)


def bid(link: Link, farewell: Farewell, *, event_id: str) -> None:
    """Says ``farewell``. Its error event, if it has one, waits a second for its turn at most."""
    if farewell.event is not None:
        try:
            link.send_text(codec.dumps({**farewell.event.event(), "event_id": event_id}))
        except LinkEnded:
            pass  # it will hear neither the event nor the close
    dismiss(link, farewell)


def dismiss(link: Link, farewell: Farewell) -> None:
    """The same without the error event. Never blocks, and once said changes nothing."""
    if farewell.close is not None:
        link.close(farewell.close)
    if farewell.reset:
        link.abort()
