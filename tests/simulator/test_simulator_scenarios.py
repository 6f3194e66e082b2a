import pytest

from relay_app.simulator import Simulator
from relay_app.simulator.scenarios import SCENARIOS, scenario_named


def test_every_scenario_says_what_it_does() -> None:
    assert all(scenario.__doc__ for scenario in SCENARIOS.values())


def test_nothing_goes_wrong_unless_asked() -> None:
    assert type(scenario_named(None)) is SCENARIOS["normal"]


def test_an_unknown_scenario_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'flood'.*normal, refuse-401"):
        Simulator(scenario="flood")
