"""``relay-app usage``: who used how much, and what it cost."""

from pathlib import Path
from typing import Any

import click

from relay_app.commands.ledger import opened_ledger, opened_records
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
@click.option("--csv", "as_csv", is_flag=True, help="CSV with a header, for spreadsheets.")
def usage(
    config: Path | None,
    by: Any,
    since: str | None,
    until: str | None,
    records: bool,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Show what was used."""
    from relay_app.ledger import usage_csv, usage_report
    from relay_app.ledger.stores.base import StoreError

    with one_line_errors(StoreError):
        if as_json and as_csv:
            raise ValueError("--json and --csv are two forms of one answer: choose one")
        begin, end = moment(since), moment(until)
        with opened_ledger(read_settings(config, "store")) as store:
            if records:
                line = usage_report.record_line if as_json else usage_report.record_text
                if as_csv:
                    line = usage_csv.record_csv
                    click.echo(usage_csv.record_head() + usage_csv.LINE_END, nl=False)
                line_end = usage_csv.LINE_END if as_csv else "\n"
                with opened_records(store, since=begin, until=end) as found:
                    for record in found:
                        click.echo(line(record) + line_end, nl=False)
                return
            totals = store.totals(by, since=begin, until=end)
        if as_csv:
            click.echo(usage_csv.totals_csv(totals), nl=False)
        else:
            table = usage_report.totals_json if as_json else usage_report.totals_table
            click.echo(table(totals, by))
