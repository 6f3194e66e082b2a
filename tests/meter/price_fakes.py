"""Prices made by hand, and usage of any kind."""

from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

from relay_app.ledger.price_list import built_in_prices
from relay_app.meter import Usage
from relay_app.meter.price import Price
from relay_app.meter.prices import PriceList

BUILT_IN = built_in_prices().prices
LIST = PriceList(BUILT_IN)

FULL = {
    "input_text": "4.00",
    "cached_text": "0.40",
    "input_audio": "32.00",
    "cached_audio": "0.41",
    "input_image": "5.00",
    "cached_image": "0.50",
    "output_text": "16.00",
    "output_audio": "64.00",
    "transcription_minute": "0.017",
}
"""As gpt-realtime, but that no two rates are the same."""


def price(model: str = "m", *names: str, **rates: Any) -> Price:
    decimals = {rate: Decimal(value) for rate, value in (rates or FULL).items()}
    day = date(2026, 11, 22).isoformat()
    return Price(model=model, names=names, source="a test", date=day, **decimals)


def rounded(micro_dollars: Fraction | int) -> Decimal:
    """Micro-dollars as the dollars of a record; Python rounds a Fraction half to even."""
    return Decimal(round(Fraction(micro_dollars))) / 1_000_000


def fractions_of(row: Price) -> dict[str, Fraction]:
    """The rates of a row, by way of what a record keeps of it."""
    told = row.as_dict()
    return {key: Fraction(told[key]) for key in FULL if key in told}


tokens = st.integers(0, 2**53)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Usage as the meter makes it: cached at most the input, reasoning at most the text."""
    given = {kind: draw(tokens) for kind in ("text", "audio", "image")}
    made_text = draw(tokens)
    return Usage(
        *given.values(),
        *(draw(st.integers(0, most)) for most in given.values()),
        output_text_tokens=made_text,
        output_audio_tokens=draw(tokens),
        reasoning_tokens=draw(st.integers(0, made_text)),
        transcription_seconds=draw(
            st.floats(0, 1e9, allow_subnormal=False) | st.integers(0, 9999).map(float)
        ),
    )
