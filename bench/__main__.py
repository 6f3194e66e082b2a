"""The command ``python -m bench``."""

import asyncio
import inspect
import logging
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click
import uvloop

from bench.peers import DEFAULT_PEERS, ONLY_IN, PEERS
from bench.results import describe, save
from bench.rounds import LOAD_CORES, Measured, Options
from bench.scenarios import ON_DEMAND, SCENARIOS
from bench.table import render


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, metavar="[SCENARIO]...", type=click.Choice(list(SCENARIOS)))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--seconds", default=4.0, show_default=True, help="What one round measures.")
@click.option("--peers", help=f"Of all scenarios; by default {','.join(DEFAULT_PEERS)}.")
@click.option("--quick", is_flag=True, help="One short round of each: does it run at all?")
@click.option("--hours", default=1.0, show_default=True, help="How long to soak.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The results file.")
@click.option("--list", "listing", is_flag=True, help="Say what there is to run.")
def main(
    names: tuple[str, ...],
    rounds: int,
    seconds: float,
    peers: str | None,
    quick: bool,
    hours: float,
    out: Path | None,
    listing: bool,
) -> None:
    """Measure what relaying a voice session costs, here and in what one would use instead.

    Without a SCENARIO all are run but the soak. Prints one table, and writes everything that was
    measured to bench/results.
    """
    if listing:
        for name, function in SCENARIOS.items():
            click.echo(f"{name:14} {inspect.getdoc(function)}")
        return
    named = peers.split(",") if peers is not None else None
    unknown = set(named or ()) - set(PEERS)
    if unknown:
        raise click.UsageError(f"unknown peers {', '.join(unknown)}; there are {', '.join(PEERS)}")
    if quick:
        rounds, seconds = 1, min(seconds, 1.0)
    # picows tells of every send to a peer that left first.
    logging.disable(logging.ERROR)
    scenarios = names or [name for name in SCENARIOS if name not in ON_DEMAND]
    some = [peer for each in scenarios for peer in taking_part(each, named)]
    all_peers = named or [name for name in PEERS if name in some]
    results = describe(all_peers, {"rounds": rounds, "seconds": seconds, "quick": quick})
    results["scenarios"] = {}
    os.sched_setaffinity(0, LOAD_CORES)
    for name in scenarios:
        chosen = [PEERS[peer] for peer in taking_part(name, named)]
        options = Options(chosen, rounds, seconds, quick=quick, hours=hours)
        measured = uvloop.run(_stoppable(SCENARIOS[name](options)))
        results["scenarios"][name] = measured.as_json()
        out = save(results, out)
    click.echo(render(results))
    click.echo(f"all figures: {out}", err=True)


def taking_part(scenario: str, named: list[str] | None = None) -> list[str]:
    """The peers of ``scenario``: those that were named, or all that are not for others alone."""
    if named is not None:
        return named
    return [peer for peer in DEFAULT_PEERS if scenario in ONLY_IN.get(peer, {scenario})]


async def _stoppable(scenario: Coroutine[Any, Any, Measured]) -> Measured:
    """SIGTERM ends it as Ctrl-C does, and so ends the peers it started."""
    task = asyncio.ensure_future(scenario)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise SystemExit(143) from None


if __name__ == "__main__":
    main()
