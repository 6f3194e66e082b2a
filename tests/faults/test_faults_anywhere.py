"""A provider that ends a session behind any event at all: the client hears everything up to it,
and the ledger holds each unit of which there was word, once, as far as there was word of it."""

from typing import Any

import pytest
from support.bills import bills, figures

from faults.lab import Outcome, outcomes
from faults.table import Row
from relay_app.simulator.faults.arguments import SAID

WAYS = {"close-at": ["close 1011"], "rst-at": ["error upstream_connection_lost", "close 1011"]}


def row(way: str, event: str) -> Row:
    return Row(f"{way}:{event}", sees=(), client="does-everything")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    rows = [row(way, event) for way in WAYS for event in SAID]
    return outcomes(tmp_path_factory.mktemp("anywhere"), rows)


def begun(events: list[dict[str, Any]]) -> set[str]:
    """The responses that were created, and the items that are to be transcribed."""
    named = {"response.created": lambda event: event["response"]["id"],
             "input_audio_buffer.committed": lambda event: event["item_id"]}  # fmt: skip
    return {named[event["type"]](event) for event in events if event["type"] in named}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("event", SAID)
def test_behind_any_event(played: dict[str, Outcome], way: str, event: str) -> None:
    outcome = played[row(way, event).id]
    farewell = WAYS[way]
    heard = outcome.story.events[: len(outcome.story.events) - (len(farewell) - 1)]
    assert heard[-1]["type"] == event
    assert outcome.story.sees[-len(farewell) :] == farewell

    found = figures(outcome.records)
    ended = bills(heard)
    assert set(found) == begun(heard)
    assert {unit: found[unit] for unit in ended} == ended
    for unit in set(found) - set(ended):
        assert found[unit]["status"] == "dropped"
        assert found[unit]["source"] == "unreported"
