"""What several commands take, and how each of them fails: in one line.

The rule: a value that a person mistyped is an error of one line and exit status 1, wherever it is
noticed; so is what the system refuses, see ``relay_app.cli``. Everything else is a bug and keeps
its traceback.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from relay_app.settings import Settings
from relay_app.settings_file import CONFIG_VARIABLE, settings_from_environment, settings_from_file

__all__ = [
    "check_output",
    "config_option",
    "moment",
    "one_line_errors",
    "read_settings",
    "span_options",
]

config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"The settings file; {CONFIG_VARIABLE} or ./relay.toml by default.",
)


def span_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--since`` and ``--until``: see :func:`moment`."""
    until = click.option("--until", metavar="DATE", help="Only what ended before this.")
    since = click.option(
        "--since", metavar="DATE", help="Only what ended at or after this (ISO 8601, UTC)."
    )
    return since(until(command))


def read_settings(config: Path | None, *only: str) -> Settings:
    """The settings of ``config``, or of where the relay itself would look.

    With ``only``, no more than these sections, nor the variables that the others need.
    """
    options: dict[str, Any] = {"only": only} if only else {}
    if config is None:
        return settings_from_environment(**options)
    return settings_from_file(config, **options)


def moment(text: str | None) -> float | None:
    """Seconds since the epoch of a date or time in ISO 8601, UTC unless it says otherwise."""
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no date or time in ISO 8601, like 2026-01-31") from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def check_output() -> None:
    """Raises ValueError if standard output is closed, where click would drop what is written."""
    if sys.stdout is None:
        raise ValueError("standard output is closed")


@contextmanager
def one_line_errors(*errors: type[Exception]) -> Iterator[None]:
    """Ends the command with the message of a ValueError, or of one of ``errors``."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, (ValueError, *errors)):
            raise
        raise click.ClickException(str(error)) from None
