"""A busy hub looks less often, one that has time at once."""

import time
from collections.abc import Iterator
from itertools import pairwise

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from gevent.hub import get_hub

from relay_app.moderation import (
    BUSY,
    CALM,
    JUDGED_SECONDS,
    LOOK_SECONDS,
    Moderation,
    pace_of,
)


class Hub:
    """A hub by its clocks, and what its looks were set to."""

    def __init__(self) -> None:
        self.now = self.worked = 0.0
        self.apart: list[float] = []
        self.moderation = Moderation(
            self.apart.append, clock=lambda: self.now, worked=lambda: self.worked
        )
        self.moderation.look()

    def second(self, share: float) -> bool:
        """A second in which it is at work for ``share``; whether it is moderated then."""
        self.now += 1.0
        self.worked += share
        self.moderation.look()
        return self.moderation.on


@pytest.fixture
def hub() -> Hub:
    return Hub()


def test_a_hub_that_has_time_looks_at_once(hub: Hub) -> None:
    assert not hub.second(0.0)
    assert not hub.second((BUSY + CALM) / 2)
    assert hub.apart == []


def test_a_busy_hub_looks_less_often_until_it_is_calm(hub: Hub) -> None:
    assert hub.second(1.0)
    assert hub.second((BUSY + CALM) / 2)  # it saves what it does for less often looking
    assert not hub.second(CALM / 2)
    assert hub.apart == [LOOK_SECONDS, 0.0]


def test_way_is_given_on_a_hub_that_has_time_and_not_on_a_busy_one(hub: Hub) -> None:
    turns: list[str] = []

    def way_given() -> bool:
        other = gevent.spawn(turns.append, "other")
        hub.moderation.give_way()
        given = other.dead
        other.kill()
        return given

    assert way_given()
    hub.second(1.0)
    assert not way_given()
    hub.second(0.0)
    assert way_given()


def test_a_hub_that_gets_busy_is_noticed_by_those_who_give_way(hub: Hub) -> None:
    for _ in range(10):  # a tenth of a second of work, in which it is asked a hundred times
        hub.now += 0.1
        for _ in range(100):
            hub.worked += 0.001
            hub.moderation.give_way()
        if hub.moderation.on:
            break
    assert hub.moderation.on
    assert hub.now <= 2 * JUDGED_SECONDS + 0.1


def test_nobody_is_found_busy_while_nobody_looks_regularly(hub: Hub) -> None:
    hub.moderation.stop()
    for _ in range(10):
        hub.now += JUDGED_SECONDS
        hub.worked += JUDGED_SECONDS
        hub.moderation.give_way()
    assert not hub.moderation.on


def test_one_moment_of_work_makes_no_hub_busy(hub: Hub) -> None:
    hub.second(0.1)
    hub.now += JUDGED_SECONDS / 10
    hub.worked += JUDGED_SECONDS / 10
    hub.moderation.look()
    hub.moderation.give_way()
    assert not hub.moderation.on


def test_it_is_judged_by_the_time_since_the_last_look_alone(hub: Hub) -> None:
    hub.worked += 3_600.0
    hub.now += 86_400.0
    hub.moderation.look()
    assert not hub.moderation.on
    assert hub.second(0.9)


def test_no_time_at_all_decides_nothing(hub: Hub) -> None:
    hub.worked += 1.0
    hub.moderation.look()
    assert not hub.moderation.on


def test_who_stops_leaves_the_hub_as_it_was_and_begins_anew(hub: Hub) -> None:
    hub.second(1.0)
    hub.moderation.stop()
    assert hub.apart == [LOOK_SECONDS, 0.0]
    hub.now += 1.0
    hub.worked += 1.0
    hub.moderation.look()  # nobody knows how busy it was between the two
    assert hub.apart == [LOOK_SECONDS, 0.0]
    assert hub.second(1.0)


@pytest.fixture
def unmoderated() -> Iterator[None]:
    yield
    pace_of(get_hub().loop)(0.0)


@pytest.mark.usefixtures("unmoderated")
def test_the_looks_of_a_real_loop_are_as_far_apart_as_they_are_to_be() -> None:
    loop = get_hub().loop
    one, other = socket.socketpair()
    looks: list[float] = []
    with one, other:
        other.send(b"x")  # never read, so that each look finds it
        watcher = loop.io(one.fileno(), 1)
        enough = Event()

        def look() -> None:
            looks.append(time.monotonic())
            if len(looks) == 4:
                enough.set()

        watcher.start(look)
        pace_of(loop)(0.01)
        assert enough.wait(5)
        watcher.stop()
        watcher.close()
    assert all(later - earlier > 0.009 for earlier, later in pairwise(looks[:4]))


def test_a_loop_of_another_library_is_left_as_it_is() -> None:
    class Another:
        """Neither libev's nor gevent's."""

    pace_of(Another())(0.5)
