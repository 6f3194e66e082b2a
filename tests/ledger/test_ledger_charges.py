"""What a session's records have cost, by the period in which their units ended."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from ledger_support import make_record

from relay_app.ledger.charges import Charges
from relay_app.meter.units import MAX_ENDED
from relay_app.meter.usage import Usage

DAY, NEXT = "2026-11-22", "2026-11-23"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()


def record(unit: str, micro: int | None, days: int = 0, **changes: Any) -> Any:
    cost = None if micro is None else Decimal(micro).scaleb(-6)
    return make_record(unit, ended_at=NOON + 86_400 * days, cost_usd=cost, **changes)


def test_a_record_in_place_of_another_changes_the_sum_by_their_difference():
    charges = Charges(DAY)
    for micro in (100, 70, None, 90):
        charges.add(record("r1", micro))
    charges.add(record("r2", 5))
    assert charges.of(DAY) == 95


def test_a_unit_belongs_to_the_period_in_which_it_ended():
    charges = Charges(DAY)
    charges.add(record("r1", 100))
    charges.begin(NEXT)
    charges.add(record("r2", 10, days=1))
    assert (charges.of(DAY), charges.of(NEXT)) == (110, 10)
    charges.add(record("r1", 3, days=1))
    assert (charges.of(DAY), charges.of(NEXT)) == (13, 13), "it ended later than was said"
    charges.forget_before(NEXT)
    charges.begin(NEXT)
    assert charges.of(NEXT) == 13


def test_tokens_are_those_that_were_not_said_before():
    charges = Charges("")
    said = [charges.add(record("r1", 0, usage=Usage(input_text_tokens=n))) for n in (30, 50, 20)]
    assert said == [30, 20, 0]


def test_what_is_remembered_is_bounded():
    charges = Charges("")
    for number in range(MAX_ENDED + 10):
        charges.add(record(str(number), 1))
    assert charges.of("") == MAX_ENDED + 10
    assert len(charges._records) == MAX_ENDED
