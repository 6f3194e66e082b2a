"""The lab: one provider, one relay with an upstream a row, and the rows played against them.

The rule: rows are played many at a time and waited for together, so that the table takes as long
as its slowest row; none of them may notice the others.
"""

import re
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.bills import TRANSCRIBED
from support.clients import eventually
from support.relays import PROVIDER_KEY, RelayProcess, relay

from faults.account import billed, logged
from faults.clients import CLIENTS
from faults.story import Story
from faults.table import LIMITS, Row
from relay_app.simulator import Simulator, background
from relay_app.simulator.usage import Billed

__all__ = ["Outcome", "outcomes"]

AT_ONCE = 24
"""Rows that are played at a time."""

UPSTREAM = """
name = "{name}"
dialect = "compatible"
base_url = "{base_url}"
api_keys = ["{key}"]
models = {{ "{model}" = "gpt-realtime" }}
"""


@dataclass(frozen=True)
class Outcome:
    """What a row has come to, in the words of the table, and the figures behind them."""

    sees: tuple[str, ...]
    says: str
    billed: tuple[str, ...]
    logged: tuple[str, ...]
    seconds: float
    records: list[dict[str, Any]]
    provider: dict[str, dict[str, Any]]
    """By unit the end of it with what the provider billed for it, whatever it said."""


def outcomes(folder: Path, rows: Iterable[Row]) -> dict[str, Outcome]:
    """Plays the rows, all of them; what came of each, by its id."""
    rows = list(rows)
    with _lab(folder, rows) as (provider, running):
        with ThreadPoolExecutor(AT_ONCE) as pool:
            stories = list(pool.map(lambda row: _play(running, row), rows))
        for story in stories:
            eventually(
                lambda story=story: re.search(
                    rf"(refused|session close) session={story.session}", running.output
                ),
                f"the end of {story.session}",
            )
        records = running.records()
        output = running.output
        spent = {unit.id: _end(unit) for unit in provider.billed}
    assert "Traceback" not in output, output
    found = {}
    for row, story in zip(rows, stories, strict=True):
        own = [record for record in records if record["session_id"] == story.session]
        found[row.id] = Outcome(
            story.told(row.scenario.partition(":")[2]),
            story.says.replace(_name(rows, row), "NAME"),
            billed(own),
            logged(output, story.session),
            story.seconds,
            own,
            spent,
        )
    return found


def _end(unit: Billed) -> dict[str, Any]:
    if unit.kind == "transcription":
        return {"type": TRANSCRIBED, "item_id": unit.id, "usage": unit.usage}
    response = {"id": unit.id, "status": unit.status, "output": [{}], "usage": unit.usage}
    return {"type": "response.done", "response": response}


def _name(rows: list[Row], row: Row) -> str:
    return f"provider-{rows.index(row)}"


@contextmanager
def _lab(folder: Path, rows: list[Row]) -> Iterator[tuple[Simulator, RelayProcess]]:
    with background() as provider:
        base = provider.url.removesuffix("/v1")
        upstreams = [
            UPSTREAM.format(
                name=_name(rows, row),
                base_url=f"{base}/scenario/{row.scenario}/v1",
                key=PROVIDER_KEY,
                model=row.id,
            )
            for row in rows
        ]
        limits = "\n".join(f"{name} = {value}" for name, value in LIMITS.items())
        more = "".join(f"\n[[upstreams]]{upstream}" for upstream in upstreams)
        nobody = 'models = { "nobody" = "nobody" }'
        with relay(folder, provider.url, limits=limits, upstreams=nobody, more=more) as running:
            yield provider, running


def _play(running: RelayProcess, row: Row) -> Story:
    story = Story()
    began = time.monotonic()
    try:
        CLIENTS[row.client](running, row.id, story)
    except Exception as error:  # noqa: BLE001 - it is for this row's test to fail, not for all
        story.sees.append(f"failed: {error!r}")
    story.seconds = time.monotonic() - began
    if not story.session:
        opened = running.process.wait_for(f"model={row.id} ")
        story.session = re.search(r"session=(rs_\w+)", opened)[1]
    return story
