"""The command ``python -m bench``."""

import inspect
import logging
import os
from pathlib import Path

import click
import uvloop

from bench.peers import PEERS
from bench.results import describe, save
from bench.rounds import LOAD_CORES, Measured, Options
from bench.scenarios import ON_DEMAND, SCENARIOS
from bench.table import render

DEFAULT_PEERS = [name for name in PEERS if not name.startswith("relay-")]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, metavar="[SCENARIO]...", type=click.Choice(list(SCENARIOS)))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--seconds", default=4.0, show_default=True, help="What one round measures.")
@click.option("--peers", default=",".join(DEFAULT_PEERS), show_default=True)
@click.option("--quick", is_flag=True, help="One short round of each: does it run at all?")
@click.option("--hours", default=1.0, show_default=True, help="How long to soak.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The results file.")
@click.option("--list", "listing", is_flag=True, help="Say what there is to run.")
def main(
    names: tuple[str, ...],
    rounds: int,
    seconds: float,
    peers: str,
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
    unknown = set(peers.split(",")) - set(PEERS)
    if unknown:
        raise click.UsageError(f"unknown peers {', '.join(unknown)}; there are {', '.join(PEERS)}")
    chosen = [PEERS[name] for name in peers.split(",")]
    if quick:
        rounds, seconds = 1, min(seconds, 1.0)
    options = Options(chosen, rounds, seconds, quick=quick, hours=hours)
    # picows tells of every send to a peer that left first.
    logging.disable(logging.ERROR)
    results = describe(peers.split(","), {"rounds": rounds, "seconds": seconds, "quick": quick})
    results["scenarios"] = {}
    os.sched_setaffinity(0, LOAD_CORES)
    for name in names or [name for name in SCENARIOS if name not in ON_DEMAND]:
        measured: Measured = uvloop.run(SCENARIOS[name](options))
        results["scenarios"][name] = measured.as_json()
        out = save(results, out)
    click.echo(render(results))
    click.echo(f"all figures: {out}", err=True)


if __name__ == "__main__":
    main()
