"""``relay-app keys``: the keys that live in the store.

The rule: a key is shown once, when it is made, and only its SHA-256 is kept. Names of the settings
file are the file's. No message repeats what was typed for a name: it may be the key itself.
"""

import hashlib
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relay_app.commands.ledger import opened_ledger
from relay_app.commands.options import (
    check_output,
    config_option,
    one_line_errors,
    read_settings,
)
from relay_app.settings import Key, Settings

if TYPE_CHECKING:
    from relay_app.ledger.stores.base import Store
    from relay_app.ledger.stores.keys import StoredKey

__all__ = ["keys"]

PREFIX = "sk-relay-"
"""So that a key is known for one where it should not be, by people and by scanners of secrets."""
SECRET_BYTES = 32
CHANGE_TRIES = 20
"""Each one that fails is a change that somebody else made, within milliseconds."""
_PERIODS = click.Choice(["day", "month", "total"])


@click.group()
def keys() -> None:
    """Make, list, limit and revoke the keys that live in the store."""


@keys.command("create")
@config_option
@click.argument("name")
@click.option("--models", multiple=True, metavar="NAMES", help="Which it may use, by commas; all.")
@click.option("--budget-usd", metavar="USD", help="What its sessions may cost; no limit.")
@click.option("--budget-period", type=_PERIODS, help="When the budget renews, UTC; total: never.")
@click.option("--max-sessions", type=int, help="Open at a time; no limit.")
@click.option("--max-tokens-per-minute", type=int, help="Input and output; no limit.")
def create(config: Path | None, name: str, models: Sequence[str], **limits: Any) -> None:
    """Make a key called NAME, and print it on standard output: this once."""
    from relay_app.ledger.stores.base import KeyChanged, StoreError
    from relay_app.ledger.stores.keys import StoredKey

    with one_line_errors(StoreError):
        check_output()
        settings = _settings(config)
        if settings.auth.mode != "keys":
            raise ValueError(
                f'{settings.source}: auth.mode is "{settings.auth.mode}", which asks nobody for a '
                'key of the relay; set it to "keys" first'
            )
        if name.startswith(PREFIX):
            raise ValueError("name: that is a key; a name is what records and logs may show")
        if limits["budget_period"] and not limits["budget_usd"]:
            raise ValueError("--budget-period is of a budget: give it --budget-usd too")
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        given = _given(**limits)
        if models:
            given["models"] = [model.strip() for each in models for model in each.split(",")]
        digest = hashlib.sha256(secret.encode()).hexdigest()
        made = StoredKey(Key.checked(name=name, key_sha256=digest, **given), time.time())
        _refuse_names_of(settings, name)
        with opened_ledger(settings, create=True) as store:
            if _stored(store, name) is not None:
                raise ValueError(f"there is a key {name} already, or was: relay-app keys list")
            try:
                store.put_key(made, instead_of=None)
            except KeyChanged:
                raise ValueError(f"somebody else has just made a key {name}") from None
            _show(secret, store, made)
    click.echo(
        f"The key of {name}, shown this once. Relays that run know it when it is first used.",
        err=True,
    )


@keys.command("list")
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def list_(config: Path | None, as_json: bool) -> None:
    """Show whose keys there are, in the settings file and in the store, and what they may use."""
    from relay_app.ledger import key_report
    from relay_app.ledger.stores.base import StoreError

    with one_line_errors(StoreError):
        settings = _settings(config)
        with opened_ledger(settings) as store:
            listed = key_report.listed(settings.keys, store.keys())
        click.echo(key_report.as_json(listed) if as_json else key_report.as_table(listed))


@keys.command("revoke")
@config_option
@click.argument("name")
@click.option("--yes", is_flag=True, help="Ask nothing; else standard input has to say y.")
def revoke(config: Path | None, name: str, yes: bool) -> None:
    """Let the key called NAME open nothing any more. Its records stay, and so does its name."""
    from relay_app.ledger.stores.base import StoreError

    with one_line_errors(StoreError):
        settings = _settings(config)
        _refuse_names_of(settings, name, "remove it there, then restart or reload the relay")
        with opened_ledger(settings) as store:
            _usable(store, name)
            if not yes:
                _confirm(f"Revoke {name}, and end its sessions?")
            _change(store, name, lambda stored: replace(stored, revoked_at=time.time()))
    click.echo(f"{name} is revoked: no new sessions, and open ones end within 30 seconds.")


