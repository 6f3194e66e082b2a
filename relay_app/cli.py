"""The command ``relay-app``: its commands, gathered from ``relay_app.commands``."""

import click

from relay_app import __version__
from relay_app.commands.export import export
from relay_app.commands.keys import keys
from relay_app.commands.prices import prices
from relay_app.commands.quickstart import quickstart
from relay_app.commands.reconcile import reconcile
from relay_app.commands.serve import serve
from relay_app.commands.simulate import simulate
from relay_app.commands.usage import usage

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="relay-app")
def main() -> None:
    """A relay for the OpenAI Realtime WebSocket API that meters and settles usage."""


for command in (serve, simulate, usage, export, keys, prices, reconcile, quickstart):
    main.add_command(command)

if __name__ == "__main__":
    main()
