"""What code beside the hub may wait with: the interpreter's own lock and sleep.

The rule: stores run on native threads, and there a patched ``threading.Lock`` or ``time.sleep``
would start a second hub whose waiters the first never wakes. So stores take these.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

from gevent import monkey

__all__ = ["make_lock", "sleep"]

make_lock: Callable[[], AbstractContextManager[bool]] = monkey.get_original(
    "_thread", "allocate_lock"
)
sleep: Callable[[float], None] = monkey.get_original("time", "sleep")
