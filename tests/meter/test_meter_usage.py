"""A record is a value: its id is its unit's, its price a part of it."""

import uuid
from dataclasses import fields, replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from relay_app.meter.usage import Usage, UsageRecord, record_id

NAMESPACE = uuid.UUID("7c1a6f0e-6f2b-5b0c-9d53-2f4c8f0a9e11")


@given(st.text(max_size=40), st.text(max_size=40))
def test_the_id_of_a_unit_is_the_uuid5_of_its_session_and_name(session_id, unit_id):
    name = f"{session_id}/{unit_id}".encode("utf-8", "surrogatepass").decode("latin-1")
    assert record_id(session_id, unit_id) == str(uuid.uuid5(NAMESPACE, name))


def test_the_id_of_a_known_unit_never_changes():
    assert record_id("rs_1", "resp_1") == "bf51fdef-e5ff-562b-a201-b81de59705cc"
    assert record_id("rs_1", "\ud800") != record_id("rs_1", "\udfff")


def test_a_priced_record_differs_in_its_cost_and_price_alone():
    values = {f.name: f.name for f in fields(UsageRecord)}
    times = {"started_at": 1.5, "ended_at": 2.5, "estimate": {"output_text": 3}}
    unpriced = {"usage": Usage(1, 2, 3), "cost_usd": None, "price": None}
    record = UsageRecord(**{**values, **times, **unpriced})
    cost, price = Decimal("0.000001"), {"model": "m"}
    assert record.priced(cost, price) == replace(record, cost_usd=cost, price=price)


def test_usage_is_added_and_taken_away_kind_by_kind():
    counts = range(1, 11)
    usage = Usage(*counts)
    assert usage + usage == Usage(*(2 * n for n in counts))
    assert usage - usage == Usage()
    assert usage.by_kind() == {f.name: n for f, n in zip(fields(Usage), counts, strict=True)}
    assert usage
    assert not Usage()
    assert Usage(transcription_seconds=0.5)
