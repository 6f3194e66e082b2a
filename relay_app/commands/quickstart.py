"""``relay-app quickstart``: a relay to try."""

import sys
from pathlib import Path

import click

from relay_app.commands.options import one_line_errors

__all__ = ["quickstart"]


@click.command()
@click.option("--bind", default="127.0.0.1:8000", show_default=True, metavar="HOST:PORT")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("var/quickstart"),
    show_default=True,
    help="Where its settings and its ledger go.",
)
def quickstart(bind: str, folder: Path) -> None:
    """Try it: a relay with a throw-away key, in front of OpenAI or of the simulator."""
    from relay_app.quickstart import run

    with one_line_errors():
        sys.exit(run(bind, folder))
