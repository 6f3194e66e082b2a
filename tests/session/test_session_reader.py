"""Reader: however a pump ends, its session hears of it, and of whose doing it was."""

import logging
from typing import Any
from unittest.mock import Mock, call

import gevent
import pytest
from gevent.event import Event

from relay_app.observe.logs import SessionLog
from relay_app.session.reader import Reader
from relay_app.wire.frames import FrameError
from relay_app.wire.link import LinkEnded

SOURCE: Any = Mock()
SOURCE.name = "client"
BROKEN = FrameError("no mask")


class Stage:
    """A reader whose pump ends by ``how``; ``heard`` is what was told, to whom, in order."""

    def __init__(self, how: Any) -> None:
        self.heard = Mock()
        pump = Mock()
        pump.run.side_effect = how
        self.reader = Reader(
            pump, SOURCE, ends=self.heard.ends, vigil=self.heard.vigil, log=SessionLog("rs_1")
        )
        self.reader.start()


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (LinkEnded(SOURCE), call.vigil.ended(SOURCE)),
        (BROKEN, call.ends.broke_protocol(SOURCE, BROKEN)),
        (KeyError("a bug"), call.ends.fail()),
    ],
    ids=["its source ended", "its source broke the protocol", "something of ours broke"],
)
def test_an_end_is_told_once_and_raised_no_further(how: Exception, told: Any) -> None:
    made = Stage(how)
    made.reader.get(timeout=10)
    assert made.heard.mock_calls == [told]


def test_a_fault_of_ours_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "relay_app")
    Stage(KeyError("a bug")).reader.join(10)
    assert "pump failed" in caplog.text
    assert "side=client" in caplog.text


def test_one_that_is_killed_ends_its_session() -> None:
    running = Event()

    def run() -> None:
        running.set()
        gevent.sleep(60)

    made = Stage(run)
    assert running.wait(10)
    made.reader.kill()
    assert made.heard.mock_calls == [call.ends.fail()]
