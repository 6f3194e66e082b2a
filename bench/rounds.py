"""Rounds: the same load through each peer in turn, and the figures of each.

The rule: peers alternate (A B C A B C), so that what else the machine does hits all of them
alike, and a figure is the median of its rounds.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.load import Load, Upstream
from bench.peers import Missing, Peer, Running
from bench.processes import StartError, cpu_seconds, own_cpu_seconds, resident_bytes
from bench.workload import Turn

__all__ = [
    "LOAD_CORES",
    "PEER_CORES",
    "Figures",
    "Measured",
    "Options",
    "Window",
    "all_running",
    "percentile",
    "resident",
    "running",
    "window",
]

Figures = dict[str, float]

_CORES = sorted(os.sched_getaffinity(0))
PEER_CORES, LOAD_CORES = {_CORES[0]}, {_CORES[-1]}
"""With one core both are the same, and what is measured is no longer apart."""


@dataclass(frozen=True)
class Options:
    """What the command line said. ``seconds`` is how long one round measures."""

    peers: Sequence[Peer]
    rounds: int
    seconds: float
    quick: bool = False
    hours: float = 1.0


@dataclass
class Measured:
    """What a scenario found: of each peer the figures of every round, or why there are none."""

    title: str
    rounds: dict[str, list[Figures]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, peer: str, figures: Figures) -> None:
        self.rounds.setdefault(peer, []).append(figures)

    def failed(self, peer: str, error: Exception) -> None:
        """It is not asked again, and has no figures here."""
        self.rounds.pop(peer, None)
        self.skipped[peer] = str(error) or type(error).__name__

    def as_json(self) -> dict[str, Any]:
        """Rounds and, of each figure, the median."""
        return {
            "title": self.title,
            "median": {
                peer: {name: median(each[name] for each in rounds) for name in rounds[0]}
                for peer, rounds in self.rounds.items()
            },
            "rounds": self.rounds,
            "skipped": self.skipped,
            **({"details": self.details} if self.details else {}),
            "notes": self.notes,
        }


@contextlib.asynccontextmanager
async def running(
    peer: Peer, upstream: Upstream, *, sessions: int, cores: set[int] = PEER_CORES
) -> AsyncIterator[Running]:
    """The peer, started in front of ``upstream``."""
    folder = Path(tempfile.mkdtemp(prefix=f"bench-{peer.name}-"))
    try:
        # In a thread: while it starts, it may want to ask its provider something.
        started = await asyncio.to_thread(
            peer.start, upstream.port, folder, cores=cores, sessions=sessions
        )
        try:
            yield started
        finally:
            await asyncio.to_thread(started.stop)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def all_running(
    measured: Measured, peers: Sequence[Peer], turn: Turn, *, sessions: int
) -> AsyncIterator[list[tuple[Peer, Upstream, Running]]]:
    """Every peer that is installed, each with a provider of its own, at the same time."""
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for peer in peers:
            upstream = await stack.enter_async_context(Upstream(turn).serving())
            try:
                peer.version()
                started = await stack.enter_async_context(
                    running(peer, upstream, sessions=sessions)
                )
            except (Missing, StartError) as error:
                measured.failed(peer.name, error)
                continue
            found.append((peer, upstream, started))
        yield found


@dataclass
class Window:
    """What was used between two moments."""

    seconds: float = 0.0
    user_seconds: float = 0.0
    system_seconds: float = 0.0
    load_seconds: float = 0.0
    turns: int = 0
    messages: int = 0

    @property
    def cpu_seconds(self) -> float:
        return self.user_seconds + self.system_seconds

    def figures(self) -> Figures:
        """Per turn, in milliseconds of CPU; and how busy both cores were."""
        turns = max(self.turns, 1)
        return {
            "cpu_ms_per_turn": 1000 * self.cpu_seconds / turns,
            "user_ms_per_turn": 1000 * self.user_seconds / turns,
            "system_ms_per_turn": 1000 * self.system_seconds / turns,
            "cpu_us_per_message": 1e6 * self.cpu_seconds / max(self.messages, 1),
            "load_ms_per_turn": 1000 * self.load_seconds / turns,
            "turns_per_second": self.turns / self.seconds,
            "messages_per_second": self.messages / self.seconds,
            "peer_core": self.cpu_seconds / self.seconds,
            "load_core": self.load_seconds / self.seconds,
        }


async def window(load: Load, peer: Running, seconds: float) -> Window:
    """What ``seconds`` from now on cost."""

    def now() -> tuple[float, ...]:
        cpu = cpu_seconds(peer.process.pid) if peer.process is not None else (0.0, 0.0)
        messages = load.messages + load.upstream.messages
        return time.monotonic(), *cpu, own_cpu_seconds(), load.turns, messages

    before = now()
    await asyncio.sleep(seconds)
    after = now()
    wall, user, system, own, turns, messages = (b - a for a, b in zip(before, after, strict=True))
    return Window(wall, user, system, own, int(turns), int(messages))


def resident(peer: Running) -> int:
    """Resident memory of the peer; 0 for none."""
    return resident_bytes(peer.process.pid) if peer.process is not None else 0


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of all are not above."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")
