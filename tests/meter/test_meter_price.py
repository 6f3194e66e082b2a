"""What a unit costs: exactly its tokens at their own rates, rounded once, or nothing known."""

from dataclasses import fields, replace
from decimal import Decimal, getcontext, localcontext
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from price_fakes import BUILT_IN, FULL, fractions_of, price, rounded, usages

from relay_app import codec
from relay_app.meter import Usage
from relay_app.meter.price import RATES, Price

M = 1_000_000


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        (Usage(input_text_tokens=M), "4"),
        (Usage(input_text_tokens=M, cached_text_tokens=M), "0.4"),
        (Usage(input_audio_tokens=M), "32"),
        (Usage(input_audio_tokens=M, cached_audio_tokens=M), "0.41"),
        (Usage(input_image_tokens=M), "5"),
        (Usage(input_image_tokens=M, cached_image_tokens=M), "0.5"),
        (Usage(output_text_tokens=M), "16"),
        (Usage(output_audio_tokens=M), "64"),
        (Usage(transcription_seconds=60.0), "0.017"),
        (Usage(), "0"),
    ],
)
def test_each_kind_has_its_own_rate(usage, dollars):
    assert price().cost(usage) == Decimal(dollars)


def test_cached_tokens_are_a_part_of_the_input():
    usage = Usage(input_audio_tokens=1000, cached_audio_tokens=750)
    assert price().cost(usage) == rounded(250 * 32 + 750 * Fraction("0.41"))


def test_cached_audio_is_not_priced_as_fresh_which_is_80_times_as_dear():
    row = next(p for p in BUILT_IN if p.model == "gpt-realtime")
    fresh = Usage(input_audio_tokens=M)
    cached = replace(fresh, cached_audio_tokens=M)
    assert (row.cost(fresh), row.cost(cached)) == (Decimal("32"), Decimal("0.4"))


def test_reasoning_is_inside_the_output_text_and_costs_nothing_on_top():
    usage = Usage(output_text_tokens=38, reasoning_tokens=31)
    assert price().cost(usage) == price().cost(replace(usage, reasoning_tokens=0))
    assert price().cost(usage) == rounded(38 * 16)


@pytest.mark.parametrize("rate", FULL)
def test_a_missing_rate_leaves_what_needs_it_without_a_cost(rate):
    row = replace(price(), **{rate: None})
    everything = Usage(2, 2, 2, 1, 1, 1, 1, 1, 0, 1.0)
    assert row.cost(everything) is None
    assert row.missing(everything) == rate
    assert price().cost(everything) is not None
    assert row.cost(Usage()) == 0


def test_audio_is_never_priced_as_text():
    text_only = price(input_text="4", cached_text="0.4", output_text="16")
    assert text_only.cost(Usage(input_text_tokens=9, output_text_tokens=9)) == rounded(180)
    for usage in (
        Usage(input_text_tokens=9, input_audio_tokens=1),
        Usage(input_text_tokens=9, output_audio_tokens=1),
        Usage(input_audio_tokens=1, cached_audio_tokens=1),
        Usage(transcription_seconds=0.1),
    ):
        assert text_only.cost(usage) is None


def test_more_cached_than_there_is_has_no_cost_rather_than_a_discount():
    usage = Usage(input_audio_tokens=1, cached_audio_tokens=2)
    assert (price().cost(usage), price().missing(usage)) == (None, "input_audio")


@pytest.mark.parametrize(
    ("tokens", "micro_dollars"), [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4), (2**53 - 1, 2**52)]
)
def test_half_a_micro_dollar_goes_to_the_even_side(tokens, micro_dollars):
    usage = Usage(input_image_tokens=tokens, cached_image_tokens=tokens)
    assert price().cost(usage) == rounded(micro_dollars)


@pytest.mark.parametrize("whole", [999_998, 999_999])
def test_no_digit_is_lost_on_the_way_to_the_rounding(whole):
    # A rate whose product with so many tokens ends in .499999999999, which is not a half.
    tokens = 2**53 - 1
    rest = 499_999_999_999 * pow(tokens, -1, 10**12) % 10**12
    rate = f"{whole}.{rest:012}"
    assert (tokens * Fraction(rate)) % 1 == Fraction("0.499999999999")
    assert price(input_text=rate).cost(Usage(input_text_tokens=tokens)) == rounded(
        tokens * Fraction(rate)
    )


