"""A thread of our own: one thing after the other, and only the greenlet that asks waits."""

import gc
import threading
import weakref
from collections.abc import Iterator

import gevent
import pytest
from ledger_support import finish, python, until

from relay_app.ledger.threads import Thread


@pytest.fixture
def thread() -> Iterator[Thread]:
    made = Thread()
    yield made
    made.stop()


def test_a_call_is_made_on_another_thread_while_the_hub_runs_on(thread: Thread) -> None:
    gate = threading.Event()
    waiting = gevent.spawn(thread.call, lambda: gate.wait(30) and threading.get_ident())
    for _ in range(1_000):
        gevent.sleep(0)  # would never come back if the hub waited
    assert not waiting.ready()
    gate.set()
    assert waiting.get(timeout=30) not in (0, threading.get_ident())


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), gevent.GreenletExit()])
def test_what_is_raised_there_is_raised_here_and_the_thread_goes_on(
    thread: Thread, capfd: pytest.CaptureFixture[str], error: BaseException
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        thread.call(fail)
    assert caught.value is error
    assert thread.call(int, "7") == 7
    assert capfd.readouterr() == ("", "")


def test_calls_are_made_in_the_order_they_were_asked_for(thread: Thread) -> None:
    made: list[int] = []
    gevent.joinall([gevent.spawn(thread.call, made.append, n) for n in range(200)], timeout=30)
    assert made == list(range(200))


def test_whoever_is_killed_while_waiting_leaves_the_call_to_be_finished(thread: Thread) -> None:
    gate, made = threading.Event(), []
    waiting = gevent.spawn(thread.call, lambda: made.append(gate.wait(30)))
    gevent.sleep(0)
    waiting.kill()
    gate.set()
    assert thread.call(made.copy) == [True]


def test_nothing_of_a_call_is_kept_until_the_next(thread: Thread) -> None:
    class Batch:
        pass

    batch = Batch()
    gone = weakref.ref(batch)
    thread.call(id, batch)
    del batch

    def let_go() -> bool:
        gc.collect()
        return gone() is None

    until(let_go)


def test_a_loop_goes_on_for_a_call_and_not_for_a_thread_that_has_none() -> None:
    script = """
import gevent
from relay_app.ledger.stores.native import sleep
from relay_app.ledger.threads import Thread
thread = Thread()
print(thread.call(lambda: sleep(0.05) or "waited"))  # LoopExit if nothing kept the loop
gevent.wait()  # never over if something still did
thread.stop()
thread.stop()
print("over")
"""
    assert finish(python(script)) == "waited\nover\n"


def test_a_hub_that_is_gone_is_told_nothing() -> None:
    """Its thread may still be in the middle of something, such as a store that hangs."""
    script = """
import gevent, threading
from relay_app.ledger.threads import Thread
thread, gate, ended = Thread(), threading.Event(), []
gevent.spawn(thread.call, gate.wait, 30)
gevent.sleep(0)
gevent.get_hub().destroy(destroy_loop=True)
gate.set()
thread._asked.put(lambda: ended.append(True))
while not ended:
    threading.Event().wait(0.01)
print("went on")
"""
    assert finish(python(script)) == "went on\n"
