"""Reader: a pump is at work only while there is something for it, and however it ends its session
hears of it, and of whose doing it was."""

import logging
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock, call

import gevent
import pytest
from gevent.event import Event
from session_support import until

from relay_app.observe.logs import SessionLog
from relay_app.session.greenlet_pool import GreenletPool
from relay_app.session.reader import Reader
from relay_app.wire.frames import FrameError
from relay_app.wire.link import LinkEnded

BROKEN = FrameError("no mask")


class Source:
    """A Link that says when there is something to read, as it is told."""

    name = "client"

    def __init__(self, *, ready: bool = False) -> None:
        self.ready = ready
        self.reading = False
        self._wake: Callable[[], None] = pytest.fail

    def resume_reading(self, wake: Callable[[], None], forwards: object) -> None:
        self.reading, self._wake = True, wake

    def pause_reading(self) -> None:
        self.reading = False

    def speak(self) -> None:
        """On the hub, as a watcher does."""
        gevent.get_hub().loop.run_callback(lambda: self._wake() if self.reading else None)


class Stage:
    """A reader whose pump does ``work`` each time; ``heard`` is what was told, in order."""

    def __init__(self, work: Any, *, ready: bool = False) -> None:
        self.heard = Mock()
        self.source: Any = Source(ready=ready)
        self.pump = Mock()
        self.pump.run.side_effect = work
        self.reader = Reader(
            self.pump,
            self.source,
            ends=self.heard.ends,
            vigil=self.heard.vigil,
            pool=GreenletPool(),
            log=SessionLog("rs_1"),
        )
        self.reader.on_over = self.heard.over
        self.reader.start()

    @property
    def runs(self) -> int:
        return int(self.pump.run.call_count)

    def speaks(self) -> None:
        before = self.runs
        self.source.speak()
        until(lambda: self.runs > before)


class Held:
    """Work that waits until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go = Event(), Event()

    def __call__(self) -> None:
        self.begun.set()
        self.go.wait(10)


def test_a_pump_rests_until_there_is_something_to_read() -> None:
    made = Stage(None)
    assert made.runs == 0
    for runs in (1, 2):
        made.speaks()
        until(lambda: made.source.reading)
        assert made.runs == runs
    assert made.heard.mock_calls == []


def test_what_is_there_at_the_beginning_is_not_waited_for() -> None:
    made = Stage(None, ready=True)
    assert made.runs == 0  # nor does it hold up who starts it
    until(lambda: made.source.reading)
    assert made.runs == 1


def test_nothing_is_read_while_the_pump_is_at_work() -> None:
    work = Held()
    made = Stage(work)
    made.speaks()
    assert not made.source.reading
    work.go.set()
    until(lambda: made.source.reading)


@pytest.mark.parametrize("ready", [True, False])
@pytest.mark.parametrize(
    ("how", "told"),
    [
        (LinkEnded, lambda source: call.vigil.ended(source)),
        (lambda source: BROKEN, lambda source: call.ends.broke_protocol(source, BROKEN)),
        (lambda source: KeyError("a bug"), lambda source: call.ends.fail()),
    ],
    ids=["its source ended", "its source broke the protocol", "something of ours broke"],
)
def test_an_end_is_told_once_and_raised_no_further(
    how: Callable[[Any], Exception], told: Callable[[Any], Any], ready: bool
) -> None:
    def work() -> None:
        raise how(made.source)

    made = Stage(work, ready=ready)
    made.source.speak()
    made.reader.join(10)
    assert made.heard.mock_calls == [told(made.source), call.over()]
    assert not made.source.reading
    made.reader.join(10)  # at once
    made.reader.kill()
    assert len(made.heard.mock_calls) == 2


def test_a_fault_of_ours_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "relay_app")
    Stage(KeyError("a bug"), ready=True).reader.join(10)
    assert "pump failed" in caplog.text
    assert "side=client" in caplog.text


def test_one_that_is_killed_at_work_ends_its_session() -> None:
    work = Held()
    made = Stage(work, ready=True)
    assert work.begun.wait(10)
    made.reader.kill()
    assert made.heard.mock_calls == [call.over(), call.ends.fail()]
    assert not made.source.reading


def test_one_that_is_stopped_while_it_rests_reads_no_more() -> None:
    made = Stage(None)
    assert made.reader.stop() is None
    assert not made.source.reading
    assert made.heard.mock_calls == [call.over()]


def test_one_that_is_stopped_before_it_began_does_not_begin() -> None:
    made = Stage(None, ready=True)
    made.reader.kill()
    gevent.sleep(0)
    gevent.sleep(0)
    assert made.runs == 0
    assert not made.source.reading


def test_work_that_ends_between_a_stop_and_its_kill_is_not_followed_by_a_rest() -> None:
    work = Held()
    made = Stage(work, ready=True)
    assert work.begun.wait(10)
    worker = made.reader.stop()
    assert worker is not None
    work.go.set()
    worker.join(10)
    assert not made.source.reading
    assert made.heard.mock_calls == [call.over()]


def test_who_waits_for_the_end_waits_no_longer_than_he_says() -> None:
    made = Stage(None)
    with gevent.Timeout(10):
        made.reader.join(0.001)
    assert made.source.reading
