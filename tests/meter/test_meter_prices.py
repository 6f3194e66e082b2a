"""Which row prices a model: its name, its name without a date, a pattern, or none."""

import pytest
from price_fakes import BUILT_IN, LIST, price

from relay_app.meter.prices import PriceList


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("gpt-realtime", "gpt-realtime"),
        ("gpt-realtime-2025-08-28", "gpt-realtime"),
        ("gpt-realtime-2031-01-01", "gpt-realtime"),
        ("gpt-realtime-2.1", "gpt-realtime-2.1"),
        ("gpt-realtime-2.1-2026-12-01", "gpt-realtime-2.1"),
        ("gpt-4o-realtime-preview-2024-10-01", "gpt-4o-realtime-preview-2024-10-01"),
        ("gpt-4o-realtime-preview-2024-12-17", "gpt-4o-realtime-preview"),
        ("amazon.nova-2-sonic-v1:0", "nova-2-sonic"),
    ],
)  # fmt: skip
def test_the_built_in_list_knows_names_and_snapshots(name, model):
    assert LIST.find(name).model == model


@pytest.mark.parametrize(
    "name",
    ["", "gpt-realtime-3", "gpt-realtime-mini-2", "GPT-realtime", "my-gpt-realtime",
     "gpt-realtime-20250828", "gpt-realtime-2025-08-28-x", "-2025-08-28", "grok-voice-latest",
     "azure/eu/gpt-realtime", "gpt-realtime\n"],
)  # fmt: skip
def test_what_only_looks_alike_has_no_price(name):
    assert LIST.find(name) is None


def test_no_name_is_in_two_built_in_rows():
    names = [name for row in BUILT_IN for name in (row.model, *row.names)]
    assert len(names) == len(set(names))


def test_the_first_name_with_a_row_counts():
    prices = PriceList([price("a"), price("b")])
    assert prices.find("b", "a").model == "b"
    assert prices.find("my-deployment", "a").model == "a"
    assert prices.find("b-2027-01-01", "a").model == "b"


def test_the_longest_pattern_counts_and_any_name_goes_before_it():
    prices = PriceList([price("*"), price("voice-*"), price("voice-*-mini"), price("a")])
    assert prices.find("voice-2-mini").model == "voice-*-mini"
    assert prices.find("voice-").model == "voice-*"
    assert prices.find("anything").model == "*"
    assert prices.find("my-deployment", "a").model == "a"
    assert PriceList([price("ab*ba")]).find("aba") is None


def test_a_row_of_ones_own_replaces_the_built_in_one_whole():
    prices = LIST.with_own([price("gpt-realtime", input_text="1")])
    row = prices.find("gpt-realtime")
    assert row.as_dict().keys() == {"model", "source", "date", "input_text"}
    assert prices.find("gpt-realtime-2.1") == LIST.find("gpt-realtime-2.1")


def test_it_takes_the_other_names_that_a_provider_may_answer_with():
    prices = LIST.with_own([price("nova-2-sonic")])
    assert prices.find("amazon.nova-2-sonic-v1:0").source == "a test"
    for own in (price("gpt-realtime"), price("voice", "gpt-realtime")):
        prices = LIST.with_own([own])
        for name in ("gpt-realtime", "gpt-realtime-2025-08-28", "gpt-realtime-2031-01-01"):
            assert prices.find(name).source == "a test"


def test_unless_those_have_a_row_of_their_own():
    own = [price("gpt-realtime"), price("gpt-realtime-2025-08-28", output_text="1")]
    prices = LIST.with_own(own)
    assert prices.find("gpt-realtime-2025-08-28").input_text is None
    assert prices.find("gpt-realtime").input_text is not None


def test_a_row_for_a_snapshot_leaves_its_model_as_it_was():
    prices = LIST.with_own([price("gpt-realtime-2025-08-28")])
    assert prices.find("gpt-realtime-2025-08-28").source == "a test"
    assert prices.find("gpt-realtime").source == LIST.find("gpt-realtime").source


def test_a_pattern_of_ones_own_prices_only_what_nobody_else_does():
    prices = LIST.with_own([price("*")])
    assert prices.find("grok-voice-latest").model == "*"
    assert prices.find("gpt-realtime").model == "gpt-realtime"


def test_a_merged_list_has_each_name_once():
    merged = LIST.with_own([price("gpt-realtime"), price("mine", "whisper-1")])
    names = [name for row in merged.prices for name in (row.model, *row.names)]
    assert len(names) == len(set(names))


def test_a_prefix_is_known_if_some_row_begins_with_it():
    assert LIST.has_prefix("azure/eu/")
    assert LIST.has_prefix("azure/us/")
    assert not LIST.has_prefix("azure/uk/")
