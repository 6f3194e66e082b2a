"""The lab: one provider, relays, and rows that are played against them.

The rule: rows share a relay, with an upstream for each, unless something happens to it. All of
them are played at the same time, so that the table takes as long as its slowest row, and none may
notice the others.
"""

import re
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.bills import TRANSCRIBED
from support.clients import eventually
from support.relays import PROVIDER_KEY, RelayProcess, relay

from faults.account import billed, logged
from faults.clients import CLIENTS
from faults.story import Story
from faults.surroundings import SURROUNDINGS, Trouble
from faults.table import LIMITS, Row
from relay_app.simulator import Simulator, background
from relay_app.simulator.usage import Billed

__all__ = ["Outcome", "outcomes"]

AT_ONCE = 32
"""Rows that are played at a time."""

UPSTREAM = """
[[upstreams]]
name = "{name}"
dialect = "compatible"
base_url = "{base_url}"
api_keys = ["{key}"]
models = {{ "{model}" = "gpt-realtime" }}
"""


@dataclass(frozen=True)
class Outcome:
    """What a row has come to, in the words of the table, and what is behind them."""

    sees: tuple[str, ...]
    says: str
    billed: tuple[str, ...]
    logged: tuple[str, ...]
    seconds: float
    story: Story
    records: list[dict[str, Any]]
    provider: dict[str, dict[str, Any]]
    """By unit the end of it with what the provider billed for it, whatever it said."""


def outcomes(folder: Path, rows: Iterable[Row]) -> dict[str, Outcome]:
    """Plays the rows, all of them; what came of each, by its id."""
    rows = list(rows)
    shared = [row for row in rows if not row.relay]
    found: dict[str, Outcome] = {}
    with background() as provider, ThreadPoolExecutor(AT_ONCE) as pool:
        apart = [
            pool.submit(_apart, provider, folder / f"apart-{number}", row)
            for number, row in enumerate(rows)
            if row.relay
        ]
        if shared:
            found |= _together(provider, folder, shared, pool)
        for outcome in apart:
            found |= outcome.result()
    return found


def _together(
    provider: Simulator, folder: Path, rows: Sequence[Row], pool: Executor
) -> dict[str, Outcome]:
    settings = _settings(provider, rows)
    with relay(folder, provider.url, **settings) as running:
        stories = list(pool.map(lambda row: _play(Trouble(running), row), rows))
        return _told(provider, running, rows, stories)


def _apart(provider: Simulator, folder: Path, row: Row) -> dict[str, Outcome]:
    folder.mkdir()
    settings = _settings(provider, [row])
    with SURROUNDINGS[row.relay](folder, provider.url, **settings) as trouble:
        return _told(provider, trouble.running, [row], [_play(trouble, row)])


def _settings(provider: Simulator, rows: Sequence[Row]) -> dict[str, str]:
    base = provider.url.removesuffix("/v1")
    upstreams = [
        UPSTREAM.format(
            name=_name(number),
            base_url=f"{base}/scenario/{row.scenario}/v1",
            key=PROVIDER_KEY,
            model=row.id,
        )
        for number, row in enumerate(rows)
    ]
    return {
        "limits": "\n".join(f"{name} = {value}" for name, value in LIMITS.items()),
        "upstreams": 'models = { "nobody" = "nobody" }',
        "more": "".join(upstreams),
    }


def _name(number: int) -> str:
    return f"provider-{number}"


def _play(trouble: Trouble, row: Row) -> Story:
    story = Story(amid=trouble.amid)
    began = time.monotonic()
    try:
        CLIENTS[row.client](trouble.running, row.id, story)
    except Exception as error:  # noqa: BLE001 - it is for this row's test to fail, not for all
        story.sees.append(f"failed: {error!r}")
    finally:
        story.seconds = time.monotonic() - began
        trouble.over()
    if not story.session:
        opened = trouble.running.process.wait_for(f"model={row.id} ")
        story.session = re.search(r"session=(rs_\w+)", opened)[1]
    return story


def _told(
    provider: Simulator, running: RelayProcess, rows: Sequence[Row], stories: Sequence[Story]
) -> dict[str, Outcome]:
    """What each row has come to, when all of them are over."""
    for story in stories:
        end = re.compile(rf"(refused|session close) session={story.session}")
        with suppress(AssertionError):  # then a line is missing, which is for its row to say
            eventually(lambda end=end: end.search(running.output), f"the end of {story.session}")
    records, output = running.records(), running.output
    assert "Traceback" not in output, output
    spent = {unit.id: _end(unit) for unit in list(provider.billed)}
    found = {}
    for number, (row, story) in enumerate(zip(rows, stories, strict=True)):
        own = [record for record in records if record["session_id"] == story.session]
        found[row.id] = Outcome(
            story.told(row.scenario.partition(":")[2]),
            story.says.replace(_name(number), "NAME"),
            billed(own),
            logged(output, story.session),
            story.seconds,
            story,
            own,
            spent,
        )
    return found


def _end(unit: Billed) -> dict[str, Any]:
    if unit.kind == "transcription":
        return {"type": TRANSCRIBED, "item_id": unit.id, "usage": unit.usage}
    response = {"id": unit.id, "status": unit.status, "output": [{}], "usage": unit.usage}
    return {"type": "response.done", "response": response}
