"""``relay-app usage``: who used how much, and what it cost."""

from pathlib import Path
from typing import Any

import click

from relay_app.commands.options import (
    config_option,
    moment,
    one_line_errors,
    read_settings,
    span_options,
)

__all__ = ["usage"]


@click.command()
@config_option
@click.option(
    "--by",
    type=click.Choice(["key", "model", "day", "session"]),
    default="key",
    show_default=True,
    help="What to add up by.",
)
@span_options
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

    with one_line_errors(StoreError):
        settings = read_settings(config)
        begin, end = moment(since), moment(until)
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
