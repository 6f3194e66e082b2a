"""CSV: what a spreadsheet reads is what the ledger holds, and none of it is a formula."""

import csv
import io
from dataclasses import replace
from decimal import Decimal

import pytest
from ledger_support import make_record

from relay_app import codec
from relay_app.ledger.stores.totals import Total, add_up
from relay_app.ledger.usage_csv import RECORD_COLUMNS, record_csv, record_head, totals_csv
from relay_app.ledger.usage_report import totals_json
from relay_app.meter.usage import Usage


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


def cell(column: str, **changes) -> str:
    [row] = rows(record_csv(replace(make_record("r"), **changes)))
    return row[RECORD_COLUMNS.index(column)]


def test_the_columns_are_those_of_the_json():
    assert rows(record_head()) == [list(RECORD_COLUMNS)]
    assert list(RECORD_COLUMNS) == list(make_record("r").as_dict())
    totals = add_up([make_record("r")], "key")
    head, row = rows(totals_csv(totals))
    found = codec.loads(totals_json(totals, "key"))["totals"][0]
    assert head == list(found)
    assert row == ["" if value is None else str(value) for value in found.values()]


def test_no_totals_are_a_header_alone():
    assert [row[:2] for row in rows(totals_csv([]))] == [["group", "records"]]


def test_lines_end_as_the_standard_says():
    assert totals_csv([Total("a"), Total("b")]).count("\r\n") == 3
    assert "\n" not in record_csv(make_record("r"))


@pytest.mark.parametrize(
    ("cost", "shown"),
    [(Decimal("0.000001"), "0.000001"), (Decimal("1E-6"), "0.000001"), (Decimal("-0.5"), "-0.5"),
     (Decimal("123456789012.123456"), "123456789012.123456"), (Decimal("1E+3"), "1000"),
     (None, "")],
)  # fmt: skip
def test_money_is_exact_and_what_has_no_price_is_empty(cost, shown):
    assert cell("cost_usd", cost_usd=cost) == shown
    assert f",{shown}," in totals_csv([Total("a", cost_usd=cost)])


def test_figures_are_figures():
    assert cell("input_text_tokens", usage=Usage(input_text_tokens=2**53)) == str(2**53)
    assert float(cell("started_at", started_at=1_767_225_600.123456)) == 1_767_225_600.123456


@pytest.mark.parametrize("column", ["model", "upstream_model", "unit_id", "key", "session_id"])
@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "\uff1d1",
     '=HYPERLINK("http://x","y")'],
)  # fmt: skip
def test_nothing_that_a_client_named_is_a_formula(column, text):
    shown = cell(column, **{column: text})
    assert shown == "'" + text
    assert rows(totals_csv([Total(text)]))[1][0] == shown


@pytest.mark.parametrize(
    "text", ["gpt-realtime", "", "a=b", 'say "hi", twice', "a\r\nb", "a'b", "𝄞"]
)
def test_all_other_text_stays_as_it_is(text):
    assert cell("model", model=text) == text


def test_what_is_a_table_itself_is_json():
    price = {"model": "=x", "rates": {"input_text": "4.00"}}
    assert codec.loads(cell("price", price=price)) == price
    assert cell("estimate", estimate=None) == ""
    assert cell("usage_raw", usage_raw='{"total_tokens":1}') == '{"total_tokens":1}'
