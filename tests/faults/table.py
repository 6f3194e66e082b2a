"""The rows of ``table.toml``.

The rule: a row that lacks something, or has something that nobody reads, is an error.
"""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

__all__ = ["LIMITS", "SOURCE", "Row", "Section", "sections"]

SOURCE = Path(__file__).with_name("table.toml")

LIMITS = {
    "dial_seconds": 1.5,
    "ping_seconds": 2,
    "stall_seconds": 1,
    "idle_seconds": 6,
    "drain_seconds": 3,
    "hold_seconds": 1,
    "max_message_bytes": 4 * 1024 * 1024,
}
"""The limits of the relay in the lab: those of ``[server]``, but short."""


@dataclass(frozen=True)
class Row:
    """One thing that can go wrong, and what comes of it.

    ``scenario`` is the provider's (``relay-app simulate --list-scenarios``), ``client`` what the
    client does (``clients``). ``sees`` is what the client gets, in order; ``says`` the message of
    the last error among it. ``billed`` are the records, ``logged`` the lines of the session
    between its opening and the end. ``relay`` is what happens to the relay meanwhile, see
    ``surroundings``. ``after`` names the limits that have to pass before the end
    comes; without it nothing is waited for. ``note`` is for the reader.
    """

    scenario: str
    sees: tuple[str, ...]
    billed: tuple[str, ...] = ()
    logged: tuple[str, ...] = ()
    client: str = "asks"
    relay: str = ""
    says: str = ""
    after: str = ""
    note: str = ""

    @property
    def id(self) -> str:
        """What a client asks for as its model to get this row."""
        client = "" if self.client == "asks" else self.client
        return "/".join(filter(None, (self.scenario, client, self.relay)))

    @property
    def seconds(self) -> float:
        """How long the limits that ``after`` names take in the lab."""
        factors = [part.split() for part in self.after.split(" + ") if part]
        return sum(
            LIMITS[words[-1]] * (int(words[0]) if len(words) == 3 else 1) for words in factors
        )


@dataclass(frozen=True)
class Section:
    """Rows that belong together."""

    title: str
    about: str
    rows: tuple[Row, ...]


def sections(source: Path = SOURCE) -> list[Section]:
    """The whole table."""
    data = tomllib.loads(source.read_text())
    found = [
        Section(part["title"], part["about"].strip(), tuple(map(_row, part["rows"])))
        for part in data.pop("sections")
    ]
    assert not data, f"nobody reads {', '.join(data)}"
    return found


def _row(given: dict[str, Any]) -> Row:
    known = {field.name for field in fields(Row)}
    assert set(given) <= known, f"nobody reads {', '.join(set(given) - known)}"
    return Row(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
