from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from wire_support import SECONDS, Open, Peer, link_on, pair

from relay_app.wire.link import Link


@pytest.fixture(autouse=True)
def _no_test_waits_for_ever() -> Iterator[None]:
    with gevent.Timeout(SECONDS * 2):
        yield


@pytest.fixture
def opened() -> Iterator[Open]:
    """Makes a Link and its peer; closes what it made."""
    made: list[tuple[Link, Any, Any]] = []

    def open_(
        kind: str = "tcp",
        *,
        pair_: tuple[Any, Any] | None = None,
        name: str = "client",
        **options: Any,
    ) -> tuple[Link, Peer]:
        ours, theirs = pair_ or pair(kind)
        link = link_on(ours, name=name, **options)
        made.append((link, ours, theirs))
        return link, Peer(theirs, masks=name == "client")

    yield open_
    for link, ours, theirs in made:
        link.dispose()
        ours.close()
        theirs.close()
