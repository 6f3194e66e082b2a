"""Scenarios: functions with a name, each of which measures one thing about every peer.

The first line of a scenario's docstring is what ``python -m bench --list`` prints.
"""

import asyncio
import contextlib
import gc
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from bench.load import Load, LoadError, Upstream
from bench.peers import PEERS, Missing, Peer, Running
from bench.processes import StartError, file_limit, raise_file_limit
from bench.progress import each_of, progress, seconds_bar
from bench.rounds import (
    LOAD_CORES,
    PEER_CORES,
    Figures,
    Measured,
    Options,
    all_running,
    percentile,
    resident,
    running,
    window,
)
from bench.stages import metering_seconds
from bench.workload import Turn

__all__ = ["ON_DEMAND", "SCENARIOS"]

Scenario = Callable[[Options], Coroutine[Any, Any, Measured]]

SCENARIOS: dict[str, Scenario] = {}
ON_DEMAND = {"soak"}
"""What runs only when it is named."""

IN_PYTHON = {"litellm", "naive"}
SPARE_FILES = 1024
"""Of the load, and of the peers: ours wants 512 itself."""
WARM_SESSIONS = 20
MAX_TURNS = 1_000
"""Of sessions one after the other; beyond, what a turn leaves behind is known."""
RAMP_SECONDS = 3.0
"""After which a paced load is even: the longest of its turns is over."""


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__.replace("_", "-")] = function
    return function


# -- CPU per turn ------------------------------------------------------------------------------


async def _in_loop(load: Load, peer: Running, sessions: int, seconds: float) -> Figures:
    await load.open(sessions)
    load.talk_in_loop()
    await asyncio.sleep(seconds / 4)
    spent = await window(load, peer, seconds)
    await load.leave()
    return {**spent.figures(), "dropped": load.dropped}


