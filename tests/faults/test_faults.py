"""Each row of the table, compared with what happens; and the document, with the table."""

import pytest
from support.bills import bills, figures

from faults.document import DOCUMENT, document
from faults.lab import Outcome, outcomes
from faults.table import sections
from relay_app.simulator.scenarios import SCENARIOS

ROWS = {row.id: row for section in sections() for row in section.rows}
KEEPER_SECONDS = 1.0
"""How often a relay looks whether its peers live; it takes part of a second for the whole."""
PATIENCE_SECONDS = 30.0
"""What anything may take beyond the limits that end it, on a machine that is busy."""


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    """What the rows have come to of which the tests were selected."""
    wanted = {
        item.callspec.params["row"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    }
    folder = tmp_path_factory.mktemp("faults")
    return outcomes(folder, [row for row in ROWS.values() if row.id in wanted])


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_what_happens(played: dict[str, Outcome], row: str) -> None:
    expected, found = ROWS[row], played[row]
    assert found.sees == expected.sees
    if expected.says:
        assert found.says == expected.says
    assert found.billed == expected.billed
    assert found.logged == expected.logged
    least = expected.seconds - KEEPER_SECONDS if "ping" in expected.after else expected.seconds
    assert least <= found.seconds <= expected.seconds + PATIENCE_SECONDS
    for record in found.records:
        if record["source"] == "reported":
            assert figures([record]) == bills([found.provider[record["unit_id"]]])


def test_every_scenario_has_a_row() -> None:
    played = {row.scenario.partition(":")[0] for row in ROWS.values()}
    assert played == set(SCENARIOS)


def test_the_document_is_that_of_the_table() -> None:
    assert DOCUMENT.read_text() == document(), "run: python -m tests.faults --write"
