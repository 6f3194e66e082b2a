"""One hub for all sessions, whether requests are greenlets or threads."""

import subprocess
import sys
import textwrap
import threading

import gevent
import pytest
from gevent.event import Event

from relay_app.web.hub import SessionHub


def run_in_thread(function) -> None:
    """Runs ``function`` on a real thread and raises what it raises."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def test_a_greenlet_runs_in_place():
    hub = SessionHub()
    here = threading.get_ident()
    greenlet = gevent.spawn(hub.run, threading.get_ident)
    assert greenlet.get(timeout=10) == here
    # Once it is at home here, the main greenlet is, too: a worker's last words need no thread.
    assert hub.run(threading.get_ident) == here


def test_a_greenlet_is_here_and_a_thread_is_not():
    hub = SessionHub()
    there: list[bool] = []
    assert gevent.spawn(lambda: hub.here).get(timeout=10)
    run_in_thread(lambda: there.append(hub.here))
    assert there == [False]


def test_threads_hand_over_to_one_thread():
    hub = SessionHub()
    homes: set[int] = set()
    for _ in range(3):
        run_in_thread(lambda: homes.add(hub.run(threading.get_ident)))
    assert len(homes) == 1
    assert threading.get_ident() not in homes


def test_what_is_raised_there_is_raised_here():
    hub = SessionHub()
    with pytest.raises(ZeroDivisionError):
        run_in_thread(lambda: hub.run(lambda: 1 // 0))


def test_many_threads_meet_on_the_hub():
    hub = SessionHub()
    arrived: list[Event] = []

    def meet() -> int:
        arrived.append(Event())
        if len(arrived) == 10:
            for event in arrived:
                event.set()
        arrived[-1].wait(10) if len(arrived) < 10 else None
        return len(arrived)

    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(hub.run(meet))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == [10] * 10


def test_a_thread_reaches_the_hub_of_a_patched_server():
    script = """
        from gevent import monkey
        monkey.patch_all()
        import gevent
        from gevent.monkey import get_original
        from relay_app.web.hub import SessionHub
        ident = get_original("_thread", "get_ident")
        hub = SessionHub()
        home = gevent.spawn(hub.run, ident).get()
        assert home == ident()
        assert gevent.get_hub().threadpool.apply(hub.run, (ident,)) == home
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
