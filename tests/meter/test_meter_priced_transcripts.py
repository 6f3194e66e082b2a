"""The records of every recorded session cost what they come to by hand."""

from decimal import Decimal
from fractions import Fraction

import pytest
from meter_fakes import TRANSCRIPTS, frames, new_meter
from price_fakes import LIST

from relay_app.ledger.pricer import Pricer
from relay_app.meter.price import Price

# USD per 1M tokens, which is micro-dollars a token, as on the vendor's pages.
TEXT, TEXT_CACHED, AUDIO, AUDIO_CACHED, IMAGE = 4, Fraction("0.40"), 32, Fraction("0.40"), 5
TEXT_OUT, TEXT_OUT_2_1, AUDIO_OUT = 16, 24, 64


def minutes(seconds: str, dollars: str) -> Fraction:
    return Fraction(seconds) / 60 * Fraction(dollars) * 1_000_000


UNPRICED = None
ESTIMATED = "as estimated"
"""Nobody reported it: what it comes to is tested where estimates are."""
BY_HAND = {
    "01-text-turn-ga": [16 * TEXT + 5 * TEXT_OUT],
    "02-audio-turn-ga": [
        minutes("3", "0.017"),
        14 * TEXT + 27 * AUDIO + 22 * TEXT_OUT + 68 * AUDIO_OUT,
    ],
    # gpt-4o-transcribe, then gpt-4o-realtime-preview-2024-12-17
    "03-audio-turn-beta": [
        27 * 6 + 5 * 10,
        (119 - 64) * 5 + 64 * Fraction("2.50") + 27 * 40 + 17 * 20 + 30 * 80,
    ],
    "04-tool-call-ga": [
        63 * TEXT + 22 * TEXT_OUT,
        (103 - 64) * TEXT + 64 * TEXT_CACHED + 13 * TEXT_OUT,
    ],
    "05-interrupted-no-usage-ga": [
        ESTIMATED,
        34 * TEXT + 48 * AUDIO + 14 * TEXT_OUT + 24 * AUDIO_OUT,
    ],
    "05b-cancelled-with-usage-ga": [14 * TEXT + 19 * AUDIO + 18 * TEXT_OUT + 48 * AUDIO_OUT],
    "06-failed-response-ga": [UNPRICED, 0],
    "07-incomplete-response-ga": [
        (125 - 64) * TEXT + 64 * TEXT_CACHED + 12 * TEXT_OUT + 20 * AUDIO_OUT,
        (147 - 128) * TEXT + 128 * TEXT_CACHED + 20 * AUDIO + 3 * TEXT_OUT,
    ],
    "08-transcription-tokens-ga": [26 * 6 + 4 * 10, minutes("1.4", "0.006")],
    "08b-transcription-session-ga": [minutes("2", "0.017"), 0],
    "09-error-events-ga": [118 * TEXT + 7 * TEXT_OUT + 10 * AUDIO_OUT],
    # gpt-realtime-2.1: the last one has 31 tokens of reasoning among its 38 of text
    "10-multi-response-cached-ga": [
        15 * TEXT + 27 * AUDIO + 18 * TEXT_OUT_2_1 + 42 * AUDIO_OUT,
        43 * TEXT + (96 - 64) * AUDIO + 64 * AUDIO_CACHED + 18 * TEXT_OUT_2_1 + 43 * AUDIO_OUT,
        63 * TEXT + 124 * AUDIO + 17 * TEXT_OUT_2_1 + 98 * AUDIO_OUT,
        (98 - 64) * TEXT + 64 * TEXT_CACHED + (179 - 64) * AUDIO + 64 * AUDIO_CACHED
        + 323 * IMAGE + 38 * TEXT_OUT_2_1,
    ],
    "11-audio-turn-xai": [UNPRICED, UNPRICED],
    "12-parallel-out-of-band-ga": [
        26 * TEXT + 3 * TEXT_OUT,
        (122 - 64) * TEXT + 64 * TEXT_CACHED + 11 * TEXT_OUT,
    ],
    "13-beta-shape-refused-ga": [],
}  # fmt: skip

by_name = pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)


def priced(path):
    """The records of a transcript in the order they came, and the pricer that priced them."""
    pricer = Pricer(LIST, {})
    meter = new_meter(price=pricer)
    received = [message for direction, message in frames(path) if direction == "s2c"]
    return [record for message in received for record in meter.received(message)], pricer


@by_name
def test_every_unit_costs_what_it_comes_to_by_hand(path):
    records, pricer = priced(path)
    expected = BY_HAND[path.stem]
    assert [record.source == "estimated" for record in records] == [
        cost == ESTIMATED for cost in expected
    ]
    for record, cost in zip(records, expected, strict=True):
        if cost == ESTIMATED:
            assert record.cost_usd > 0
        else:
            by_hand = None if cost is None else Decimal(round(Fraction(cost))) / 1_000_000
            assert record.cost_usd == by_hand
    assert pricer.unpriced.total() == expected.count(None)


@by_name
def test_every_cost_follows_from_the_row_the_record_carries(path):
    for record in priced(path)[0]:
        assert (record.cost_usd is None) == (record.price is None)
        if record.price is not None:
            assert Price.from_dict(record.price).cost(record.usage) == record.cost_usd
            assert record.price["source"]
            assert record.price["date"] == "2026-11-22"
