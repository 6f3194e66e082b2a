"""How long events are under way."""

from bench.load import Load, Upstream
from bench.peers import PEERS, Running
from bench.rounds import Figures, Measured, Options, running
from bench.scenarios.measures import alternate, not_in_python, paced, scenario
from bench.workload import Turn


@scenario
async def latency(options: Options) -> Measured:
    """How long an audio delta is under way when our relay's core is half busy."""
    title = "latency at half load"
    peers = not_in_python(options.peers)
    sessions = await _half_load(options)

    async def measure(load: Load, peer: Running) -> Figures:
        load.upstream.paced = True
        return await paced(load, peer, sessions, 2.0, 2 * options.seconds)

    measured = await alternate(title, options, Turn(), sessions, measure, peers)
    measured.details["sessions"] = sessions
    for peer_rounds in measured.rounds.values():
        for figures, direct in zip(peer_rounds, measured.rounds.get("direct", []), strict=False):
            for name in ("audio_ms_p50", "audio_ms_p99"):
                figures[f"added_{name}"] = figures[name] - direct[name]
    return measured


async def _half_load(options: Options) -> int:
    """How many sessions with a turn each 2 s keep the relay's core half busy, or that of the
    load: beyond that it would be its own waiting that is measured."""
    async with Upstream(Turn()).serving() as upstream:
        upstream.paced = True
        async with running(PEERS["relay"], upstream, sessions=100) as started:
            load = Load(started.url, upstream, started.headers)
            figures = await paced(load, started, 100, 2.0, 2 * options.seconds)
    busier_ms = max(figures["cpu_ms_per_turn"], figures["load_ms_per_turn"])
    turns_per_second = 0.5 / (busier_ms / 1000)
    return max(10, min(1000, int(turns_per_second * 2.0)))


@scenario
async def durability(options: Options) -> Measured:
    """How much later response.done comes because its record is made durable first."""
    peers = [PEERS["relay"], PEERS["relay-async"]]

    async def measure(load: Load, peer: Running) -> Figures:
        load.upstream.paced = True
        return await paced(load, peer, 100, 2.0, 2 * options.seconds)

    measured = await alternate("durability", options, Turn(), 100, measure, peers)
    rounds = measured.rounds
    for durable, without in zip(
        rounds.get("relay", ()), rounds.get("relay-async", ()), strict=False
    ):
        for name in ("p50", "p99"):
            durable[f"added_ms_{name}"] = durable[f"done_ms_{name}"] - without[f"done_ms_{name}"]
    return measured


@scenario
async def slow_reader(options: Options) -> Measured:
    """Whether 99 paced sessions notice one whose client never reads."""
    peers = not_in_python(options.peers)

    async def measure(load: Load, peer: Running) -> Figures:
        load.upstream.paced = True
        alone = await paced(load, peer, 99, 2.0, options.seconds)
        beside = Load(peer.url, load.upstream, peer.headers)
        stuck = await beside.connect()
        beside.clients.append(stuck)
        stuck.transport.underlying_transport.pause_reading()
        found = await paced(beside, peer, 99, 2.0, options.seconds)
        names = ("audio_ms_p50", "audio_ms_p99")
        return {
            **{name: alone[name] for name in names},
            **{f"stalled_{name}": found[name] for name in names},
            "dropped": alone["dropped"] + found["dropped"],
        }

    return await alternate("one that never reads", options, Turn(), 100, measure, peers)