@keys.command("budget")
@config_option
@click.argument("name")
@click.option("--usd", metavar="USD", help="What its sessions may cost together.")
@click.option("--period", type=_PERIODS, help="When that renews, in UTC; total: never.")
@click.option("--none", "no_budget", is_flag=True, help="No limit to what they cost.")
@click.option("--max-sessions", "sessions", type=int, help="Open at a time; 0: no limit.")
@click.option("--max-tokens-per-minute", "tokens", type=int, help="Input and output; 0: no limit.")
def budget(
    config: Path | None,
    name: str,
    usd: str | None,
    period: str | None,
    no_budget: bool,
    sessions: int | None,
    tokens: int | None,
) -> None:
    """Show what the key called NAME may use and has used, and change it if asked to."""
    from relay_app.ledger.key_report import limits_text
    from relay_app.ledger.stores.base import StoreError

    with one_line_errors(StoreError):
        if no_budget and (usd or period):
            raise ValueError(
                "--none takes the budget away: it goes with neither --usd nor --period"
            )
        settings = _settings(config)
        asked = no_budget or _given(usd=usd, period=period, sessions=sessions, tokens=tokens)
        if asked:
            _refuse_names_of(settings, name, "change it there, then restart or reload the relay")
        with opened_ledger(settings) as store:
            if (of_file := _of_file(settings, name)) is not None:
                _tell(name, [limits_text(of_file), _spent(store, of_file)])
                return

            def limited(stored: "StoredKey") -> "StoredKey":
                key = stored.key.changed(**_given(budget_usd=usd, budget_period=period))
                if period and key.budget_usd is None:
                    raise ValueError("--period is of a budget: give it --usd too")
                if no_budget:
                    key = replace(key, budget_usd=None, budget_period="total")
                key = _counted(key, max_sessions=sessions, max_tokens_per_minute=tokens)
                return replace(stored, key=key)

            stored, key = _change(store, name, limited)
            spent = _spent(store, key)
    lines = [limits_text(stored.key), spent]
    if key != stored.key:
        lines.insert(1, f"{limits_text(key)}  within seconds, {_whose(stored.key)}")
    _tell(name, lines)


def _settings(config: Path | None) -> Settings:
    return read_settings(config, "auth", "keys", "store")


def _refuse_names_of(settings: Settings, name: str, advice: str = "choose another name") -> None:
    """Raises ValueError if ``name`` is one of the settings file."""
    if _of_file(settings, name) is not None:
        raise ValueError(f"{settings.source} has the key {name}: {advice}")


def _of_file(settings: Settings, name: str) -> Key | None:
    return next((key for key in settings.keys if key.name == name), None)


def _show(secret: str, store: "Store", made: "StoredKey") -> None:
    """Print the key that was just made. If nobody can have seen it, it is not to stay."""
    from relay_app.ledger.stores.base import StoreError

    name = made.key.name
    try:
        click.echo(secret)
    except OSError as error:
        why = error.strerror or type(error).__name__
    else:
        return
    try:
        store.put_key(replace(made, revoked_at=time.time()), instead_of=made)
    except (StoreError, ValueError) as error:
        raise ValueError(
            f"the key could not be printed ({why}), nor revoked ({error}): "
            f"relay-app keys revoke {name}, then choose another name"
        ) from None
    raise ValueError(
        f"the key could not be printed ({why}) and is revoked: choose another name for the next"
    )


def _confirm(question: str) -> None:
    """Aborts unless the answer is yes. Raises ValueError if there is nobody to answer."""
    if sys.stdin is None:
        raise ValueError("standard input is closed: --yes revokes without asking")
    try:
        sure = click.confirm(question, err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        click.echo(err=True)  # the question has no end of its own
        raise ValueError("nobody answers on standard input: --yes revokes without asking") from None
    if not sure:
        raise click.Abort


def _tell(name: str, lines: Sequence[str]) -> None:
    first, *others = lines
    click.echo(f"{name}: {first}")
    for line in others:
        click.echo(f"{' ' * len(name)}  {line}")


def _whose(before: Key) -> str:
    """Which sessions a change is for, of a key that had the limits of ``before``."""
    from relay_app.ledger.periods import is_limited

    if is_limited(before):
        return "for open sessions too"
    return "but not for open sessions, which began without limits: revoking the key ends them"


def _usable(store: "Store", name: str) -> "StoredKey":
    """The stored key called ``name``. Raises ValueError if there is none that opens anything."""
    stored = _stored(store, name)
    if stored is None:
        raise ValueError("the store has no key of that name: relay-app keys list")
    if stored.revoked_at is not None:
        raise ValueError(f"{name} is revoked already")
    return stored


def _change(
    store: "Store", name: str, change: "Callable[[StoredKey], StoredKey]"
) -> tuple["StoredKey", Key]:
    """Keep what ``change`` makes of the key called ``name``, whoever else changes it meanwhile.

    Returns what stood, and the key that stands now. Raises ValueError, as :func:`_usable` does,
    for one that was revoked by then: nothing brings that back.
    """
    from relay_app.ledger.stores.base import KeyChanged

    for _ in range(CHANGE_TRIES):
        stored = _usable(store, name)
        changed = change(stored)
        if changed == stored:
            return stored, stored.key
        with suppress(KeyChanged):
            store.put_key(changed, instead_of=stored)
            return stored, changed.key
    raise ValueError(f"{name} was changed by others all the time; nothing was done: try again")


def _stored(store: "Store", name: str) -> "StoredKey | None":
    found = store.keys()
    return next((stored for stored in found if stored.key.name == name), None)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _counted(key: Key, **counts: int | None) -> Key:
    """``key`` with the limits that are given, where 0 is none."""
    given = _given(**counts)
    none: dict[str, Any] = {name: None for name, count in given.items() if count == 0}
    return replace(key.changed(**{n: c for n, c in given.items() if c}), **none)


def _spent(store: "Store", key: Key) -> str:
    """What the ledger shows of the key in the period of its budget."""
    since, today = None, datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if key.budget_period != "total":
        since = today if key.budget_period == "day" else today.replace(day=1)
    totals = store.totals("key", key=key.name, since=None if since is None else since.timestamp())
    cost = sum((total.cost_usd or Decimal(0) for total in totals), Decimal(0))
    records = sum(total.records for total in totals)
    when = "" if since is None else f" since {since:%Y-%m-%d}"
    return f"used {cost:f} USD{when}, in {records} record{'' if records == 1 else 's'}"
