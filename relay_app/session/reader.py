"""Reader: the greenlet in which one pump of a session runs.

The rule: however a pump ends, the ends of its session are told, and by whom.
"""

import gevent

from relay_app.observe.logs import SessionLog
from relay_app.session.ends import Ends
from relay_app.session.pump import Pump
from relay_app.session.vigil import Vigil
from relay_app.wire.frames import FrameError
from relay_app.wire.link import Link, LinkEnded

__all__ = ["Reader"]


class Reader(gevent.Greenlet):  # type: ignore[type-arg]  # of which only the stub is generic
    """Runs ``pump``, whose source is ``source``, once it is started.

    A class of its own, for a function that is given to a Greenlet costs a dict as long as it runs.
    """

    __slots__ = ("_ends", "_log", "_pump", "_source", "_vigil")

    def __init__(
        self, pump: Pump, source: Link, *, ends: Ends, vigil: Vigil, log: SessionLog
    ) -> None:
        super().__init__()
        self._pump = pump
        self._source = source
        self._ends = ends
        self._vigil = vigil
        self._log = log

    def _run(self) -> None:
        try:
            self._pump.run()
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
