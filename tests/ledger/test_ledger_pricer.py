"""The pricer: a cost on every record that can have one, and a word about the others."""

import logging
from decimal import Decimal

import pytest
from ledger_support import make_record

from relay_app.ledger.price_list import built_in_prices
from relay_app.ledger.pricer import MAX_TOLD, Pricer
from relay_app.meter.prices import PriceList
from relay_app.meter.usage import Usage

LOGGER = "relay_app.ledger.pricer"
LIST = PriceList(built_in_prices().prices)


def unpriced(**changes):
    values = {"cost_usd": None, "price": None, "usage": Usage(input_audio_tokens=1000)}
    return make_record(**(values | changes))


def test_a_record_gets_its_cost_and_the_row_and_nothing_else_changes():
    record = unpriced(upstream_model="gpt-realtime-2.1")
    priced = Pricer(LIST, {})(record)
    assert priced.cost_usd == Decimal("0.032")
    assert priced.price["model"] == "gpt-realtime-2.1"
    changed = {"cost_usd": None, "price": None}
    assert priced.as_dict() | changed == record.as_dict()


def test_what_the_upstream_runs_goes_before_what_was_asked_for():
    record = unpriced(model="gpt-realtime-mini", upstream_model="gpt-realtime")
    assert Pricer(LIST, {})(record).price["model"] == "gpt-realtime"


def test_what_was_asked_for_serves_where_a_deployment_has_a_made_up_name():
    record = unpriced(model="gpt-realtime", upstream_model="our-voice")
    assert Pricer(LIST, {})(record).price["model"] == "gpt-realtime"


def test_an_upstream_with_a_prefix_has_prices_of_its_own():
    pricer = Pricer(LIST, {"azure": "azure/us/", "openai": ""})
    name = "gpt-4o-realtime-preview-2024-12-17"
    here = pricer(unpriced(upstream="azure", upstream_model=name))
    there = pricer(unpriced(upstream="openai", upstream_model=name))
    assert (here.cost_usd, there.cost_usd) == (Decimal("0.044"), Decimal("0.04"))


def test_a_model_without_a_price_there_is_not_priced_as_elsewhere():
    pricer = Pricer(LIST, {"azure": "azure/eu/"})
    record = pricer(unpriced(upstream="azure", model="gpt-realtime", upstream_model="gpt-realtime"))
    assert record.cost_usd is None
    assert pricer.unpriced == {"no_price": 1}


def test_unknown_usage_has_no_cost_even_if_its_model_has_a_price():
    pricer = Pricer(LIST, {})
    record = unpriced(source="unknown", usage=Usage())
    assert pricer(record) is record
    assert pricer.unpriced == {"unknown_usage": 1}


def test_reported_zeros_cost_zero():
    record = Pricer(LIST, {})(unpriced(usage=Usage(), status="failed"))
    assert str(record.cost_usd) == "0.000000"


def test_a_residual_is_priced_as_any_other_and_counted_with_its_unit_alone():
    pricer = Pricer(LIST, {})
    running = {"kind": "residual", "source": "estimated", "status": "dropped"}
    assert pricer(unpriced(**running)).cost_usd == Decimal("0.032")
    pricer(unpriced(**running, upstream_model="x", model="x"))
    pricer(unpriced(**(running | {"source": "unknown"})))
    assert not +pricer.unpriced


def test_a_model_without_a_price_is_counted_each_time_and_named_once(caplog):
    pricer = Pricer(LIST, {})
    with caplog.at_level(logging.WARNING, LOGGER):
        for _ in range(3):
            assert pricer(unpriced(model="x", upstream_model="new\nmodel")).cost_usd is None
        assert caplog.messages == []
        pricer.tell()
        pricer(unpriced(model="x", upstream_model="new\nmodel"))
        pricer.tell()
    assert caplog.messages == [
        "no price for model 'new\\nmodel' of upstream openai: no row for this model; "
        "its usage is recorded without a cost"
    ]
    assert pricer.unpriced == {"no_price": 4}


def test_a_row_that_lacks_a_rate_says_which(caplog):
    pricer = Pricer(LIST, {})
    usage = Usage(input_audio_tokens=10, cached_audio_tokens=5)
    with caplog.at_level(logging.WARNING, LOGGER):
        record = pricer(unpriced(upstream_model="gemini-3.8-live", usage=usage))
        pricer.tell()
    assert (record.cost_usd, record.price) == (None, None)
    assert "its row 'gemini-3.8-live' has no cached_audio" in caplog.text
    assert pricer.unpriced == {"no_rate": 1}


def test_made_up_models_do_not_fill_the_log_or_the_memory(caplog):
    pricer = Pricer(LIST, {})
    with caplog.at_level(logging.WARNING, LOGGER):
        for number in range(MAX_TOLD + 50):
            pricer(unpriced(model="", upstream_model=f"made-up-{number}"))
            pricer.tell()
    assert len(caplog.messages) == MAX_TOLD
    assert pricer.unpriced == {"no_price": MAX_TOLD + 50}


@pytest.mark.parametrize("row", LIST.prices, ids=lambda row: row.model)
def test_every_model_of_the_list_is_found_by_each_of_its_names(row):
    for name in (row.model, *row.names):
        record = Pricer(LIST, {})(unpriced(upstream_model=name, usage=Usage()))
        assert record.price == row.as_dict()
