"""The contract of a peer."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from bench.load import KEY
from bench.processes import Process

__all__ = ["Missing", "Peer", "Running"]


class Missing(Exception):
    """The peer is not installed; the message is the line that installs it."""


@dataclass(frozen=True)
class Running:
    """A peer that listens at ``url``; ``process`` is None for no peer at all."""

    url: str
    process: Process | None
    folder: Path
    headers: dict[str, str] = field(default_factory=lambda: {"Authorization": f"Bearer {KEY}"})

    def stop(self) -> None:
        """Ends it and everything it started."""
        if self.process is not None:
            self.process.stop()


class Peer(ABC):
    """``name`` is what the table and ``--peers`` call it."""

    name: str

    @abstractmethod
    def version(self) -> str:
        """What is installed. Raises Missing."""

    @abstractmethod
    def start(self, upstream_port: int, folder: Path, *, cores: set[int], sessions: int) -> Running:
        """Starts it in front of a provider, with room for ``sessions``, its files in ``folder``."""
