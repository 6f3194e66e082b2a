"""Links, received from in the greenlet that wants to know."""

from typing import Any

from gevent.event import Event

from relay_app.wire.frames import Run
from relay_app.wire.link import Link

__all__ = ["receive"]


def receive(link: Link, forwards: Any = None) -> Run:
    """The next whole data frames, which are waited for; meanwhile ``forwards`` does its part."""
    while True:
        if not link.ready:
            readable = Event()
            link.resume_reading(readable.set, forwards)
            try:
                readable.wait()
            finally:
                link.pause_reading()
        run = link.receive(forwards)
        if run is not None:
            return run
