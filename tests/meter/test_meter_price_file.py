"""A price file is read whole, or it is said in one line each what is wrong with it."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from price_fakes import BUILT_IN, price

from relay_app.meter.price_file import read_prices, toml

ROW = """
[[prices]]
model = "m"
source = "an invoice"
date = 2026-11-22
"""


def row(lines: str = "", **changes: str) -> str:
    """A good row with other lines in it; a change to "" leaves a line out."""
    values = {"model": '"m"', "source": '"an invoice"', "date": "2026-11-22", "input_text": "4"}
    said = "\n".join(f"{key} = {value}" for key, value in (values | changes).items() if value)
    return f"[[prices]]\n{said}\n{lines}\n"


def test_a_row_is_read_as_written():
    text = row('names = ["n", "o-*"]', input_text="0.10", cached_text="0.01", output_audio="64")
    (read,) = read_prices(text, "f").prices
    assert (read.model, read.names, read.source, read.date) == (
        "m", ("n", "o-*"), "an invoice", "2026-11-22"
    )  # fmt: skip
    assert (str(read.input_text), str(read.output_audio)) == ("0.10", "64")
    assert read.input_audio is None


@pytest.mark.parametrize(
    ("written", "rate"),
    [("0", "0"), ("0.0", "0.0"), ("-0.0", "0.0"), ("4e0", "4"), ("1e3", "1000"),
     ("1_000.5", "1000.5"), ("0e99999", "0"), ("0.000000000001", "0.000000000001"),
     ("1000000", "1000000")],
)  # fmt: skip
def test_rates_are_decimals_of_a_bounded_length(written, rate):
    (read,) = read_prices(row(input_text=written), "f").prices
    assert format(read.input_text, "f") == rate


@pytest.mark.parametrize(
    "rate",
    ["-1", "-0.01", "nan", "inf", "-inf", "1000000.01", "1e7", "1e999999999", "1e-13", "0e-99999",
     "1e99999999999999999999", '"4.00"', "true", "[4]", "{}", "2026-11-22", "0x" + "f" * 5000],
)  # fmt: skip
def test_a_rate_that_is_none_is_refused(rate):
    found = read_prices(row(input_text=rate), "f")
    assert found.prices == ()
    (error,) = found.errors
    assert error.startswith("f: prices[0].input_text = ")
    assert error.endswith(
        "expected USD per 1M tokens, a number from 0 to 1000000 of at most 12 decimals"
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (row(model=""), "prices[0].model is missing"),
        (row(source=""), "prices[0].source is missing"),
        (row(date=""), "prices[0].date is missing"),
        (row(source='""'), "prices[0].source = '': expected where the prices were read"),
        (row(source='"a\\nb"'), "prices[0].source = 'a\\nb': expected where the prices were read"),
        (row(date='"2026-13-01"'),
         "prices[0].date = '2026-13-01': expected a date like 2026-11-22"),
        (row(date='"20261122"'), "prices[0].date = '20261122': expected a date like 2026-11-22"),
        (row(date="2026-11-22T10:00:00"),
         "prices[0].date = 2026-11-22 10:00:00: expected a date like 2026-11-22"),
        (row(date="20261122"), "prices[0].date = 20261122: expected a date like 2026-11-22"),
        (row(model='"a*b*"'),
         "prices[0].model = 'a*b*': expected 1 to 256 printable characters, at most one *"),
        (row(model="7"),
         "prices[0].model = 7: expected 1 to 256 printable characters, at most one *"),
        (row(model='"\\u001b[2J"'),
         "prices[0].model = '\\x1b[2J': expected 1 to 256 printable characters, at most one *"),
        (row("names = 7"), "prices[0].names = 7: expected a list of model names"),
        (row('names = ["m"]'),
         "prices[0].names[0] = 'm': expected a name used once; prices[0].model is the same"),
        (row() + row(),
         "prices[1].model = 'm': expected a name used once; prices[0].model is the same"),
        (row(cached_text="5"), "prices[0].cached_text = 5: expected at most input_text, 4"),
        (row(cached_audio="5"), "prices[0] has cached_audio and no input_audio"),
        (row(input_text=""),
         "prices[0] has no rate; one of input_text, cached_text, input_audio, cached_audio, "
         "input_image, cached_image, output_text, output_audio, transcription_minute"),
        ("[[price]]\n", "price: expected only [[prices]]"),
        ("[prices]\n", "prices: expected a list of tables, [[prices]]"),
        ("prices = [1]\n", "prices: expected a list of tables, [[prices]]"),
        ("[[prices]", "not TOML: Expected ']]' at the end of an array declaration"),
        ("a = " + "[" * 5000, "not TOML: too deep"),
        ("a = " + "9" * 5000, "not TOML: Exceeds the limit"),
        ('a = "\x00"', "not TOML: Illegal character '\\x00' (at line 1, column 6)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(text, error):
    found = read_prices(text, "my.toml")
    assert found.prices == ()
    (said,) = found.errors
    assert said.startswith(f"my.toml: {error}")
    assert "\n" not in said
    assert len(said) < 400


def test_an_unknown_key_names_those_there_are():
    (error,) = read_prices(row("text_in = 4"), "f").errors
    assert error.startswith("f: prices[0].text_in: expected one of model, names, source, date,")


@pytest.mark.parametrize(
    "text",
    [
        '[[keys]]\nkey = "planted"\n[[upstreams]]\napi_keys = ["planted"]',
        '[auth]\nmode = "planted"\n[prices]\nfile = "planted"',
        'key = "planted"\nprices = ["planted"]',
        row('api_key = "planted"'),
    ],
)
def test_a_file_of_something_else_keeps_its_secrets(text):
    found = read_prices(text, "relay.toml")
    assert found.errors
    assert "planted" not in str(found)


def test_one_look_finds_every_error_and_no_row_of_a_bad_file_is_used():
    found = read_prices(row() + row(model='"n"', date="") + row(model='"o"', input_text="-1"), "f")
    assert len(found.errors) == 2
    assert found.prices == ()


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (row(input_audio="0.4"), "input_audio = 0.4 is cheaper than input_text = 4; exchanged?"),
        (row(output_text="2", output_audio="1"),
         "output_audio = 1 is cheaper than output_text = 2; exchanged?"),
        (row(input_text="0.000004"), "input_text = 0.000004 per 1M tokens; per one?"),
    ],
)  # fmt: skip
def test_what_only_looks_wrong_is_a_warning(text, warning):
    found = read_prices(text, "f")
    assert len(found.prices) == 1
    assert (found.errors, found.warnings) == ((), (f"f: prices[0] (m): {warning}",))


def test_an_empty_file_is_a_warning():
    assert read_prices("# later\n", "f") == ((), (), ("f: no [[prices]] in it",))


def test_the_form_shown_is_the_form_read():
    rows = (*BUILT_IN, price('a "quoted" \\ one', "\N{MICROPHONE}"), price("b", input_text="1E+2"))
    text = "\n\n".join(toml(row) for row in rows)
    assert read_prices(text, "f").errors == ()
    assert read_prices(text, "f").prices == rows


def test_the_built_in_file_has_nothing_wrong_with_it():
    from relay_app.ledger.price_list import built_in_prices

    found = built_in_prices()
    assert (found.errors, found.warnings) == ((), ())
    assert found.prices


def test_the_rows_of_azures_data_zones_are_ten_per_cent_dearer():
    by_name = {name: row for row in BUILT_IN for name in (row.model, *row.names)}
    zones = [row for row in BUILT_IN if row.model.startswith(("azure/eu/", "azure/us/"))]
    assert len(zones) == 6
    for zone in zones:
        here, there = zone.as_dict(), by_name[zone.model.rpartition("/")[2]].as_dict()
        assert here.keys() == there.keys()
        for rate in here.keys() - {"model", "source", "date"}:
            assert Decimal(here[rate]) == Decimal(there[rate]) * Decimal("1.1"), rate


@given(st.text() | st.text(alphabet="[]{}=\"'#.,\n\\ pricesmodl0123456789-+e_x*"))
def test_no_text_at_all_raises(text):
    read_prices(text, "f")
    read_prices(f"{ROW}{text}", "f")
    read_prices(f"{ROW}input_text = {text}", "f")
