"""Lookout: what a hub reads for its Expresses, and when.

A round of gevent's loop costs several times what an Express does with the message that it was
for, and most messages come alone. So while there is traffic and nothing else to do, a Lookout
waits for the next message itself, and goes back to the loop when anything else happens.

The rules:

* It looks at what the loop waits for, and reads for Expresses alone: whatever else has come is
  still there for the loop, which it goes back to at once. Only timers may be late, by
  :data:`LINGER_SECONDS` at the most.
* The watchers of Expresses come before all others in a round, so that nobody has asked the loop
  for anything that it does not wait for yet.
* There is one only where it was compiled, and on the loop that it knows, libev's on epoll.
  Elsewhere the loop calls each Express, and everything else is the same.
"""

from typing import TYPE_CHECKING

from gevent.hub import Hub
from gevent.monkey import get_original

if TYPE_CHECKING:
    from relay_app.wire._compiled import Lookout

__all__ = ["LINGER_SECONDS", "lookout_of"]

LINGER_SECONDS = 0.005
"""How long a Lookout stays away from the loop. Nothing of ours counts on a timer to be nearer than
that; messages that come less than a quarter of it apart then share what was a round for each."""

try:
    from relay_app.wire._compiled import Lookout as _Lookout
except ImportError:
    _Lookout = None  # type: ignore[assignment,misc]

# There is a hub a thread, also where the process was monkey-patched.
_new_local = get_original("threading", "local")
_here = _new_local()


def lookout_of(hub: Hub) -> "Lookout | None":
    """The one of the calling thread's ``hub``, made when it is first asked for."""
    loop = hub.loop
    found: Lookout | None = getattr(_here, "lookout", None)
    if found is None or found.loop is not loop or found.backend != loop.fileno():
        # The first, or a hub was destroyed, or the process has forked.
        if _Lookout is None or getattr(loop, "backend", None) != "epoll":
            return None
        found = _here.lookout = _Lookout(loop, LINGER_SECONDS)
    return found
