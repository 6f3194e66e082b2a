"""The price of one model, and what a unit's usage costs by it.

The rules:

* Every rate stands for itself. Tokens of a kind the row has no rate for leave the unit without
  a cost: audio is never priced as text, and nothing is priced at zero because a rate is missing.
* Cached tokens are inside the input and reasoning tokens inside the output text (see Usage), so
  the fresh tokens are what remains, and reasoning has no rate of its own.
* A cost is exact until its last step. It is then rounded once, to the micro-dollar, half to
  even: the same record costs the same anywhere, and as halves are common (image tokens from a
  cache cost 0.5 micro-dollars each) any other rule would lean to one side of the bill.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Context, Decimal
from math import lcm
from operator import attrgetter, mul
from typing import Any, Final, NamedTuple

from relay_app.meter.usage import Usage

__all__ = ["MICRO_DOLLAR", "RATES", "TOKEN_RATES", "Price", "quantities"]

MICRO_DOLLAR: Final = Decimal("0.000001")
MILLION: Final = Decimal(1_000_000)
ZERO: Final = Decimal(0)
SIXTY: Final = Decimal(60)

_EXACT: Final = Context(prec=400, rounding=ROUND_HALF_EVEN)
"""2**53 tokens at a rate of 6 digits before and 12 after the point take 34 digits, and the smallest
number of seconds that JSON can say stands 324 behind it. Four hundred also keep what an endless
quotient by 60 says about which half it is in."""

TOKEN_RATES: Final = (
    "input_text",
    "cached_text",
    "input_audio",
    "cached_audio",
    "input_image",
    "cached_image",
    "output_text",
    "output_audio",
)
DURATION: Final = "transcription_minute"
RATES: Final = (*TOKEN_RATES, DURATION)

_rates = attrgetter(*TOKEN_RATES)


def quantities(usage: Usage) -> tuple[int, ...]:
    """The tokens that each of ``TOKEN_RATES`` is for."""
    return (
        usage.input_text_tokens - usage.cached_text_tokens,
        usage.cached_text_tokens,
        usage.input_audio_tokens - usage.cached_audio_tokens,
        usage.cached_audio_tokens,
        usage.input_image_tokens - usage.cached_image_tokens,
        usage.cached_image_tokens,
        usage.output_text_tokens,
        usage.output_audio_tokens,
    )


class _WholeRates(NamedTuple):
    """What each of ``TOKEN_RATES`` is in parts of a micro-dollar a token, so many that all rates
    are whole numbers; and which of them nobody stated."""

    rates: tuple[int, ...]
    parts: int
    missing: tuple[int, ...]

    @classmethod
    def of(cls, rates: Sequence[Decimal | None]) -> "_WholeRates":
        # A rate in dollars for 1M tokens is one in micro-dollars for each.
        ratios = [(rate or ZERO).as_integer_ratio() for rate in rates]
        parts = lcm(*(below for _, below in ratios))
        whole = tuple(above * (parts // below) for above, below in ratios)
        return cls(whole, parts, tuple(n for n, rate in enumerate(rates) if rate is None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A row of a price list: USD per 1M tokens by kind, and per minute of audio transcribed.

    ``names`` are other names of the model, such as its snapshots'. A None is a rate nobody stated.
    Durations are priced by the minute because that is how vendors state them: 0.017 a minute is no
    decimal a second.
    """

    model: str
    names: tuple[str, ...] = ()
    source: str
    date: str
    input_text: Decimal | None = None
    cached_text: Decimal | None = None
    input_audio: Decimal | None = None
    cached_audio: Decimal | None = None
    input_image: Decimal | None = None
    cached_image: Decimal | None = None
    output_text: Decimal | None = None
    output_audio: Decimal | None = None
    transcription_minute: Decimal | None = None
    _whole: "_WholeRates" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_whole", _WholeRates.of(_rates(self)))

    def missing(self, usage: Usage) -> str | None:
        """The first rate that ``usage`` needs and this row lacks; None if it can be priced.

        Usage with more cached tokens than input of a kind cannot be priced either.
        """
        for rate, tokens in zip(TOKEN_RATES, quantities(usage), strict=True):
            if tokens < 0 or (tokens and getattr(self, rate) is None):
                return rate
        if usage.transcription_seconds and self.transcription_minute is None:
            return DURATION
        return None

    def cost(self, usage: Usage) -> Decimal | None:
        """What ``usage`` costs in USD, to the micro-dollar; None if a rate is missing."""
        tokens = quantities(usage)
        rates, unit, missing = self._whole
        if min(tokens) < 0 or (missing and any(map(tokens.__getitem__, missing))):
            return None
        parts = sum(map(mul, tokens, rates))
        if not usage.transcription_seconds:
            # Whole numbers, rounded half to even: the same as below, and sooner.
            micro_dollars, rest = divmod(parts, unit)
            micro_dollars += 2 * rest > unit or (2 * rest == unit and micro_dollars & 1)
            return _EXACT.multiply(Decimal(micro_dollars), MICRO_DOLLAR)
        if self.transcription_minute is None:
            return None
        # repr() gives back the digits the provider wrote, not those of the float below them.
        seconds = Decimal(repr(usage.transcription_seconds))
        by_60 = _EXACT.multiply(_EXACT.multiply(seconds, self.transcription_minute), MILLION)
        by_60 = _EXACT.fma(_EXACT.divide(Decimal(parts), Decimal(unit)), SIXTY, by_60)
        return _EXACT.quantize(
            _EXACT.multiply(_EXACT.divide(by_60, SIXTY), MICRO_DOLLAR), MICRO_DOLLAR
        )

    def as_dict(self) -> dict[str, str]:
        """The row as a record carries it: model, source, date, and its rates as decimal text."""
        rates = {rate: getattr(self, rate) for rate in RATES}
        stated = {rate: format(value, "f") for rate, value in rates.items() if value is not None}
        return {"model": self.model, "source": self.source, "date": self.date} | stated

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Price":
        """The row in a record's ``price``, to compute its cost again. Raises KeyError."""
        rates = {rate: Decimal(values[rate]) for rate in RATES if rate in values}
        model, source, date = (str(values[key]) for key in ("model", "source", "date"))
        return cls(model=model, names=(), source=source, date=date, **rates)
