"""A commit: whoever waits for it is told what became of it, once it is known or in time."""

import gevent

from relay_app.ledger.outbox import Commit

SECONDS = 10.0


def waiting(commit: Commit, seconds: float | None = SECONDS) -> "gevent.Greenlet[..., bool]":
    greenlet = gevent.spawn(commit.wait, seconds)
    gevent.idle()
    assert not greenlet.ready()
    return greenlet


def test_all_who_wait_are_told_and_later_ones_at_once() -> None:
    commit = Commit(())
    waiters = [waiting(commit), waiting(commit), waiting(commit, None)]
    commit.settle()
    assert not any(waiter.ready() for waiter in waiters)  # who settles goes on first
    gevent.joinall(waiters, timeout=SECONDS, raise_error=True)
    assert [waiter.value for waiter in waiters] == [True] * 3
    assert commit.wait(0)
    assert commit.wait(None)


def test_a_refused_record_is_no_durable_one() -> None:
    commit = Commit(())
    waiter = waiting(commit)
    commit.settle("no such column")
    assert waiter.get(timeout=SECONDS) is False
    assert (commit.done, commit.durable, commit.error) == (True, False, "no such column")


def test_who_has_waited_long_enough_goes_and_the_commit_is_settled_all_the_same() -> None:
    commit = Commit(())
    patient = waiting(commit)
    assert commit.wait(0.001) is False
    commit.settle()
    assert patient.get(timeout=SECONDS) is True


def test_no_time_to_wait_is_none_for_others_either() -> None:
    turns: list[str] = []
    other = gevent.spawn(turns.append, "other")
    assert Commit(()).wait(0) is False
    assert Commit(()).wait(-1.0) is False
    assert turns == []
    other.join(SECONDS)


def test_who_is_killed_while_waiting_is_told_nothing_any_more() -> None:
    commit = Commit(())
    killed, other = waiting(commit), waiting(commit)
    killed.kill()
    commit.settle()
    assert other.get(timeout=SECONDS) is True
    assert isinstance(killed.value, gevent.GreenletExit)


def test_who_is_killed_just_when_it_is_settled_is_gone() -> None:
    commit = Commit(())
    killed, other = waiting(commit), waiting(commit)
    commit.settle()
    killed.kill()
    assert other.get(timeout=SECONDS) is True
    gevent.idle()
    assert killed.ready()
