"""Price file: TOML text to rows of a price list, with everything that is wrong about it.

The rules: rates are read as decimals and never pass through a float; what a row does not say is
not known; a row says where its prices come from and when they were read there. Nothing is opened
here: the text comes in, and errors come out as lines that name file, row, key and, where the key
is one of a price, value.

    [[prices]]
    model = "gpt-realtime"                      # at most one * in a name
    names = ["gpt-realtime-2025-08-28"]         # other names it goes by
    source = "https://developers.openai.com/api/docs/pricing"
    date = 2026-11-22                           # when it was read there
    input_text = 4.00                           # USD per 1M tokens
    cached_text = 0.40
    transcription_minute = 0.006                # USD per minute of audio transcribed
"""

import re
import tomllib
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

from relay_app.meter.price import RATES, TOKEN_RATES, Price

__all__ = ["MAX_RATE", "PriceFile", "read_prices", "toml"]

MAX_RATE: Final = 1_000_000
"""USD. The dearest rate seen is 200."""

MIN_LIKELY_RATE: Final = Decimal("0.001")
"""USD per 1M tokens. What is below was likely copied from a list that states rates per token; the
cheapest rate seen is 0.06."""

MAX_DECIMALS: Final = 12
MAX_TEXT: Final = 256

_KEYS: Final = ("model", "names", "source", "date", *RATES)


def toml(price: Price) -> str:
    """``price`` in the form of the file, for an operator to copy and change."""
    lines = ["[[prices]]", f"model = {_quoted(price.model)}"]
    if price.names:
        lines.append(f"names = [{', '.join(_quoted(name) for name in price.names)}]")
    lines += [f"source = {_quoted(price.source)}", f"date = {price.date}"]
    rates = {rate: getattr(price, rate) for rate in RATES}
    lines += [f"{rate} = {value:f}" for rate, value in rates.items() if value is not None]
    return "\n".join(lines)


