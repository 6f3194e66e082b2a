"""What a running unit costs, by floats that are close to the bill."""

from decimal import Decimal

from relay_app.meter.live_price import LivePrice
from relay_app.meter.price import Price
from relay_app.meter.usage import Usage

PRICE = Price(
    model="m",
    source="-",
    date="2026-11-22",
    input_text=Decimal("4.00"),
    cached_text=Decimal("0.40"),
    input_audio=Decimal("32.00"),
    cached_audio=Decimal("0.40"),
    output_text=Decimal("16.00"),
    output_audio=Decimal("64.00"),
)


def test_it_is_within_a_micro_dollar_of_the_bill():
    usage = Usage(
        input_text_tokens=1_203,
        cached_text_tokens=1_024,
        input_audio_tokens=977,
        cached_audio_tokens=64,
        output_text_tokens=333,
        output_audio_tokens=1_111,
        reasoning_tokens=100,
    )
    cost = PRICE.cost(usage)
    assert cost is not None
    assert abs(LivePrice(PRICE).cost(usage) - float(cost) * 1e6) <= 1


def test_a_kind_without_a_rate_adds_nothing():
    assert LivePrice(PRICE).cost(Usage(input_image_tokens=10, output_audio_tokens=1)) == 64


def test_the_pace_is_that_of_the_dearer_way_to_answer():
    assert LivePrice(PRICE).pace == 20 * 64
    text = Price(model="t", source="-", date="2026-11-22", output_text=Decimal("16.00"))
    assert LivePrice(text).pace == 50 * 16
