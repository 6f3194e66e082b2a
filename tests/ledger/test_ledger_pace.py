"""How much of its key's budget a session should hold."""

from relay_app.ledger.pace import Pace

AS_HEARD = 1_000.0
LARGE = 10**9


def wish(pace: Pace, left: float = LARGE, need: float = 0.0, budget: int = LARGE) -> int:
    return pace.wish(budget, left, need)


def test_an_idle_session_holds_a_cent_or_a_hundredth():
    pace = Pace(AS_HEARD, 0.0)
    assert wish(pace) == 10_000
    assert wish(pace, budget=500_000) == 5_000
    assert wish(pace, budget=10) == 1
    assert wish(pace, budget=0) == 1


def test_a_running_session_holds_twenty_seconds_as_they_are_heard():
    pace = Pace(AS_HEARD, 0.0)
    pace.follow(50.0, 0.0)
    assert wish(pace) == 20_000


def test_an_answer_that_comes_faster_has_a_larger_slice_and_its_input_does_not_count():
    pace = Pace(AS_HEARD, 0.0)
    pace.follow(900_000.0, 10.0)
    pace.follow(913_000.0, 11.0)
    pace.measure(11.0)
    assert wish(pace) == 20 * 13_000


def test_a_pace_is_measured_over_a_while():
    pace = Pace(AS_HEARD, 0.0)
    pace.follow(1.0, 0.0)
    pace.follow(5_001.0, 0.05)
    pace.measure(0.05)
    assert wish(pace) == 20_000
    pace.measure(0.5)
    assert wish(pace) == 20 * 10_000


def test_a_slice_is_an_eighth_of_what_is_left_but_a_second_of_the_answer_at_least():
    pace = Pace(AS_HEARD, 0.0)
    pace.follow(50.0, 0.0)
    assert wish(pace, left=80_000, budget=90_000) == 10_000
    assert wish(pace, left=10, budget=90_000) == 1_000


def test_the_input_of_a_response_that_is_to_begin_comes_on_top():
    pace = Pace(AS_HEARD, 0.0)
    assert wish(pace, need=300_000.0) == 320_000