def test_seconds_are_what_the_provider_wrote_and_not_the_float_below():
    row = price(transcription_minute="60")
    assert row.cost(Usage(transcription_seconds=1.0000005)) == Decimal("1")
    assert row.cost(Usage(transcription_seconds=1.0000015)) == Decimal("1.000002")


def test_a_cost_always_has_six_digits_after_the_point():
    for usage in (Usage(), Usage(output_audio_tokens=M), Usage(input_text_tokens=1)):
        assert price().cost(usage).as_tuple().exponent == -6


def test_the_context_of_the_caller_changes_nothing():
    usage = Usage(input_text_tokens=2**53, output_audio_tokens=2**53)
    cost = price().cost(usage)
    with localcontext() as context:
        context.prec = 3
        assert price().cost(usage) == cost
    assert getcontext().prec > 3


def test_a_record_carries_its_row_as_json_from_which_the_cost_follows_again():
    usage = Usage(98, 179, 323, 64, 64, 0, 38, 0, 31)
    for row in (price(), *BUILT_IN):
        told = codec.loads(codec.dumps(row.as_dict()))
        assert told == row.as_dict()
        assert all(isinstance(value, str) for value in told.values())
        assert Price.from_dict(told).cost(usage) == row.cost(usage)
    assert price().as_dict() == {
        "model": "m", "source": "a test", "date": "2026-11-22", **FULL
    }  # fmt: skip


def test_a_price_has_its_rates_and_where_they_come_from_and_nothing_else():
    said = {f.name for f in fields(Price) if f.init}
    assert said == {"model", "names", "source", "date", *RATES}


def in_fractions(row: Price, usage: Usage) -> Fraction:
    """Micro-dollars of ``usage``, by another arithmetic."""
    rate = fractions_of(row)
    total = Fraction(0)
    for kind in ("text", "audio", "image"):
        given = getattr(usage, f"input_{kind}_tokens")
        cached = getattr(usage, f"cached_{kind}_tokens")
        total += (given - cached) * rate[f"input_{kind}"] + cached * rate[f"cached_{kind}"]
    total += usage.output_text_tokens * rate["output_text"]
    total += usage.output_audio_tokens * rate["output_audio"]
    seconds = Fraction(str(usage.transcription_seconds))
    return total + seconds / 60 * rate["transcription_minute"] * M


@given(usages())
@example(Usage(588, 30, 1, 588, 30, transcription_seconds=5e-324))
def test_a_cost_is_the_exact_sum_rounded_once(usage):
    assert price().cost(usage) == rounded(in_fractions(price(), usage))


@given(usages())
def test_the_cost_of_a_unit_is_that_of_its_kinds_together(usage):
    kinds = [("input_text_tokens", "cached_text_tokens"),
             ("input_audio_tokens", "cached_audio_tokens"),
             ("input_image_tokens", "cached_image_tokens"),
             ("output_text_tokens",), ("output_audio_tokens",),
             ("transcription_seconds",)]  # fmt: skip
    parts = [Usage(**{name: getattr(usage, name) for name in names}) for names in kinds]
    apart = sum(price().cost(part) for part in parts)
    assert abs(price().cost(usage) - apart) <= Decimal("0.0000005") * (len(parts) + 1)


@given(usages(), st.sampled_from([name for name in FULL if not name.startswith("cached")]))
def test_more_of_anything_never_costs_less(usage, kind):
    name = "transcription_seconds" if kind == "transcription_minute" else f"{kind}_tokens"
    more = replace(usage, **{name: getattr(usage, name) + 1})
    assert price().cost(more) >= price().cost(usage)


@given(usages(), st.sampled_from(["text", "audio", "image"]), st.sampled_from(BUILT_IN))
def test_a_token_from_the_cache_never_costs_more_than_a_fresh_one(usage, kind, row):
    usage = replace(usage, transcription_seconds=0.0)
    fresh = replace(usage, **{f"cached_{kind}_tokens": 0})
    costs = row.cost(usage), row.cost(fresh)
    if None not in costs:
        assert costs[0] <= costs[1]
