"""Long work on the hub lets everybody else have a turn."""

import time

import gevent
import pytest
from gevent import socket
from gevent.hub import get_hub

from relay_app import breath
from relay_app.breath import Breath, give_way


def test_who_gives_way_comes_back_behind_all_that_had_come_in() -> None:
    pairs = [socket.socketpair() for _ in range(20)]
    watchers = [get_hub().loop.io(ours.fileno(), 1) for ours, _ in pairs]
    seen: list[int] = []
    for number, (watcher, (_, theirs)) in enumerate(zip(watchers, pairs, strict=True)):
        watcher.start(seen.append, number)
        theirs.send(b"x")
    give_way()
    assert sorted(set(seen)) == [*range(20)]
    for watcher, (ours, theirs) in zip(watchers, pairs, strict=True):
        watcher.stop()
        watcher.close()
        ours.close()
        theirs.close()


def test_who_gives_way_waits_for_nothing_that_is_still_to_come() -> None:
    begun = time.perf_counter()
    other = gevent.spawn_later(60, pytest.fail)
    for _ in range(100):
        give_way()
    other.kill()
    assert time.perf_counter() - begun < 30


def test_what_comes_meanwhile_is_read_between_two_pieces() -> None:
    one, other = socket.socketpair()
    with one, other:
        reader = gevent.spawn(one.recv, 1)
        gevent.idle()
        other.send(b"x")
        work = Breath()
        while time.perf_counter() - work._since < breath.HOLD_SECONDS:
            assert not reader.ready()
        work.take()
        assert reader.get(timeout=5) == b"x"


def test_work_that_is_short_is_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breath, "HOLD_SECONDS", 60.0)
    turns: list[str] = []
    gevent.spawn(turns.append, "other")
    work = Breath()
    for _ in range(1_000):
        work.take()
    assert turns == []


def test_each_piece_may_be_as_long_as_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breath, "HOLD_SECONDS", 0.0)
    turns: list[int] = []

    def count() -> None:
        while True:
            turns.append(len(turns))
            gevent.sleep(0)

    other = gevent.spawn(count)
    work = Breath()
    seen = [len(turns)]
    for _ in range(3):
        work.take()
        seen.append(len(turns))
    other.kill()
    assert seen == sorted(set(seen))
