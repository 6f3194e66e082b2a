"""``relay-app reconcile``: estimates against reports, records against themselves."""

from pathlib import Path

import click

from relay_app.commands.ledger import opened_ledger, opened_records
from relay_app.commands.options import (
    config_option,
    moment,
    one_line_errors,
    read_settings,
    span_options,
)

__all__ = ["reconcile"]


@click.command()
@config_option
@span_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def reconcile(config: Path | None, since: str | None, until: str | None, as_json: bool) -> None:
    """Show how far estimates are from reports, and which records contradict themselves."""
    from relay_app.ledger import reconciliation
    from relay_app.ledger.stores.base import StoreError

    with one_line_errors(StoreError):
        begin, end = moment(since), moment(until)
        with (
            opened_ledger(read_settings(config, "store")) as store,
            opened_records(store, since=begin, until=end) as records,
        ):
            report = reconciliation.reconcile(records)
        text = reconciliation.as_json if as_json else reconciliation.as_text
        click.echo(text(report))
