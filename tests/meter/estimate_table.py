"""Estimates against reports, for every recorded session: ``python tests/meter/estimate_table.py``.

Prints the table of docs/billing.md.
"""

from dataclasses import dataclass

from meter_fakes import TRANSCRIPTS, frames, new_meter

from relay_app.meter import vocabulary
from relay_app.meter.usage import UsageRecord

KINDS = ("output_audio_tokens", "output_text_tokens", "input_audio_tokens", "input_text_tokens")


@dataclass
class Row:
    """The sums of one recorded session over its reported responses, reasoning left out."""

    name: str
    estimated: dict[str, float]
    reported: dict[str, int]


def rows() -> list[Row]:
    """Every recorded session in which the usage of a response was reported."""
    vocabulary.load()
    found = []
    for path in TRANSCRIPTS:
        records = [
            record
            for record in play(path)
            if record.kind == "response" and record.source == "reported" and record.estimate
        ]
        if records:
            found.append(row(path.stem, records))
    return found


def play(path) -> list[UsageRecord]:
    """The records of a recorded session."""
    meter, records = new_meter(), {}
    for direction, message in frames(path):
        if direction == "c2s":
            meter.sent(message)
        else:
            records |= {record.id: record for record in meter.received(message)}
    records |= {record.id: record for record in meter.close()}
    return list(records.values())


def row(name: str, records: list[UsageRecord]) -> Row:
    estimated = {kind: sum((r.estimate or {}).get(kind, 0) for r in records) for kind in KINDS}
    reported = {kind: sum(getattr(r.usage, kind) for r in records) for kind in KINDS}
    reported["output_text_tokens"] -= sum(r.usage.reasoning_tokens for r in records)
    return Row(name, estimated, reported)


def table(found: list[Row]) -> str:
    """A table in Markdown: estimated/reported and the error by kind, and the sum below."""
    lines = [
        "| session | output audio | output text | input audio | input text |",
        "|---|---|---|---|---|",
    ]
    lines += [line(one) for one in found]
    add = lambda side: {k: sum(getattr(one, side)[k] for one in found) for k in KINDS}  # noqa: E731
    lines.append(line(Row("all", add("estimated"), add("reported"))))
    return "\n".join(lines)


def line(one: Row) -> str:
    cells = []
    for kind in KINDS:
        estimated, reported = one.estimated[kind], one.reported[kind]
        error = f" ({(estimated - reported) / reported:+.0%})" if reported else ""
        cells.append(f"{estimated}/{reported}{error}" if estimated or reported else "-")
    return f"| {one.name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print(table(rows()))
