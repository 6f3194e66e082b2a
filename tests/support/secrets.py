"""Secrets that the tests plant, and the watch over where they come out.

The rule: what a test gives for a key begins with ``rk-planted`` or ``sk-planted``. What any process
of the suite prints, what is logged in this one, what a relay tells its scraper and what it leaves
on disk beside its settings is looked through for that, in every test.
"""

import logging
import re
from pathlib import Path

__all__ = ["KEY", "PROVIDER_KEY", "Watch", "found_in", "left_in"]

KEY = "rk-planted-key-of-a-client"
PROVIDER_KEY = "sk-planted-provider-secret"

_PLANTED = re.compile(r"[rs]k-planted[\w-]*")
_PLANTED_BYTES = re.compile(_PLANTED.pattern.encode())


def found_in(text: str) -> list[str]:
    """The secrets that stand in ``text``."""
    return _PLANTED.findall(text)


def left_in(folder: Path) -> list[Path]:
    """The files that have a secret in them, but for settings, which are where secrets live."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".toml"]
    return [path for path in files if _PLANTED_BYTES.search(path.read_bytes())]


class Watch(logging.Handler):
    """Keeps what was logged with a secret in it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.caught: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = logging.Formatter().format(record)  # with the traceback
        if found_in(line):
            self.caught.append(line)
