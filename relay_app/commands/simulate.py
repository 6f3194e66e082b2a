"""``relay-app simulate``: a provider to test against."""

from pathlib import Path

import click

from relay_app.commands.options import one_line_errors

__all__ = ["simulate"]


def _list_scenarios(context: click.Context, _: click.Parameter, asked: bool) -> None:
    from relay_app.simulator.scenarios import SCENARIOS, described

    if asked:
        table = [described(name) for name in SCENARIOS]
        width = max(len(written) for written, _ in table)
        for written, sentence in table:
            click.echo(f"{written:<{width}}  {sentence}")
        context.exit()


@click.command()
@click.option("--bind", default="127.0.0.1:9000", show_default=True, metavar="HOST:PORT")
@click.option(
    "--scenario",
    metavar="NAME",
    help="What goes wrong: one of --list-scenarios; normal, nothing, by default.",
)
@click.option(
    "--list-scenarios",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_scenarios,
    help="Say what can go wrong, and exit.",
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

    Prints "ready http://HOST:PORT" when it listens. One session alone gets a scenario of its own
    by ?scenario=NAME, or by ws://HOST:PORT/scenario/NAME/v1 as the base URL of a relay's upstream.
    """
    from relay_app.simulator.command import run

    with one_line_errors():
        run(bind, scenario=scenario, transcript=transcript, speed=speed, api_key=api_key)