class PriceFile(NamedTuple):
    """What a file says: its rows, what makes it unusable, what only looks wrong."""

    prices: tuple[Price, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def read_prices(text: str, source: str) -> PriceFile:
    """The rows of the TOML ``text``; ``source`` is what messages call it. Never raises.

    A file with an error has no rows: half a price list is worse than none.
    """
    try:
        document = tomllib.loads(text, parse_float=_decimal)
    except (ValueError, RecursionError) as error:
        why = "too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
        return PriceFile((), (f"{source}: not TOML: {why}",), ())
    reader = _Reader(source)
    reader.read(document)
    prices = () if reader.errors else tuple(reader.prices)
    return PriceFile(prices, tuple(reader.errors), tuple(reader.warnings))


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond all measure
        return Decimal("NaN")


class _Reader:
    """Reads rows, and goes on after an error so that one look at a file finds all of them."""

    def __init__(self, source: str) -> None:
        self.prices: list[Price] = []
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self._source = source
        self._owners: dict[str, str] = {}

    def read(self, document: dict[str, Any]) -> None:
        for name in document:
            if name != "prices":
                self._strange(_key(name), "only [[prices]]")
        rows = document.get("prices", [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self._strange("prices", "a list of tables, [[prices]]")
            return
        if not rows:
            self.warnings.append(f"{self._source}: no [[prices]] in it")
        for index, row in enumerate(rows):
            self._row(f"prices[{index}]", row)

    def _row(self, place: str, row: dict[str, Any]) -> None:
        before = len(self.errors)
        for key in row:
            if key not in _KEYS:
                self._strange(f"{place}.{_key(key)}", "one of " + ", ".join(_KEYS))
        for key in ("model", "source", "date"):
            if key not in row:
                self.errors.append(f"{self._source}: {place}.{key} is missing")
        model = self._name(f"{place}.model", row["model"]) if "model" in row else ""
        names = self._names(f"{place}.names", row.get("names", []))
        origin = row.get("source", "-")
        if not _is_text(origin):
            self._wrong(f"{place}.source", origin, "where the prices were read")
        when = self._date(f"{place}.date", row["date"]) if "date" in row else ""
        rates = {r: self._rate(f"{place}.{r}", row[r]) for r in RATES if r in row}
        if not rates:
            self.errors.append(f"{self._source}: {place} has no rate; one of {', '.join(RATES)}")
        if len(self.errors) == before:
            price = Price(model=model, names=names, source=origin, date=when, **rates)
            self._check(place, price)
            self.prices.append(price)

    def _name(self, place: str, value: Any) -> str:
        if not _is_text(value) or value.count("*") > 1:
            self._wrong(place, value, f"1 to {MAX_TEXT} printable characters, at most one *")
            return ""
        owner = self._owners.setdefault(value, place)
        if owner != place:
            self._wrong(place, value, f"a name used once; {owner} is the same")
        return str(value)

    def _names(self, place: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list):
            self._wrong(place, value, "a list of model names")
            return ()
        return tuple(self._name(f"{place}[{i}]", name) for i, name in enumerate(value))

    def _date(self, place: str, value: Any) -> str:
        """A TOML date, or one as a string; as ISO 8601."""
        try:
            if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
                return date.fromisoformat(value).isoformat()
        except ValueError:
            pass
        if isinstance(value, date) and not isinstance(value, datetime):
            return value.isoformat()
        self._wrong(place, value, "a date like 2026-11-22")
        return ""

    def _rate(self, place: str, value: Any) -> Decimal:
        unit = "a minute" if place.endswith("_minute") else "per 1M tokens"
        accepted = f"USD {unit}, a number from 0 to {MAX_RATE} of at most {MAX_DECIMALS} decimals"
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            self._wrong(place, value, accepted)
            return Decimal(0)
        rate = Decimal(value)
        exponent = rate.as_tuple().exponent  # a letter if it is no finite number
        if isinstance(exponent, str) or exponent < -MAX_DECIMALS or not 0 <= rate <= MAX_RATE:
            self._wrong(place, value, accepted)
            return Decimal(0)
        return rate.copy_abs() if exponent <= 0 else rate.quantize(Decimal(1))

    def _check(self, place: str, price: Price) -> None:
        """What no row may say, and what is likely a slip."""
        for kind in ("text", "audio", "image"):
            fresh, cached = getattr(price, f"input_{kind}"), getattr(price, f"cached_{kind}")
            if cached is not None and fresh is None:
                self.errors.append(f"{self._source}: {place} has cached_{kind} and no input_{kind}")
            elif cached is not None and cached > fresh:
                self._wrong(f"{place}.cached_{kind}", cached, f"at most input_{kind}, {fresh}")
        for rate in TOKEN_RATES:
            if 0 < (getattr(price, rate) or 0) < MIN_LIKELY_RATE:
                self._odd(place, price, f"{rate} = {getattr(price, rate)} per 1M tokens; per one?")
        for way in ("input", "output"):
            text, audio = getattr(price, f"{way}_text"), getattr(price, f"{way}_audio")
            if text is not None and audio is not None and audio < text:
                said = f"{way}_audio = {audio} is cheaper than {way}_text = {text}; exchanged?"
                self._odd(place, price, said)

    def _odd(self, place: str, price: Price, text: str) -> None:
        self.warnings.append(f"{self._source}: {place} ({price.model}): {text}")

    def _strange(self, place: str, accepted: str) -> None:
        """Without the value: the file may be another one, with secrets in it."""
        self.errors.append(f"{self._source}: {place}: expected {accepted}")

    def _wrong(self, place: str, value: Any, accepted: str) -> None:
        self.errors.append(f"{self._source}: {place} = {_shown(value)}: expected {accepted}")


def _quoted(text: str) -> str:
    """Printable ``text`` as a TOML string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]{1,64}", name, re.ASCII) else _shown(name)


def _shown(value: Any) -> str:
    try:
        text = str(value) if isinstance(value, Decimal | date) else repr(value)
    except ValueError:  # Python prints no integer of more than 4,300 digits; 0xff... can be one
        return "(too long to show)"
    return text if len(text) <= 80 else text[:77] + "..."
