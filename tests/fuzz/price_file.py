"""A price file: rows come of it that price any usage, or lines that say what is wrong with it.

An input is the file.
"""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import relay_app
from fuzz.target import Target
from relay_app.ledger.price_list import built_in_prices
from relay_app.meter.price import RATES, Price
from relay_app.meter.price_file import MAX_RATE, read_prices, toml
from relay_app.meter.prices import PriceList
from relay_app.meter.usage import Usage

__all__ = ["TARGET", "check"]

USED = Usage(
    input_text_tokens=3, input_audio_tokens=2**53, cached_text_tokens=1, output_text_tokens=5,
    output_audio_tokens=7, transcription_seconds=0.1,
)  # fmt: skip
BUILT_IN = Path(relay_app.__file__).parent / "data" / "prices.toml"
OURS = PriceList(built_in_prices().prices)


def check(data: bytes) -> None:
    """A file has rows or errors, each a line that begins with its name; and rows are as shown."""
    text = data.decode("utf-8", "replace")
    found = read_prices(text, "f")
    assert not (found.prices and found.errors)
    for line in (*found.errors, *found.warnings):
        assert line.startswith("f: ")
        assert line.isprintable(), line
        assert len(line) < 1_000
    for price in found.prices:
        _row(price)
    if found.prices:
        again = read_prices("\n\n".join(map(toml, found.prices)), "f")
        assert (again.prices, again.errors) == (found.prices, ())
        _list(PriceList(found.prices), found.prices)
        _list(OURS.with_own(found.prices), found.prices)


def _row(price: Price) -> None:
    rates = [getattr(price, rate) for rate in RATES]
    assert any(rate is not None for rate in rates)
    assert all(rate is None or 0 <= rate <= MAX_RATE for rate in rates)
    full = replace(price, **{rate: getattr(price, rate) or Decimal(0) for rate in RATES})
    assert full.missing(USED) is None
    cost = full.cost(USED)
    assert cost is not None
    assert cost >= 0
    assert format(cost, "f").partition(".")[2].__len__() <= 6


def _list(prices: PriceList, rows: tuple[Price, ...]) -> None:
    for row in rows:
        for name in (row.model, *row.names):
            if "*" not in name:
                priced = prices.find(name)
                assert priced is not None
                assert all(getattr(priced, rate) == getattr(row, rate) for rate in RATES)
        assert prices.has_prefix(row.model)


def _seeds() -> Iterator[bytes]:
    rows = BUILT_IN.read_text(encoding="utf-8").split("\n[[prices]]")
    for row in rows[1::6]:
        yield f"[[prices]]{row}".encode()
    row = '[[prices]]\nmodel = "%s"\nsource = "an invoice"\ndate = 2026-11-22\n%s\n'
    yield (row % ("a*", "input_text = 4\ncached_text = 0.40")).encode()
    yield (row % ("m", 'names = ["n", "o-*"]\ntranscription_minute = 0.017')).encode()
    yield (row % ("m", "input_text = 4") + row % ("n", "output_audio = 1e3")).encode()
    yield (row % ("gpt-realtime", "input_audio = 0.000001\ninput_text = 1")).encode()
    yield (row % ("m", "input_text = 1e99999999999999999999\noutput_text = 1e-13")).encode()
    yield b"prices = [{}]"


TARGET = Target(
    check,
    _seeds,
    max_bytes=1_500,
    between=b"\n",
    words=(b"[[prices]]\n", b"model = ", b"names = ", b"source = ", b"date = ", b"2026-11-22",
           b"*", b"1e6", b"1e-12", b"nan", b"inf", b"-0.0", b"1_000", b"0x1F", b'"\\u001b"',
           *(b"%b = " % rate.encode() for rate in RATES)),
)  # fmt: skip
