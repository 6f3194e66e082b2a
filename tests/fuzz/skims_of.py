"""The twins of a skim, one of them in use whatever was compiled."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

from relay_app.meter import estimate, meter
from relay_app.meter.notes import PythonNotes
from relay_app.meter.skim import Notes, PythonSkim, Skim

__all__ = ["TWINS", "skimming_with"]

TWINS: Final[dict[str, tuple[Any, Any]]] = {"python": (PythonSkim, PythonNotes)}
"""The Skim and the Notes of each that there is."""
if Skim is not PythonSkim:
    TWINS["compiled"] = (Skim, Notes)


@contextmanager
def skimming_with(twin: str) -> Iterator[None]:
    """Meters that are made meanwhile have this one."""
    skim, notes = TWINS[twin]
    with mock.patch.object(estimate, "Skim", skim), mock.patch.object(meter, "Notes", notes):
        yield
