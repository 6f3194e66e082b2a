"""The price list of a relay: the one it ships with, and the operator's over it.

The rule: files are read here and nowhere else, when somebody asks for the list and not before;
a list that cannot be used stops the start with one line.
"""

import logging
from importlib.resources import files
from pathlib import Path

from relay_app import snapshot
from relay_app.meter.price_file import PriceFile, read_prices
from relay_app.meter.prices import PriceList
from relay_app.settings import Settings, SettingsError

__all__ = ["BUILT_IN", "built_in_prices", "price_list", "read_price_file"]

BUILT_IN = "built-in prices"

_log = logging.getLogger(__name__)


def built_in_prices() -> PriceFile:
    """What ``relay_app/data/prices.toml`` says."""
    data = files("relay_app").joinpath("data", "prices.toml")
    return read_prices(data.read_text(encoding="utf-8"), BUILT_IN)


def read_price_file(path: Path) -> PriceFile:
    """What the file at ``path`` says; not being readable is an error like any other."""
    try:
        return read_prices(snapshot.read(path).decode(), str(path))
    except OSError as error:
        return PriceFile((), (f"{path}: cannot be read ({error.strerror})",), ())
    except UnicodeDecodeError:
        return PriceFile((), (f"{path}: not UTF-8",), ())


def price_list(settings: Settings) -> PriceList:
    """The prices that ``settings`` ask for. Raises SettingsError; logs what only looks wrong."""
    prices = PriceList(built_in_prices().prices)
    if settings.prices.file:
        own = read_price_file(Path(settings.prices.file))
        if own.errors:
            raise SettingsError(f"{settings.source}: prices.file: {own.errors[0]}")
        for warning in own.warnings:
            _log.warning("%s", warning)
        prices = prices.with_own(own.prices)
    for index, upstream in enumerate(settings.upstreams):
        if upstream.price_prefix and not prices.has_prefix(upstream.price_prefix):
            raise SettingsError(
                f"{settings.source}: upstreams[{index}].price_prefix = "
                f"{upstream.price_prefix!r}: expected what some model of the price list begins with"
            )
    return prices
