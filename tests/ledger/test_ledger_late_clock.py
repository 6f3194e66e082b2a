import pytest

from relay_app.ledger.late_clock import DAY_SECONDS, LateClock

HOUR = 3_600.0
BEGIN = 1_767_268_800.0


class Clocks:
    """A wall clock that can be set, and a timer that cannot; an hour passes between two looks."""

    def __init__(self) -> None:
        self.passed = 5.0
        self.set_by = 0.0
        self.late = LateClock(self.true_or_not, lambda: self.passed)

    def true_or_not(self) -> float:
        return BEGIN + self.passed + self.set_by

    def look(self, hours: int = 1) -> float:
        """By how much the late clock is off what passed, after so many looks."""
        for _ in range(hours):
            self.passed += HOUR
            told = self.late()
        return told - BEGIN - self.passed


@pytest.fixture
def clocks() -> Clocks:
    made = Clocks()
    made.look()
    return made


def test_a_clock_that_goes_on_is_believed(clocks: Clocks):
    assert [clocks.look() for _ in range(60)] == [0.0] * 60


def test_one_that_is_set_forward_is_believed_after_a_day(clocks: Clocks):
    clocks.set_by = 1_000 * DAY_SECONDS
    assert clocks.look(23) == 0.0
    assert clocks.look() == 1_000 * DAY_SECONDS


def test_and_not_at_all_if_it_is_set_back_before(clocks: Clocks):
    clocks.set_by = 1_000 * DAY_SECONDS
    assert clocks.look(10) == 0.0
    clocks.set_by = 0.0
    assert clocks.look(100) == 0.0


def test_one_that_is_set_back_is_believed_at_once(clocks: Clocks):
    clocks.set_by = -DAY_SECONDS
    assert clocks.look() == -DAY_SECONDS
    clocks.set_by = 0.0
    assert clocks.look(23) == -DAY_SECONDS
    assert clocks.look() == 0.0


def test_what_it_remembers_is_of_one_day(clocks: Clocks):
    clocks.look(1_000)
    assert len(clocks.late._ahead) == 24
