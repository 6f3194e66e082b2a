"""What a session takes: memory while it idles, CPU to come and go."""

import asyncio
import gc
from collections.abc import Sequence

from bench.load import Load, LoadError, Upstream
from bench.peers import Missing, Peer, Running
from bench.processes import StartError, file_limit, raise_file_limit
from bench.progress import each_of
from bench.rounds import Figures, Measured, Options, resident, running, window
from bench.scenarios.measures import SPARE_FILES, alternate, not_in_python, scenario
from bench.workload import Turn

WARM_SESSIONS = 20
MAX_TURNS = 1_000
"""Of sessions one after the other; beyond, what a turn leaves behind is known."""


async def _idle(title: str, options: Options, sessions: int, peers: Sequence[Peer]) -> Measured:
    measured = Measured(title)
    # Both ends of every session are here; in a proxy there are two as well.
    needs = raise_file_limit(2 * sessions + SPARE_FILES)
    if needs is not None:
        sessions = (file_limit() - SPARE_FILES) // 2
        measured.notes.append(f"{title}: {sessions:,} instead; it {needs}")
    for peer in each_of(title, [peer for peer in peers if peer.name != "direct"], options.rounds):
        if peer.name in measured.skipped:
            continue
        try:
            peer.version()
            async with (
                Upstream(Turn()).serving() as upstream,
                running(peer, upstream, sessions=sessions + WARM_SESSIONS) as started,
            ):
                load = Load(started.url, upstream, started.headers)
                measured.add(peer.name, await _growth(load, started, sessions))
        except (Missing, StartError, LoadError, TimeoutError) as error:
            measured.failed(peer.name, error)
        gc.collect()
    return measured


async def _growth(load: Load, peer: Running, sessions: int) -> Figures:
    # What the first sessions load or fill is not what a session takes.
    await load.open(WARM_SESSIONS)
    await _one_turn_each(load)
    before = resident(peer)
    await load.open(sessions)
    await asyncio.sleep(1.0)
    idle = resident(peer)
    figures = {
        "kb_per_session": (idle - before) / sessions / 1000,
        "rss_mb_before": before / 1e6,
        "rss_mb": idle / 1e6,
        "dropped": load.dropped,
    }
    if sessions <= MAX_TURNS:
        await _one_turn_each(load)
        await asyncio.sleep(1.0)
        figures["kb_per_session_used"] = (resident(peer) - before) / sessions / 1000
    await load.leave()
    return figures


async def _one_turn_each(load: Load) -> None:
    """A turn of every session, 20 at a time."""
    for start in range(0, len(load.clients), 20):
        some = load.clients[start : start + 20]
        until = load.turns + len(some)
        for client in some:
            client.talk()
        async with asyncio.timeout(30):
            while load.turns < until:
                await asyncio.sleep(0.005)


@scenario
async def idle_1000(options: Options) -> Measured:
    """Memory that a process grows by for each of 1,000 idle sessions."""
    return await _idle("1,000 idle sessions", options, 1000, options.peers)


@scenario
async def idle_10000(options: Options) -> Measured:
    """Memory that a process grows by for each of 10,000 idle sessions."""
    peers = not_in_python(options.peers)
    return await _idle("10,000 idle sessions", options, 10_000, peers)


@scenario
async def open_close(options: Options) -> Measured:
    """Sessions opened and closed per second of one core."""

    async def measure(load: Load, peer: Running) -> Figures:
        count = 0
        enough = False

        async def come_and_go() -> None:
            nonlocal count
            while not enough:
                await (await load.connect()).leave()
                count += 1

        load.leaving = True
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(come_and_go())
            await asyncio.sleep(options.seconds / 4)
            before = count
            spent = await window(load, peer, options.seconds)
            opened = count - before
            enough = True
        figures = {"sessions_per_second": opened / spent.seconds}
        if peer.process is not None:
            figures["cpu_ms_per_session"] = 1000 * spent.cpu_seconds / opened
            figures["sessions_per_core_second"] = opened / spent.cpu_seconds
        return figures

    return await alternate("opened and closed", options, Turn(), 200, measure)
