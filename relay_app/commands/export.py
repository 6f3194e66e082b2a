"""``relay-app export``: every record, for whatever comes after."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import click

from relay_app.commands.ledger import opened_ledger, opened_records
from relay_app.commands.options import (
    check_output,
    config_option,
    moment,
    one_line_errors,
    read_settings,
    span_options,
)
from relay_app.commands.whole_file import whole_file

if TYPE_CHECKING:
    from relay_app.meter.usage import UsageRecord

__all__ = ["export"]


@click.command()
@config_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv"]),
    default="jsonl",
    show_default=True,
    help="One JSON object a line, or CSV with a header.",
)
@span_options
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file, written whole or not at all; standard output by default.",
)
def export(
    config: Path | None,
    form: Literal["jsonl", "csv"],
    since: str | None,
    until: str | None,
    output: Path | None,
) -> None:
    """Write all records, in order of their end, in memory that does not grow with them.

    On a terminal, standard error shows how far it is.
    """
    from relay_app.ledger.stores.base import StoreError

    with one_line_errors(StoreError):
        begin, end = moment(since), moment(until)
        with (
            opened_ledger(read_settings(config, "store")) as store,
            _target(output) as target,
            opened_records(store, since=begin, until=end) as records,
        ):
            # On one terminal the bar and the records would spoil each other.
            if not sys.stderr.isatty() or (output is None and sys.stdout.isatty()):
                _write(records, target, form)
                return
            count = sum(total.records for total in store.totals("key", since=begin, until=end))
            with click.progressbar(
                records,
                length=count,
                label="records",
                show_pos=True,
                file=sys.stderr,
                # Drawing it for each record would take longer than the records do.
                update_min_steps=max(1, count // 500),
            ) as shown:
                _write(shown, target, form)


def _write(records: Iterable["UsageRecord"], target: BinaryIO, form: str) -> None:
    from relay_app.ledger import usage_csv
    from relay_app.ledger.usage_report import record_line

    line: Callable[[UsageRecord], str] = record_line
    end = "\n"
    if form == "csv":
        line, end = usage_csv.record_csv, usage_csv.LINE_END
        target.write((usage_csv.record_head() + end).encode())
    for record in records:
        target.write((line(record) + end).encode())


@contextmanager
def _target(output: Path | None) -> Iterator[BinaryIO]:
    if output is not None:
        with whole_file(output) as file:
            yield file
    else:
        check_output()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()  # here, where click is quiet about a reader who has left
