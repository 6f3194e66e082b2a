"""What code beside the hub may wait with: the interpreter's own lock, sleep, poll and sockets.

The rule: stores run on native threads, and there whatever gevent has patched would start a hub
of that thread's own: two descriptors each, and waiters that the other hubs never wake. So
stores take these, patched process or not.
"""

import queue
import select
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from gevent import monkey

__all__ = ["getaddrinfo", "make_lock", "make_poll", "make_queue", "make_socket", "sleep"]

make_lock: Callable[[], AbstractContextManager[bool]] = monkey.get_original(
    "_thread", "allocate_lock"
)
make_queue: Callable[[], "queue.SimpleQueue[Any]"] = monkey.get_original("queue", "SimpleQueue")
sleep: Callable[[float], None] = monkey.get_original("time", "sleep")
make_poll: Callable[[], "select.poll"] = monkey.get_original("select", "poll")
make_socket: Callable[[int, int, int], socket.socket] = monkey.get_original("socket", "socket")
getaddrinfo: Callable[..., list[Any]] = monkey.get_original("socket", "getaddrinfo")
