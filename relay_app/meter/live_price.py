"""What a unit that still runs has cost so far: quick, close, and never a bill.

The rule: it is asked at every delta, so it is a handful of float multiplications on a row that
was read once. The bill stays with :class:`~relay_app.meter.price.Price`, which is exact; the two
differ by less than a micro-dollar. Kinds of token without a rate add nothing, as a unit that used
one is recorded without a cost.
"""

from operator import mul
from typing import Final

from relay_app.meter.price import TOKEN_RATES, Price, quantities
from relay_app.meter.usage import Usage

__all__ = ["LivePrice"]

AUDIO_TOKENS_A_SECOND: Final = 20
"""Of assistant audio (OpenAI's cost guide): one for each 50 ms."""
TEXT_TOKENS_A_SECOND: Final = 50
"""About what a realtime model writes when it does not speak."""


class LivePrice:
    """The rates of one row, in micro-dollars a token.

    ``pace`` is what a second of an answer costs in real time, by the dearer of audio and text.
    """

    __slots__ = ("_rates", "pace")

    def __init__(self, price: Price) -> None:
        # A rate in dollars for 1M tokens is one in micro-dollars for each.
        self._rates = tuple(float(getattr(price, name) or 0) for name in TOKEN_RATES)
        self.pace = max(
            float(price.output_audio or 0) * AUDIO_TOKENS_A_SECOND,
            float(price.output_text or 0) * TEXT_TOKENS_A_SECOND,
        )

    def cost(self, usage: Usage) -> float:
        """What ``usage`` costs, in micro-dollars."""
        return sum(map(mul, quantities(usage), self._rates), 0.0)
