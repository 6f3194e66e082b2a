"""What became of a session besides what its client saw: its records and its log lines, in the
words of the table."""

import re
from collections.abc import Iterable
from typing import Any

__all__ = ["billed", "logged"]

LINE = re.compile(r"^\S+ \S+ (?P<level>[A-Z]+) (?P<event>[^=]*?) (?P<values>\w+=.*)$")
VALUE = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)')
TOLD = ("by", "code", "reason", "status", "side", "error")
"""What of a line is told. All else is figures, names and times."""


def billed(records: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    """Each record as its kind, the unit's status, and where its figures come from."""
    return tuple(
        sorted(f"{record['kind']} {record['status']} {record['source']}" for record in records)
    )


def logged(output: str, session: str) -> tuple[str, ...]:
    """Every line of a session but the one that it begins with."""
    found = []
    for text in output.splitlines():
        if f"session={session}" not in text or " session open " in text:
            continue
        line = LINE.match(text)
        assert line, f"no log line of ours: {text}"
        told = [f"{k}={v}" for k, v in VALUE.findall(line["values"]) if k in TOLD]
        found.append(" ".join([line["level"], line["event"], *told]))
    return tuple(found)