async def _paced(
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


async def _alternate(
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


@scenario
async def closed_loop(options: Options) -> Measured:
    """CPU per voice turn of 20 sessions that begin the next when the last is answered."""

    async def measure(load: Load, peer: Running) -> Figures:
        return await _in_loop(load, peer, 20, options.seconds)

    return await _alternate("closed loop, 20 sessions", options, Turn(), 20, measure)


async def _paced_scenario(
    title: str, options: Options, turn: Turn, sessions: int, every: float
) -> Measured:
    async def measure(load: Load, peer: Running) -> Figures:
        load.upstream.paced = True
        return await _paced(load, peer, sessions, every, 2 * options.seconds)

    needs = raise_file_limit(2 * sessions + SPARE_FILES)
    if needs is not None:
        return Measured(title, skipped={peer.name: needs for peer in options.peers})
    return await _alternate(title, options, turn, sessions, measure)


@scenario
async def paced_100(options: Options) -> Measured:
    """CPU per voice turn of 100 sessions with a turn each 2 s, as fast as people speak."""
    return await _paced_scenario("100 paced sessions", options, Turn(), 100, 2.0)


@scenario
async def paced_1000(options: Options) -> Measured:
    """CPU per voice turn of 1,000 sessions with a turn each 20 s: as many turns, more sessions."""
    return await _paced_scenario("1,000 paced sessions", options, Turn(), 1000, 20.0)


@scenario
async def chunks_20ms(options: Options) -> Measured:
    """CPU per message of 50 sessions that send 50 appends a second."""
    turn = Turn(append_seconds=0.02)
    return await _paced_scenario("20 ms chunks", options, turn, 50, 2.0)


@scenario
async def delta_size(options: Options) -> Measured:
    """CPU per voice turn with audio deltas of 16 kB and of 1.6 kB; and of metering alone."""
    title = "16 kB and 1.6 kB deltas"
    usual, small = Turn(), Turn(delta_seconds=0.025)

    async def measure(load: Load, peer: Running) -> Figures:
        figures = {}
        for prefix, turn in (("", usual), ("small_", small)):
            load.upstream.turn = turn
            each = Load(peer.url, load.upstream, peer.headers)
            found = await _in_loop(each, peer, 20, options.seconds / 2)
            figures[f"{prefix}cpu_ms_per_turn"] = found["cpu_ms_per_turn"]
        return figures

    peers = [peer for peer in options.peers if peer.name in ("nginx", "haproxy", "relay")]
    measured = await _alternate(title, options, usual, 20, measure, peers)
    for figures in measured.rounds.get("relay", []):
        figures["metering_us"] = 1e6 * metering_seconds(usual)
        figures["small_metering_us"] = 1e6 * metering_seconds(small)
    return measured


@scenario
async def workers(options: Options) -> Measured:
    """Turns per second with one worker on one core, and with two on both, beside the load."""
    title = "2 workers vs 1"
    measured = Measured(title)
    for peer, cores in each_of(
        title, [(PEERS["relay"], PEER_CORES), (PEERS["relay-2-workers"], PEER_CORES | LOAD_CORES)],
        options.rounds,
    ):  # fmt: skip
        async with (
            Upstream(Turn()).serving() as upstream,
            running(peer, upstream, sessions=40, cores=cores) as started,
        ):
            load = Load(started.url, upstream, started.headers)
            measured.add(peer.name, await _in_loop(load, started, 40, options.seconds))
    return measured


# -- latency -----------------------------------------------------------------------------------


@scenario
async def latency(options: Options) -> Measured:
    """How long an audio delta is under way when our relay's core is half busy."""
    title = "latency at half load"
    peers = [peer for peer in options.peers if peer.name not in IN_PYTHON]
    sessions = await _half_load(options)

    async def measure(load: Load, peer: Running) -> Figures:
        load.upstream.paced = True
        return await _paced(load, peer, sessions, 2.0, 2 * options.seconds)

    measured = await _alternate(title, options, Turn(), sessions, measure, peers)
    measured.details["sessions"] = sessions
    for peer_rounds in measured.rounds.values():
        for figures, direct in zip(peer_rounds, measured.rounds.get("direct", []), strict=False):
            for name in ("audio_ms_p50", "audio_ms_p99"):
                figures[f"added_{name}"] = figures[name] - direct[name]
    return measured


async def _half_load(options: Options) -> int:
    """How many sessions with a turn each 2 s keep the relay's core half busy."""
    async with Upstream(Turn()).serving() as upstream:
        upstream.paced = True
        async with running(PEERS["relay"], upstream, sessions=100) as started:
            load = Load(started.url, upstream, started.headers)
            figures = await _paced(load, started, 100, 2.0, options.seconds)
    return max(10, min(1000, round(100 * 0.5 / figures["peer_core"], -1).__int__()))


@scenario
async def durability(options: Options) -> Measured:
    """How much later response.done comes because its record is made durable first."""
    peers = [PEERS["relay"], PEERS["relay-async"]]

    async def measure(load: Load, peer: Running) -> Figures:
        load.upstream.paced = True
        return await _paced(load, peer, 100, 2.0, 2 * options.seconds)

    measured = await _alternate("durability", options, Turn(), 100, measure, peers)
    pairs = zip(measured.rounds["relay"], measured.rounds["relay-async"], strict=True)
    for durable, without in pairs:
        for name in ("p50", "p99"):
            durable[f"added_ms_{name}"] = durable[f"done_ms_{name}"] - without[f"done_ms_{name}"]
    return measured


@scenario
async def slow_reader(options: Options) -> Measured:
    """Whether 99 paced sessions notice one whose client never reads."""
    peers = [peer for peer in options.peers if peer.name not in IN_PYTHON]

    async def measure(load: Load, peer: Running) -> Figures:
        load.upstream.paced = True
        alone = await _paced(load, peer, 99, 2.0, options.seconds)
        beside = Load(peer.url, load.upstream, peer.headers)
        stuck = await beside.connect()
        beside.clients.append(stuck)
        stuck.transport.underlying_transport.pause_reading()
        found = await _paced(beside, peer, 99, 2.0, options.seconds)
        names = ("audio_ms_p50", "audio_ms_p99")
        return {
            **{name: alone[name] for name in names},
            **{f"stalled_{name}": found[name] for name in names},
            "dropped": alone["dropped"] + found["dropped"],
        }

    return await _alternate("one that never reads", options, Turn(), 100, measure, peers)


# -- sessions ----------------------------------------------------------------------------------


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
    peers = [peer for peer in options.peers if peer.name not in IN_PYTHON]
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

    return await _alternate("opened and closed", options, Turn(), 200, measure)


# -- time --------------------------------------------------------------------------------------


@scenario
async def soak(options: Options) -> Measured:
    """500 paced sessions for --hours: memory, every byte compared, every turn on the ledger."""
    sessions, every, title = 500, 10.0, f"soak, {options.hours:g} h"
    measured = Measured(title)
    async with Upstream(Turn()).serving() as upstream:
        upstream.paced = upstream.check = True
        async with running(PEERS["relay"], upstream, sessions=sessions) as started:
            load = Load(started.url, upstream, started.headers)
            load.check = True
            await load.open(sessions)
            load.talk_paced(every)
            samples: list[dict[str, float]] = []
            begun = time.monotonic()
            for _ in seconds_bar(title, 3600 * options.hours, step=10.0):
                await asyncio.sleep(10.0)
                samples.append(
                    {
                        "seconds": round(time.monotonic() - begun, 1),
                        "rss_kb": resident(started) / 1000,
                        "turns": load.turns,
                        "mismatched": load.mismatched + upstream.mismatched,
                    }
                )
            load.fall_silent()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):
                    while load.turns < load.asked:
                        await asyncio.sleep(0.1)
            await load.leave()
            await asyncio.sleep(1.0)
            recorded = _recorded(started)
    warm = samples[min(len(samples) - 1, max(1, len(samples) // 10))]
    measured.details = {"sessions": sessions, "samples": samples}
    measured.add(
        "relay",
        {
            "turns": load.turns,
            "rss_growth_kb": samples[-1]["rss_kb"] - warm["rss_kb"],
            "rss_kb": samples[-1]["rss_kb"],
            "lost": (load.asked - load.turns) + upstream.lost,
            "mismatched": load.mismatched + upstream.mismatched,
            "dropped": load.dropped,
            "unrecorded": load.turns - recorded,
        },
    )
    return measured


def _recorded(peer: Running) -> int:
    """Responses on the relay's ledger."""
    with contextlib.closing(sqlite3.connect(peer.folder / "relay.db")) as database:
        tables = [row[0] for row in database.execute("select name from sqlite_master "
                  "where type = 'table'")]  # fmt: skip
        table = next(name for name in tables if "record" in name)
        query = f"select count(*) from {table} where kind = 'response' and source = 'reported'"
        count: int = database.execute(query).fetchone()[0]
        return count
