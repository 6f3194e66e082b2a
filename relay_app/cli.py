"""The command ``relay-app``: its commands, gathered from ``relay_app.commands``."""

import errno
import os
import sys
from contextlib import suppress
from typing import Any

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


class _Commands(click.Group):
    """Ends what the system has refused, like a write to a full disk, in one line too.

    A reader who has left is left to click, which is quiet about it.
    """

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            return super().main(*args, **extra)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            why = error.strerror or str(error) or type(error).__name__
            place = f"{error.filename}: " if error.filename else ""
            with suppress(OSError):  # standard error may be what is full
                click.echo(f"Error: {place}{why}", err=True)
            sys.exit(1)
        finally:
            _forget_what_nobody_took()


def _forget_what_nobody_took() -> None:
    """Python would try it again at its exit, and say that it failed in words and a status of its
    own."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


def _say_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if not asked or context.resilient_parsing:
        return
    from relay_app.wire.scanner import COMPILED  # it brings gevent along

    parts = "compiled" if COMPILED else "not compiled: install it where there is a C compiler"
    click.echo(f"relay-app {__version__}, {parts}")
    context.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_say_version,
    help="Show the version, and whether the hot path is compiled.",
)  # fmt: skip
def main() -> None:
    """A relay for the OpenAI Realtime WebSocket API that meters and settles usage."""


for command in (serve, simulate, usage, export, keys, prices, reconcile, quickstart):
    main.add_command(command)

if __name__ == "__main__":
    main()
