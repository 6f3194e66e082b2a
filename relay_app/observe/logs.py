"""Log lines: ``event key=value …`` on the logger ``relay_app``, the session's id on each.

The rule: no secret goes in. Callers pass names, codes and counts; keys are never among them.
"""

import logging
import re
import time
from functools import lru_cache
from typing import Any

__all__ = ["SessionLog", "configure", "line"]

logger = logging.getLogger("relay_app")

FORMAT = "%(asctime)s %(levelname)s %(message)s"
_BARE = re.compile(r'[^ "=]+')
"""What needs no quotes, if it can be printed."""


def line(event: str, **values: Any) -> str:
    """``event`` followed by the values that are not None, in logfmt."""
    return " ".join([event, *(f"{k}={_quoted(v)}" for k, v in values.items() if v is not None)])


def _quoted(value: Any) -> str:
    text = str(value)
    if text.isprintable() and _BARE.fullmatch(text):
        return text
    return '"' + text.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'


class _Formatter(logging.Formatter):
    """The stock one, which writes out the time once a second and not once a line."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return f"{_written(int(record.created))},{int(record.msecs):03d}"


@lru_cache(maxsize=1)
def _written(seconds: int) -> str:
    return time.strftime(_Formatter.default_time_format, time.localtime(seconds))


class SessionLog:
    """The log of one session."""

    __slots__ = ("_id",)

    def __init__(self, session_id: str) -> None:
        self._id = session_id

    def info(self, event: str, **values: Any) -> None:
        _write(logging.INFO, line(event, session=self._id, **values))

    def warning(self, event: str, **values: Any) -> None:
        _write(logging.WARNING, line(event, session=self._id, **values))

    def error(self, event: str, **values: Any) -> None:
        _write(logging.ERROR, line(event, session=self._id, **values))

    def exception(self, event: str, **values: Any) -> None:
        """Like :meth:`error`, with the traceback of the exception being handled."""
        logger.exception(line(event, session=self._id, **values))


def _write(level: int, text: str) -> None:
    """What logger.log() does, but for looking up from where, which would be this file, and with
    two calls less on the stack of a session that keeps what it has touched of it."""
    if logger.isEnabledFor(level):
        record = logger.makeRecord(
            logger.name, level, "(unknown file)", 0, text, (), None, "(unknown function)"
        )
        logger.handle(record)


def configure(level: int = logging.INFO) -> None:
    """Sends the relay's lines to standard error, unless the host has set up logging already."""
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(FORMAT))
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
