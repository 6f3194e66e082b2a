"""Both ends of what a realtime endpoint connects."""

import contextlib
import socket
from collections.abc import Iterator

import pytest
from realtime_support import Upstream


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.hang_up()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's end of a connection, and the server's."""
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(end) for end in socket.socketpair())
