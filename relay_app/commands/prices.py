"""``relay-app prices``: what units of usage cost."""

import sys
from pathlib import Path

import click

from relay_app.commands.options import one_line_errors, read_settings

__all__ = ["prices"]


@click.group()
def prices() -> None:
    """Look into the price list, or into a file of your own."""


@prices.command("check")
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check(file: Path | None) -> None:
    """Say all that is wrong with the price FILE; with the built-in prices by default."""
    from relay_app.ledger.price_list import built_in_prices, read_price_file

    found = built_in_prices() if file is None else read_price_file(file)
    for kind, lines in (("error", found.errors), ("warning", found.warnings)):
        for line in lines:
            click.echo(f"{kind}: {line}")
    counts = [(len(lines), kind) for kind, lines in found._asdict().items()]
    click.echo(", ".join(f"{count} {kind}" for count, kind in counts))
    if found.errors:
        sys.exit(1)


@prices.command("show")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The settings file whose own prices count; without it only the built-in ones do.",
)
@click.argument("model", required=False)
def show(config: Path | None, model: str | None) -> None:
    """Show what MODEL is priced by, or the whole list, in the form of a price file."""
    from relay_app.ledger.price_list import built_in_prices, price_list
    from relay_app.meter.price_file import toml
    from relay_app.meter.prices import PriceList

    with one_line_errors():
        listed = (
            PriceList(built_in_prices().prices)
            if config is None
            else price_list(read_settings(config, "prices"))
        )
        if model is None:
            click.echo("\n\n".join(toml(price) for price in listed.prices))
            return
        price = listed.find(model)
        if price is None:
            raise ValueError(f"no price for {model!r}; its usage is recorded without a cost")
        click.echo(toml(price))
