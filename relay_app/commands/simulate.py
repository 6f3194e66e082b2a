"""``relay-app simulate``: a provider to test against."""

from pathlib import Path

import click

from relay_app.commands.options import one_line_errors

__all__ = ["simulate"]


@click.command()
@click.option("--bind", default="127.0.0.1:9000", show_default=True, metavar="HOST:PORT")
@click.option(
    "--scenario", help="What goes wrong: refuse-401, refuse-429; normal, nothing, by default."
)
@click.option(
    "--transcript",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Play this recorded session instead of improvising one.",
)
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    help="1 is a provider's: audio comes ten times as fast as it is heard. 0 waits for nothing.",
)
@click.option("--api-key", help="Demand this key; any is taken by default.")
def simulate(
    bind: str, scenario: str | None, transcript: Path | None, speed: float, api_key: str | None
) -> None:
    """Run a realtime provider to test against.

    Prints "ready http://HOST:PORT" when it listens.
    """
    from relay_app.simulator.command import run

    with one_line_errors():
        run(bind, scenario=scenario, transcript=transcript, speed=speed, api_key=api_key)
