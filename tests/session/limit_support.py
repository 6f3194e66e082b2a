"""A session whose key has limits: a store, a worker's budgets, a meter that prices, a guard."""

from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import gevent

from relay_app import codec
from relay_app.ledger.allowance import Allowance
from relay_app.ledger.budgets import Budgets
from relay_app.ledger.stores.base import StoreError
from relay_app.ledger.stores.leases import Ask, Lease, Limits
from relay_app.ledger.stores.memory import MemoryStore
from relay_app.meter.live_price import LivePrice
from relay_app.meter.meter import Meter
from relay_app.meter.price import Price
from relay_app.meter.usage import UsageRecord
from relay_app.session.guard import Guard
from relay_app.settings import Key

PRICE = Price(
    model="m",
    source="-",
    date="2026-11-22",
    input_text=Decimal("4.00"),
    cached_text=Decimal("0.40"),
    output_text=Decimal("16.00"),
    output_audio=Decimal("64.00"),
)
SECOND = 20 * 64
"""Micro-dollars of a second of audio."""


class SwitchedStore(MemoryStore):
    """A memory store that can be switched off."""

    off = False

    def lease(self, asks: Sequence[Ask], *, seconds: float) -> list[Lease]:
        if self.off:
            raise StoreError("off")
        return super().lease(asks, seconds=seconds)


class Limited:
    """What a session of a key with ``limits`` is made with."""

    def __init__(self, **limits: Any) -> None:
        self.store = SwitchedStore()
        self.budgets = Budgets(self.store, backoff=lambda failures: 0.01)
        self.key = Key(name="k", key_sha256="0" * 64, **limits)
        allowance = self.budgets.reserve("rs_test", self.key, pace=LivePrice(PRICE).pace)
        assert allowance is not None
        self.allowance: Allowance = allowance
        self.now = 1_800_000_000.0
        self.counts: Counter[str] = Counter()
        self.meter = Meter(
            "rs_test",
            key="k",
            upstream="u",
            model="m",
            upstream_model="m",
            clock=lambda: self.now,
            price=self._priced,
        )
        self.guard = Guard(
            allowance,
            self.meter,
            price_of=lambda model: LivePrice(PRICE) if model == "m" else None,
            count=lambda limit: self.counts.update([limit]),
        )

    def _priced(self, record: UsageRecord) -> UsageRecord:
        priced = replace(record, cost_usd=PRICE.cost(record.usage))
        self.allowance.charge(priced)
        return priced

    def others_use(self, *, microusd: int = 0, tokens: int = 0) -> None:
        """A session of the key elsewhere."""
        limits = Limits(
            budget_microusd=None if self.key.budget_usd is None else 10**15,
            max_tokens_per_minute=self.key.max_tokens_per_minute,
        )
        self.store.lease(
            [Ask("elsewhere", "k", limits, spent_microusd=microusd, tokens=tokens)], seconds=60
        )

    def look_again(self) -> None:
        """Has the store asked, and waits for its answer."""
        heard = self.allowance._heard
        self.budgets._wake(self.allowance)
        while self.allowance._heard == heard:
            gevent.sleep(0.001)

    def close(self) -> None:
        self.store.off = False
        self.budgets.close(1.0)


def speech(seconds: float) -> str:
    """So much PCM16 at 24 kHz, as a delta carries it."""
    return b64encode(bytes(int(48_000 * seconds))).decode()


def whole(type: str, **fields: Any) -> bytes:
    return codec.dumps({"type": type, **fields}).encode()


def done(response_id: str, *, audio: int = 0, text: int = 10, status: str = "completed") -> dict:
    """The fields of a ``response.done`` that reports so many tokens of output."""
    usage = {
        "total_tokens": 10 + text + audio,
        "input_tokens": 10,
        "output_tokens": text + audio,
        "input_token_details": {"text_tokens": 10, "audio_tokens": 0, "cached_tokens": 0},
        "output_token_details": {"text_tokens": text, "audio_tokens": audio},
    }
    return {"response": {"id": response_id, "status": status, "output": [], "usage": usage}}
