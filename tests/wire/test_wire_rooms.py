"""Rooms: granted whole and in turn, and given back whatever happens to who waited."""

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_app.wire.rooms import Rooms


def settled(*greenlets: "gevent.Greenlet[..., None]") -> list[bool]:
    """Which of them are done, once everything that can happen has happened."""
    for _ in range(5):
        gevent.idle()
    return [greenlet.ready() for greenlet in greenlets]


def test_who_fits_does_not_wait() -> None:
    rooms = Rooms(100)
    rooms.take(60)
    rooms.take(40)
    assert rooms.taken_bytes == 100
    assert not rooms.crowded


def test_room_is_given_in_the_order_asked_for_even_if_a_later_one_would_fit() -> None:
    rooms = Rooms(100)
    rooms.take(60)
    large = gevent.spawn(rooms.take, 50)
    small = gevent.spawn(rooms.take, 10)
    assert settled(large, small) == [False, False]
    assert rooms.crowded

    rooms.give_back(60)

    assert settled(large, small) == [True, True]
    assert rooms.taken_bytes == 60
    assert not rooms.crowded


def test_a_frame_larger_than_all_room_gets_it_when_it_is_alone() -> None:
    rooms = Rooms(100)
    rooms.take(1)
    huge = gevent.spawn(rooms.take, 1_000)
    assert settled(huge) == [False]
    rooms.give_back(1)
    assert settled(huge) == [True]
    after = gevent.spawn(rooms.take, 1)
    assert settled(after) == [False]
    rooms.give_back(1_000)
    assert settled(after) == [True]
    assert rooms.taken_bytes == 1


def test_who_is_killed_while_waiting_leaves_the_queue_to_the_next() -> None:
    rooms = Rooms(100)
    rooms.take(60)
    large = gevent.spawn(rooms.take, 50)
    small = gevent.spawn(rooms.take, 10)
    settled(large, small)
    large.kill()
    assert settled(small) == [True]
    rooms.give_back(60)
    assert rooms.taken_bytes == 10


def test_who_is_killed_in_the_instant_after_the_grant_leaks_nothing() -> None:
    rooms = Rooms(100)
    rooms.take(100)
    granted = gevent.spawn(rooms.take, 50)
    settled(granted)
    granted.kill(block=False)
    rooms.give_back(100)
    assert rooms.taken_bytes == 50  # granted to one that will die before it knows
    settled(granted)
    assert rooms.taken_bytes == 0
    assert not rooms.crowded


def test_who_runs_out_of_time_while_waiting_leaks_nothing() -> None:
    rooms = Rooms(100)
    rooms.take(100)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        rooms.take(50)
    rooms.give_back(100)
    assert rooms.taken_bytes == 0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 150), st.booleans()), min_size=1, max_size=12))
def test_everybody_gets_room_in_the_end_and_nothing_is_left_taken(
    wishes: list[tuple[int, bool]],
) -> None:
    rooms = Rooms(100)

    def reader(size: int) -> None:
        rooms.take(size)
        try:
            gevent.idle()
        finally:
            rooms.give_back(size)

    readers = [gevent.spawn(reader, size) for size, _ in wishes]
    gevent.idle()
    for greenlet, (_, killed) in zip(readers, wishes, strict=True):
        if killed:
            greenlet.kill(block=False)
    assert len(gevent.joinall(readers, timeout=5)) == len(readers)
    assert rooms.taken_bytes == 0
    assert not rooms.crowded
