"""What scenarios are made of: a load on one peer, and rounds of it on all."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from bench.load import Load, LoadError
from bench.peers import Peer, Running
from bench.progress import progress
from bench.rounds import Figures, Measured, Options, all_running, percentile, window
from bench.workload import Turn

__all__ = ["SCENARIOS", "SPARE_FILES", "alternate", "in_loop", "not_in_python", "paced", "scenario"]

Scenario = Callable[[Options], Coroutine[Any, Any, Measured]]

SCENARIOS: dict[str, Scenario] = {}

SPARE_FILES = 1024
"""Of the load, and of the peers: ours wants 512 itself."""
RAMP_SECONDS = 3.0
"""After which a paced load is even: the longest of its turns is over."""


def scenario(function: Scenario) -> Scenario:
    """Makes it known under its name."""
    SCENARIOS[function.__name__.replace("_", "-")] = function
    return function


def not_in_python(peers: Sequence[Peer]) -> list[Peer]:
    """Those that keep up where the load is set by what ours can carry."""
    return [peer for peer in peers if peer.name not in ("litellm", "naive")]


async def in_loop(load: Load, peer: Running, sessions: int, seconds: float) -> Figures:
    await load.open(sessions)
    load.talk_in_loop()
    await asyncio.sleep(seconds / 4)
    spent = await window(load, peer, seconds)
    await load.leave()
    return {**spent.figures(), "dropped": load.dropped}


async def paced(
    load: Load, peer: Running, sessions: int, every_seconds: float, seconds: float
) -> Figures:
    await load.open(sessions)
    load.time_from_now()
    load.talk_paced(every_seconds)
    await asyncio.sleep(RAMP_SECONDS)
    load.forget_times()
    spent = await window(load, peer, seconds)
    figures = {**spent.figures(), **_times(load), "dropped": load.dropped}
    await load.leave()
    return figures


def _times(load: Load) -> Figures:
    """How long events were under way, in milliseconds."""
    return {
        f"{name}_ms_p{round(100 * share)}": 1000 * percentile(seconds, share)
        for name, seconds in (("audio", load.audio_seconds), ("done", load.done_seconds))
        for share in (0.5, 0.99)
    }


async def alternate(
    title: str,
    options: Options,
    turn: Turn,
    sessions: int,
    measure: Callable[[Load, Running], Awaitable[Figures]],
    peers: Sequence[Peer] | None = None,
) -> Measured:
    measured = Measured(title)
    chosen = options.peers if peers is None else peers
    async with all_running(measured, chosen, turn, sessions=sessions) as found:
        for peer, upstream, started in progress(title, found, options.rounds):
            if peer.name in measured.skipped:
                continue
            load = Load(started.url, upstream, started.headers)
            try:
                measured.add(peer.name, await measure(load, started))
            except (LoadError, TimeoutError) as error:
                measured.failed(peer.name, error)
                await load.leave()
    return measured
