"""A simulator on a thread of its own, for programs that do not run on gevent.

The rule: the thread has its own hub, so a test that blocks in ``recv`` does not stop the
provider it is waiting for.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent.event import Event
from gevent.monkey import is_module_patched

from relay_app.simulator.server import Simulator

__all__ = ["background"]

START_SECONDS = 10


@contextmanager
def background(**options: Any) -> Iterator[Simulator]:
    """Run ``Simulator(**options)`` until the block ends; yields it when it listens.

    Its counters and lists may be read from any thread. In a monkey-patched program there is
    nothing to keep apart: the simulator then runs on the program's own hub.
    """
    simulator = Simulator(**options)
    if is_module_patched("threading"):
        with simulator:
            yield simulator
        return
    listening = threading.Event()
    failure: list[BaseException] = []
    ask_to_stop: list[Any] = []

    def serve() -> None:
        stopping = Event()
        waker = gevent.get_hub().loop.async_()
        waker.start(stopping.set)
        ask_to_stop.append(waker.send)
        simulator.start()
        listening.set()
        stopping.wait()
        simulator.stop()
        waker.stop()
        waker.close()

    def run() -> None:
        try:
            serve()
        except OSError as error:
            failure.append(error)
        finally:
            listening.set()
            gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=run, name="simulator", daemon=True)
    thread.start()
    if not listening.wait(START_SECONDS):
        raise TimeoutError("the simulator did not start")
    if failure:
        raise failure[0]
    try:
        yield simulator
    finally:
        ask_to_stop[0]()
        thread.join()
