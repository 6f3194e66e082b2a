"""Reader: has one pump of a session run whenever its source has something to read.

The rules: a pump has a greenlet while it is at work, and none while it rests; and however it ends,
the ends of its session are told, and by whom.
"""

from collections.abc import Callable

from gevent.event import Event

from relay_app.observe.logs import SessionLog
from relay_app.session.ends import Ends
from relay_app.session.greenlet_pool import GreenletPool, Worker
from relay_app.session.pump import Pump
from relay_app.session.vigil import Vigil
from relay_app.wire.frames import FrameError
from relay_app.wire.link import Link, LinkEnded

__all__ = ["Reader"]


class Reader:
    """Of ``pump``, whose source is ``source``. ``on_over``, which must not block, is called once
    nothing more is read."""

    __slots__ = ("_ends", "_log", "_over", "_over_event", "_pool", "_pump", "_source", "_vigil",
                 "_worker", "on_over")  # fmt: skip

    def __init__(
        self,
        pump: Pump,
        source: Link,
        *,
        ends: Ends,
        vigil: Vigil,
        pool: GreenletPool,
        log: SessionLog,
    ) -> None:
        self.on_over: Callable[[], None] | None = None
        self._pump = pump
        self._source = source
        self._ends = ends
        self._vigil = vigil
        self._pool = pool
        self._log = log
        self._worker: Worker | None = None
        self._over = False
        self._over_event: Event | None = None  # made for who waits for it

    def start(self) -> None:
        """Reads from now on. Never blocks."""
        if self._source.ready:
            self._pool.run(self._work)
        else:
            self._rest()

    def join(self, seconds: float) -> None:
        """Waits until nothing more is read, or for ``seconds``."""
        if not self._over:
            self._over_event = Event()
            self._over_event.wait(seconds)

    def stop(self) -> Worker | None:
        """Nothing more is read. Never blocks; the greenlet that is at work now, if any, is returned
        and is to be killed."""
        self._source.pause_reading()
        worker = self._worker
        if worker is not None:
            worker.retire()
        self._end()
        return worker

    def kill(self) -> None:
        """The same, and waits until the pump is not at work any more."""
        worker = self.stop()
        if worker is not None:
            worker.kill()

    def _rest(self) -> None:
        self._source.resume_reading(self._wake, self._pump.express)

    def _wake(self) -> None:
        self._source.pause_reading()
        self._pool.run(self._work)

    def _work(self, worker: Worker) -> None:
        if self._over:
            return  # since it was asked for
        self._worker = worker
        ended = True
        try:
            self._pump.run()
            ended = self._over
        except LinkEnded:
            self._vigil.ended(self._source)
        except FrameError as error:
            self._ends.broke_protocol(self._source, error)
        except Exception:  # noqa: BLE001 - whatever it is, the session ends and says so
            self._log.exception("pump failed", side=self._source.name)
            self._ends.fail()
        except BaseException:
            # One pump alone would go on for ever.
            self._ends.fail()
            raise
        finally:
            self._worker = None
            if ended:
                self._end()
            else:
                self._rest()

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        if self.on_over is not None:
            self.on_over()
        if self._over_event is not None:
            self._over_event.set()
