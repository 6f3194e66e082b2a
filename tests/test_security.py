"""SECURITY.md and docs/reliability.md promise what a test holds, and no limit is left out."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from relay_app.settings import Key, Server

ROOT = Path(__file__).parent.parent
SECURITY = (ROOT / "SECURITY.md").read_text()
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()
PROMISES = ("## Who is trusted with what", "## What is defended")


def section(text: str, heading: str) -> str:
    return text.partition(heading)[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The cells of each row of the first table in ``text``."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines[1:]]


def files_in(cell: str) -> list[Path]:
    """The files that a cell names; one without its folder is in that of the one before."""
    found: list[Path] = []
    for name in re.findall(r"`((?:tests/)?[\w/]+\.py)`", cell):
        path = ROOT / name
        if "/" not in name:
            path = found[-1].parent / name
        found.append(path)
    return found


PROMISED = [
    *((row[0], row[-1]) for heading in PROMISES for row in rows(section(SECURITY, heading))),
    *((row[0], row[-1]) for row in rows(section(RELIABILITY, "## Promises"))),
]


def test_there_are_promises():
    assert len(PROMISED) > 30


@pytest.mark.parametrize(("promise", "cell"), PROMISED, ids=lambda text: text[:40])
def test_each_promise_names_its_tests(promise: str, cell: str):
    named = files_in(cell)
    assert named or "who writes the store" in promise
    assert [path for path in named if not path.is_file()] == []


LIMITS = {field.name for field in (*fields(Server), *fields(Key))} - {
    "name", "key_sha256", "models", "budget_period"
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_each_limit_is_said_to_be_for_something(name: str):
    assert f"`{name}`" in SECURITY
