"""Usage as text: a table for people, JSON for programs.

The rule: nothing here asks a store or prints; it takes what a store answered and returns text.
What has no price is a dash, never a zero.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from relay_app import codec
from relay_app.ledger.stores.totals import By, Total, add_money
from relay_app.meter.usage import Usage, UsageRecord

__all__ = [
    "align",
    "printable",
    "record_line",
    "record_text",
    "total_values",
    "totals_json",
    "totals_table",
]

_COLUMNS = (
    "records",
    "sessions",
    "in text",
    "in audio",
    "in image",
    "cached",
    "out text",
    "out audio",
    "asr seconds",
    "cost USD",
    "unpriced",
    "unknown",
)


def totals_table(totals: Sequence[Total], by: By) -> str:
    """Totals as an aligned table with a sum below; "no usage recorded" if there are none.

    Costs are printed in full. ``unpriced`` and ``unknown`` count the records that the cost and
    the tokens leave out. Sessions are not summed: one may appear in several groups.
    """
    if not totals:
        return "no usage recorded"
    rows = [[by, *_COLUMNS]]
    rows += [_cells(total, sessions=str(total.sessions)) for total in totals]
    rows.append(_cells(_sum(totals), sessions=""))
    return align(rows)


def totals_json(totals: Sequence[Total], by: By, **more: Any) -> str:
    """Totals as one JSON object: ``{"by": …, "totals": [{"group": …, …}]}``, and ``more``.

    Costs are decimal strings, or null where no record of the group is priced.
    """
    return codec.dumps({"by": by, "totals": [total_values(total) for total in totals], **more})


def record_line(record: UsageRecord) -> str:
    """The record as one line of JSON, field names as in the public record."""
    return codec.dumps(record.as_dict())


def record_text(record: UsageRecord) -> str:
    """The record as one line for people: when, who, what, how much."""
    ended_at = datetime.fromtimestamp(record.ended_at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    fields = (record.key, record.model, record.kind, record.status, record.source)
    tokens = "?" if record.source == "unknown" else str(record.usage.tokens)
    head = "  ".join(printable(text) for text in fields)
    return f"{ended_at}  {head}  {tokens} tokens  {_money(record.cost_usd)} USD"


def total_values(total: Total) -> dict[str, Any]:
    """The total as a flat dict of JSON values."""
    values = {"group": total.group, "records": total.records, "sessions": total.sessions}
    cost = None if total.cost_usd is None else format(total.cost_usd, "f")
    rest = {"cost_usd": cost, "unpriced": total.unpriced, "unknown": total.unknown}
    return values | asdict(total.usage) | rest


def _cells(total: Total, *, sessions: str) -> list[str]:
    usage = total.usage
    cached = usage.cached_text_tokens + usage.cached_audio_tokens + usage.cached_image_tokens
    return [
        printable(total.group),
        str(total.records),
        sessions,
        str(usage.input_text_tokens),
        str(usage.input_audio_tokens),
        str(usage.input_image_tokens),
        str(cached),
        str(usage.output_text_tokens),
        str(usage.output_audio_tokens),
        f"{usage.transcription_seconds:.1f}",
        _money(total.cost_usd),
        str(total.unpriced),
        str(total.unknown),
    ]


def _sum(totals: Iterable[Total]) -> Total:
    records, unpriced, unknown = 0, 0, 0
    usage, cost = Usage(), None
    for total in totals:
        records += total.records
        unpriced += total.unpriced
        unknown += total.unknown
        usage += total.usage
        cost = add_money(cost, total.cost_usd)
    return Total("total", records, 0, usage, cost, unpriced, unknown)


def _money(cost: Decimal | None) -> str:
    return "-" if cost is None else format(cost, "f")


def printable(text: str) -> str:
    """Model names come from clients: no control character of theirs reaches a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text) or "(none)"


def align(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns two spaces apart: the first ``left`` to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:left], widths[:left], strict=True)]
        cells += [cell.rjust(width) for cell, width in zip(row[left:], widths[left:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
