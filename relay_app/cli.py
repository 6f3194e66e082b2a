"""The command ``relay-app``.

The rule: a command parses its options, says what is wrong with them in one line, and calls the
part that does the work; imports that cost something wait until a command needs them.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from relay_app import __version__
from relay_app.settings import CONFIG_VARIABLE, Settings

__all__ = ["main"]

_config = click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"The settings file; {CONFIG_VARIABLE} or ./relay.toml by default.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="relay-app")
def main() -> None:
    """A relay for the OpenAI Realtime WebSocket API that meters and settles usage."""


@main.command()
@_config
@click.option("--bind", default="127.0.0.1:8000", show_default=True, metavar="HOST:PORT")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 1024))
@click.option("--access-log", is_flag=True, help="Log every request to standard output.")
def serve(config: Path | None, bind: str, workers: int, access_log: bool) -> None:
    """Run the relay under gunicorn with gevent workers.

    Prints "ready http://HOST:PORT" when it listens.
    """
    from relay_app.web.preflight import check_free, check_settings

    with _one_line_errors():
        settings = _settings(config)
        check_settings(settings, [check_free(bind)])
    if config is not None:
        os.environ[CONFIG_VARIABLE] = str(config)
    options = ["--bind", bind, "--workers", str(workers)]
    if access_log:
        options += ["--access-logfile", "-"]
    gunicorn = [sys.executable, "-m", "gunicorn", "-c", "python:relay_app.web.gunicorn", *options]
    sys.stdout.flush()
    os.execv(sys.executable, gunicorn)


@main.command()
@click.option("--bind", default="127.0.0.1:9000", show_default=True, metavar="HOST:PORT")
@click.option("--scenario", help="What goes wrong; nothing by default.")
@click.option(
    "--transcript",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Play this recorded session instead of improvising one.",
)
@click.option(
    "--speed", default=1.0, show_default=True, help="Times real pace; 0 waits for nothing."
)
@click.option("--api-key", help="Demand this key; any is taken by default.")
def simulate(
    bind: str, scenario: str | None, transcript: Path | None, speed: float, api_key: str | None
) -> None:
    """Run a realtime provider to test against.

    Prints "ready http://HOST:PORT" when it listens.
    """
    from relay_app.simulator.command import run

    with _one_line_errors():
        run(bind, scenario=scenario, transcript=transcript, speed=speed, api_key=api_key)


@main.command()
@_config
@click.option(
    "--by",
    type=click.Choice(["key", "model", "day", "session"]),
    default="key",
    show_default=True,
    help="What to add up by.",
)
@click.option("--since", metavar="DATE", help="Only what ended at or after this (ISO 8601, UTC).")
@click.option("--until", metavar="DATE", help="Only what ended before this.")
@click.option("--records", is_flag=True, help="Every record instead of sums.")
@click.option("--json", "as_json", is_flag=True, help="JSON; with --records one object a line.")
def usage(
    config: Path | None,
    by: Any,
    since: str | None,
    until: str | None,
    records: bool,
    as_json: bool,
) -> None:
    """Show what was used."""
    from relay_app.ledger import usage_report
    from relay_app.ledger.stores.base import StoreError
    from relay_app.web.preflight import open_configured

    with _one_line_errors(StoreError):
        settings = _settings(config)
        begin, end = _time(since), _time(until)
        if settings.store.url.startswith("memory:"):
            raise ValueError(
                f"{settings.source}: store.url: memory:// is known to the running relay alone; "
                "ask its /v1/usage"
            )
        store = open_configured(settings)
        try:
            if records:
                line = usage_report.record_line if as_json else usage_report.record_text
                for record in store.records(since=begin, until=end):
                    click.echo(line(record))
            else:
                totals = store.totals(by, since=begin, until=end)
                report = usage_report.totals_json if as_json else usage_report.totals_table
                click.echo(report(totals, by))
        finally:
            store.close()


@main.group()
def prices() -> None:
    """Look into the price list, or into a file of your own."""


@prices.command("check")
@click.argument("file", required=False, type=click.Path(path_type=Path))
def prices_check(file: Path | None) -> None:
    """Say all that is wrong with the price FILE; with the built-in prices by default."""
    from relay_app.ledger.price_list import built_in_prices, read_price_file

    found = built_in_prices() if file is None else read_price_file(file)
    for kind, lines in (("error", found.errors), ("warning", found.warnings)):
        for line in lines:
            click.echo(f"{kind}: {line}")
    counts = [(len(lines), kind) for kind, lines in found._asdict().items()]
    click.echo(", ".join(f"{count} {kind}" for count, kind in counts))
    if found.errors:
        sys.exit(1)


@prices.command("show")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The settings file whose own prices count; without it only the built-in ones do.",
)
@click.argument("model", required=False)
def prices_show(config: Path | None, model: str | None) -> None:
    """Show what MODEL is priced by, or the whole list, in the form of a price file."""
    from relay_app.ledger.price_list import built_in_prices, price_list
    from relay_app.meter.price_file import toml
    from relay_app.meter.prices import PriceList

    with _one_line_errors():
        listed = (
            PriceList(built_in_prices().prices)
            if config is None
            else price_list(Settings.from_file(config))
        )
        if model is None:
            click.echo("\n\n".join(toml(price) for price in listed.prices))
            return
        price = listed.find(model)
        if price is None:
            raise ValueError(f"no price for {model!r}; its usage is recorded without a cost")
        click.echo(toml(price))


@main.command()
@_config
@click.option("--since", metavar="DATE", help="Only what ended at or after this (ISO 8601, UTC).")
@click.option("--until", metavar="DATE", help="Only what ended before this.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def reconcile(config: Path | None, since: str | None, until: str | None, as_json: bool) -> None:
    """Show how far estimates are from reports, and which records contradict themselves."""
    from relay_app.ledger import reconciliation
    from relay_app.ledger.stores import open_store
    from relay_app.ledger.stores.base import StoreError

    with _one_line_errors(StoreError):
        store = open_store(_settings(config).store.url)
        try:
            records = store.records(since=_time(since), until=_time(until))
            report = reconciliation.reconcile(records)
            click.echo(
                reconciliation.as_json(report) if as_json else reconciliation.as_text(report)
            )
        finally:
            store.close()


@main.command()
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

    with _one_line_errors():
        sys.exit(run(bind, folder))


def _settings(config: Path | None) -> Settings:
    return Settings.from_environment() if config is None else Settings.from_file(config)


def _time(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no date or time in ISO 8601, like 2026-01-31") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@contextmanager
def _one_line_errors(*errors: type[Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not isinstance(error, (ValueError, *errors)):
            raise
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
