"""Usage as CSV (RFC 4180): for spreadsheets, and for whatever else loads tables.

The rules: columns are named and ordered as in the JSON; figures are exact; what is not known is
an empty cell, never a zero. Text that a spreadsheet would take for a formula has an apostrophe
put before it, for the names of models come from clients and providers; so has text that begins
with an apostrophe itself, so that taking one away always gives back what was there.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import fields
from decimal import Decimal
from typing import Any

from relay_app import codec
from relay_app.ledger.stores.totals import Total
from relay_app.ledger.usage_report import total_values
from relay_app.meter.usage import Usage, UsageRecord

__all__ = ["LINE_END", "RECORD_COLUMNS", "record_csv", "record_head", "totals_csv"]

LINE_END = "\r\n"

_USAGE = [field.name for field in fields(Usage)]
RECORD_COLUMNS: Sequence[str] = [
    name
    for field in fields(UsageRecord)
    for name in (_USAGE if field.name == "usage" else [field.name])
]
"""Those of ``UsageRecord.as_dict``, in its order."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What makes a cell a formula in one spreadsheet or another (OWASP, "CSV Injection"), with the
full-width forms; and the apostrophe, which takes that away."""


def totals_csv(totals: Iterable[Total]) -> str:
    """Totals with a header and without a sum; no totals are a header alone."""
    rows: list[Iterable[Any]] = [total_values(Total(""))]
    rows += [(total_values(total) | {"cost_usd": total.cost_usd}).values() for total in totals]
    return "".join(_row(row) + LINE_END for row in rows)


def record_head() -> str:
    """The header over rows of :func:`record_csv`, without its line end."""
    return _row(RECORD_COLUMNS)


def record_csv(record: UsageRecord) -> str:
    """The record as one row, without its line end; ``price`` and ``estimate`` are JSON in it."""
    values = record.as_dict() | {"cost_usd": record.cost_usd}
    return _row(values.values())


def _row(values: Iterable[Any]) -> str:
    row = io.StringIO()
    # It quotes what is in its line end, so that has to be said although it is not wanted.
    csv.writer(row, lineterminator=LINE_END).writerow([_cell(value) for value in values])
    return row.getvalue().removesuffix(LINE_END)


def _cell(value: Any) -> Any:
    match value:
        case str():
            return f"'{value}" if value.startswith(_FORMULA) else value
        case Decimal():
            return format(value, "f")
        case dict():
            return codec.dumps(value)
    return value
