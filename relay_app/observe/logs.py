"""Log lines: ``event key=value …`` on the logger ``relay_app``, the session's id on each.

The rule: no secret goes in. Callers pass names, codes and counts; keys are never among them.
"""

import logging
from typing import Any

__all__ = ["SessionLog", "configure", "line"]

logger = logging.getLogger("relay_app")


def line(event: str, **values: Any) -> str:
    """``event`` followed by the values that are not None, in logfmt."""
    return " ".join([event, *(f"{k}={_quoted(v)}" for k, v in values.items() if v is not None)])


def _quoted(value: Any) -> str:
    text = str(value)
    if text and text.isprintable() and not any(c in ' "=' for c in text):
        return text
    return '"' + text.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'


class SessionLog:
    """The log of one session."""

    __slots__ = ("_id",)

    def __init__(self, session_id: str) -> None:
        self._id = session_id

    def info(self, event: str, **values: Any) -> None:
        logger.info(line(event, session=self._id, **values))

    def warning(self, event: str, **values: Any) -> None:
        logger.warning(line(event, session=self._id, **values))

    def error(self, event: str, **values: Any) -> None:
        logger.error(line(event, session=self._id, **values))

    def exception(self, event: str, **values: Any) -> None:
        """Like :meth:`error`, with the traceback of the exception being handled."""
        logger.exception(line(event, session=self._id, **values))


def configure(level: int = logging.INFO) -> None:
    """Sends the relay's lines to standard error, unless the host has set up logging already."""
    if logger.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
