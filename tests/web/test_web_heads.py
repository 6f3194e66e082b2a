import gevent
import pytest

from relay_app.web.heads import Heads, Overdue


@pytest.fixture
def given_up() -> list[str]:
    return []


def wait(heads: Heads, name: str, given_up: list[str]) -> "gevent.Greenlet[..., None]":
    def connection() -> None:
        heads.begin()
        try:
            gevent.sleep(30)
        except Overdue:
            given_up.append(name)
        finally:
            heads.end()

    greenlet = gevent.spawn(connection)
    gevent.sleep(0)
    return greenlet


def test_who_takes_too_long_is_given_up(given_up: list[str]):
    heads = Heads(0.01)
    wait(heads, "slow", given_up).join(10)
    assert given_up == ["slow"]
    assert len(heads) == 0


def test_who_has_its_head_is_left_in_peace(given_up: list[str]):
    heads = Heads(0.01)

    def session() -> None:
        heads.begin()
        heads.end()
        assert gevent.getcurrent() not in heads
        gevent.sleep(0.05)

    gevent.spawn(session).get(timeout=10)


def test_the_oldest_makes_room(given_up: list[str]):
    heads = Heads(30)
    waiting = [wait(heads, name, given_up) for name in ("first", "second", "third")]
    heads.make_room()
    waiting[0].join(10)
    assert given_up == ["first"]
    assert len(heads) == 2
    gevent.killall(waiting)
    assert len(heads) == 0


def test_the_only_one_makes_no_room_for_itself(given_up: list[str]):
    heads = Heads(30)
    alone = wait(heads, "alone", given_up)
    heads.make_room()
    gevent.sleep(0.01)
    assert not given_up
    alone.kill()


def test_a_head_that_comes_in_the_last_moment_counts(given_up: list[str]):
    heads = Heads(30)
    arrived = gevent.event.Event()

    def session() -> None:
        heads.begin()
        arrived.wait()
        heads.end()
        gevent.sleep(0.05)

    running = gevent.spawn(session)
    gevent.sleep(0)
    waiting = wait(heads, "other", given_up)
    arrived.set()  # it is told in this round of the loop, before it can be given up
    heads.make_room()
    running.get(timeout=10)
    waiting.kill()


def test_all_are_given_up_when_a_worker_stops(given_up: list[str]):
    heads = Heads(30)
    waiting = [wait(heads, name, given_up) for name in ("first", "second")]
    heads.give_up()
    gevent.joinall(waiting, timeout=10)
    assert given_up == ["first", "second"]


def test_the_next_head_may_be_given_less_time(given_up: list[str]):
    heads = Heads(30)

    def idle() -> None:
        heads.begin(0.01)
        try:
            gevent.sleep(30)
        except Overdue:
            given_up.append("idle")
        finally:
            heads.end()

    gevent.spawn(idle).join(10)
    assert given_up == ["idle"]
