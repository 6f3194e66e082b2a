"""Scenarios: functions with a name, each of which measures one thing about every peer.

A scenario's docstring is what ``python -m bench --list`` prints.
"""

import asyncio
from collections.abc import Awaitable, Callable

from bench.load import Load
from bench.progress import progress
from bench.rounds import Measured, Options, all_running, window
from bench.workload import Turn

__all__ = ["SCENARIOS"]

SCENARIOS: dict[str, Callable[[Options], Awaitable[Measured]]] = {}


def scenario(
    function: Callable[[Options], Awaitable[Measured]],
) -> Callable[[Options], Awaitable[Measured]]:
    SCENARIOS[function.__name__.replace("_", "-")] = function
    return function


async def _in_loop(title: str, options: Options, turn: Turn, sessions: int) -> Measured:
    measured = Measured(title)
    async with all_running(measured, options.peers, turn, sessions=sessions) as found:
        for peer, upstream, running in progress(title, found, options.rounds):
            load = Load(running.url, upstream, running.headers)
            await load.open(sessions)
            load.talk_in_loop()
            await asyncio.sleep(options.seconds / 4)
            spent = await window(load, running, options.seconds)
            await load.leave()
            measured.add(peer.name, {**spent.figures(), "dropped": load.dropped})
    return measured


@scenario
async def closed_loop(options: Options) -> Measured:
    """20 sessions, each turn begins when the last is answered: CPU per voice turn."""
    return await _in_loop("closed loop, 20 sessions", options, Turn(), 20)


ON_DEMAND = {"soak"}
"""What runs only when it is named."""
