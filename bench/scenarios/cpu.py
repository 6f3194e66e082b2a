"""CPU for each turn or message."""

from bench.load import Load, Upstream
from bench.peers import PEERS, Running
from bench.processes import raise_file_limit
from bench.progress import each_of
from bench.rounds import LOAD_CORES, PEER_CORES, Figures, Measured, Options, running
from bench.scenarios.measures import SPARE_FILES, alternate, in_loop, paced, scenario
from bench.stages import metering_seconds
from bench.workload import Turn


@scenario
async def closed_loop(options: Options) -> Measured:
    """CPU per voice turn of 20 sessions that begin the next when the last is answered."""

    async def measure(load: Load, peer: Running) -> Figures:
        return await in_loop(load, peer, 20, options.seconds)

    return await alternate("closed loop, 20 sessions", options, Turn(), 20, measure)


async def _paced_scenario(
    title: str, options: Options, turn: Turn, sessions: int, every: float, *, beside: int = 0
) -> Measured:
    """``beside`` is how many sessions say as much in the other half of each round, so that
    the two numbers of sessions meet the same machine: what they cost is ``few_cpu_ms_per_turn``.
    Either is measured until each session has had its turn, unless it is to be quick."""
    seconds = 2 * options.seconds if options.quick else max(2 * options.seconds, every)

    async def measure(load: Load, peer: Running) -> Figures:
        load.upstream.paced = True
        figures = {}
        if beside:
            few = Load(peer.url, load.upstream, peer.headers)
            found = await paced(few, peer, beside, every * beside / sessions, seconds)
            figures["few_cpu_ms_per_turn"] = found["cpu_ms_per_turn"]
        found = await paced(load, peer, sessions, every, seconds)
        return {**found, **figures}

    needs = raise_file_limit(2 * sessions + SPARE_FILES)
    if needs is not None:
        return Measured(title, skipped={peer.name: needs for peer in options.peers})
    return await alternate(title, options, turn, sessions, measure)


@scenario
async def paced_100(options: Options) -> Measured:
    """CPU per voice turn of 100 sessions with a turn each 2 s, as fast as people speak."""
    return await _paced_scenario("100 paced sessions", options, Turn(), 100, 2.0)


@scenario
async def paced_1000(options: Options) -> Measured:
    """CPU per voice turn of 1,000 sessions with a turn each 20 s: as many turns, more sessions."""
    title = "1,000 paced sessions"
    return await _paced_scenario(title, options, Turn(), 1000, 20.0, beside=100)


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
            found = await in_loop(each, peer, 20, options.seconds / 2)
            figures[f"{prefix}cpu_ms_per_turn"] = found["cpu_ms_per_turn"]
        return figures

    peers = [peer for peer in options.peers if peer.name in ("nginx", "haproxy", "relay")]
    measured = await alternate(title, options, usual, 20, measure, peers)
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
            measured.add(peer.name, await in_loop(load, started, 40, options.seconds))
    return measured
