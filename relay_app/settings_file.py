"""Settings file: Settings from one TOML file; the only reader of the environment.

The rules:

* a setting that is unknown, missing or out of range stops the start with one line that names
  the file, the key, the value and what would be accepted;
* a setting whose feature has not landed stops it with "not supported yet", so nothing is
  believed to be enforced that is not;
* no message repeats what may be a secret: text is shown only where it cannot be one, and a
  value from the environment never;
* ``env:NAME`` as a value reads that environment variable;
* paths are relative to the settings file.
"""

import hashlib
import os
import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from relay_app import snapshot
from relay_app.settings import (
    SECRET,
    Audit,
    Auth,
    Check,
    Key,
    Prices,
    Server,
    Settings,
    SettingsError,
    Store,
    Upstream,
)

__all__ = [
    "CONFIG_VARIABLE",
    "settings_from_environment",
    "settings_from_file",
    "settings_from_toml",
]

CONFIG_VARIABLE = "RELAY_CONFIG"
MAX_FILE_BYTES = 1 << 20
"""Room for thousands of keys; beyond it the path is some other file's."""
_SECTIONS = ("server", "auth", "keys", "upstreams", "store", "audit", "prices")
_UNSET_SHA256 = "0" * 64
"""Stands for the digest of a key whose variable is not set, where nobody asks for it."""


def settings_from_environment(
    environ: Mapping[str, str] | None = None, *, only: Collection[str] = _SECTIONS
) -> Settings:
    """The settings of the file that ``RELAY_CONFIG`` names, ``relay.toml`` by default.

    ``only`` as in :func:`settings_from_toml`. Raises SettingsError.
    """
    environ = os.environ if environ is None else environ
    return settings_from_file(environ.get(CONFIG_VARIABLE) or "relay.toml", environ, only=only)


def settings_from_file(
    path: str | Path, environ: Mapping[str, str] | None = None, *, only: Collection[str] = _SECTIONS
) -> Settings:
    """The settings in a TOML file.

    ``only`` as in :func:`settings_from_toml`. Raises SettingsError.
    """
    path = Path(path)
    try:
        content = snapshot.read(path, MAX_FILE_BYTES)
        if len(content) > MAX_FILE_BYTES:
            raise SettingsError(f"{path}: more than {MAX_FILE_BYTES} bytes: no settings file")
        # A byte order mark is what some editors put in front.
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}); name a settings file with --config "
            f"or {CONFIG_VARIABLE}, relay.example.toml is one to start from"
        ) from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: not UTF-8") from None
    base = path.absolute().parent
    return settings_from_toml(text, source=str(path), base=base, environ=environ, only=only)


def settings_from_toml(
    text: str,
    *,
    source: str = "settings",
    base: Path | None = None,
    environ: Mapping[str, str] | None = None,
    only: Collection[str] = _SECTIONS,
) -> Settings:
    """The settings in TOML text; relative paths are taken from ``base``.

    Of a file that is not to be served, a command reads ``only`` the sections it uses: what is in
    the others may need variables that are set for the relay alone. So may the secrets of ``keys``,
    which are then not read either. Raises SettingsError.
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Besides its own errors tomllib lets through those of numbers too long for Python.
        raise SettingsError(f"{source}: not TOML: {error}") from None
    reader = _Reader(source, os.environ if environ is None else environ, only)
    return reader.settings(document, base or Path.cwd())


class _Reader:
    """Turns a TOML document into Settings, complaining with the name of the place."""

    def __init__(self, source: str, environ: Mapping[str, str], only: Collection[str]) -> None:
        self._source = source
        self._environ = environ
        self._only = only
        self._all = set(only) == set(_SECTIONS)

    def settings(self, document: dict[str, Any], base: Path) -> Settings:
        for name in document:
            if name not in _SECTIONS:
                raise self._unknown(name, _SECTIONS)
        document = {name: value for name, value in document.items() if name in self._only}
        audit = dict(self._table(document, "audit"))
        if audit.pop("audio", False) is not False:
            raise SettingsError(f"{self._source}: audit.audio is not supported yet")
        settings = Settings(
            server=self._section(Server, "server", self._table(document, "server")),
            auth=self._section(Auth, "auth", self._table(document, "auth")),
            keys=tuple(
                self._key(f"keys[{i}]", table)
                for i, table in enumerate(self._tables(document, "keys"))
            ),
            upstreams=tuple(
                self._section(Upstream, f"upstreams[{i}]", table)
                for i, table in enumerate(self._tables(document, "upstreams"))
            ),
            store=self._section(Store, "store", self._table(document, "store")),
            audit=self._section(Audit, "audit", audit),
            prices=self._section(Prices, "prices", self._table(document, "prices")),
            source=self._source,
        )
        self._check_together(settings)
        return _with_paths_from(settings, base)

    def _table(self, document: dict[str, Any], name: str) -> dict[str, Any]:
        table = document.get(name, {})
        if not isinstance(table, dict):
            raise self._error(name, table, f"a table, [{name}]")
        return table

    def _tables(self, document: dict[str, Any], name: str) -> list[dict[str, Any]]:
        tables = document.get(name, [])
        if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
            raise self._error(name, tables, f"a list of tables, [[{name}]]")
        return tables

    def _section(self, kind: Any, place: str, table: dict[str, Any]) -> Any:
        known = {f.name: f for f in fields(kind)}
        values = {}
        for name, value in table.items():
            if name not in known:
                raise self._unknown(f"{place}.{name}", [*known, *(["key"] if kind is Key else [])])
            values[name] = self._checked(f"{place}.{name}", value, known[name].metadata["check"])
        for name, setting in known.items():
            needed = setting.default is MISSING and setting.default_factory is MISSING
            if needed and name not in values:
                raise SettingsError(f"{self._source}: {place}.{name} is missing")
        return kind(**values)

    def _key(self, place: str, table: dict[str, Any]) -> Key:
        key: Key = self._section(Key, place, self._hashed(place, table))
        if "budget_period" in table and key.budget_usd is None:
            raise SettingsError(
                f"{self._source}: {place}.budget_period is of a budget: give it budget_usd too"
            )
        return key

    def _checked(self, place: str, value: Any, check: Check) -> Any:
        read = self._from_environment(place, value)
        try:
            return check(read)
        except ValueError as error:
            accepted = str(error)
        if isinstance(value, str) and read is not value and (number := _literal(read)) is not None:
            try:
                return check(number)  # the environment knows text alone
            except ValueError:
                pass
        raise self._error(place, value, accepted)

    def _hashed(self, place: str, table: dict[str, Any]) -> dict[str, Any]:
        if ("key" in table) == ("key_sha256" in table):
            raise SettingsError(f"{self._source}: {place} needs either key or key_sha256")
        table = dict(table)
        if not self._all:
            table.pop("key", None)
            table["key_sha256"] = _UNSET_SHA256
        elif "key" in table:
            key = self._checked(f"{place}.key", table.pop("key"), SECRET)
            table["key_sha256"] = hashlib.sha256(key.encode()).hexdigest()
        return table

    def _from_environment(self, place: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self._from_environment(f"{place}[{i}]", v) for i, v in enumerate(value)]
        if not isinstance(value, str) or not value.startswith("env:"):
            return value
        name = value[4:]
        if not self._environ.get(name):
            raise SettingsError(
                f"{self._source}: {place} = {_short(value)}: that variable is not set"
            )
        return self._environ[name]

    def _check_together(self, settings: Settings) -> None:
        source = self._source
        for kind in ("keys", "upstreams"):
            names = Counter(entry.name for entry in getattr(settings, kind))
            for name, times in names.items():
                if times > 1:
                    raise SettingsError(f"{source}: {kind}: the name {name!r} is used twice")
        if not self._all:
            return
        first: dict[str, int] = {}
        for index, key in enumerate(settings.keys):
            seen = first.setdefault(key.key_sha256.lower(), index)
            if seen != index:
                raise SettingsError(f"{source}: keys[{index}] is the same key as keys[{seen}]")
        if not settings.upstreams:
            raise SettingsError(f"{source}: upstreams: at least one [[upstreams]] is needed")
        forgetful = settings.store.url.startswith("memory:")
        if settings.auth.mode == "keys" and not settings.keys and forgetful:
            # Any other store may have keys, or get some while we run.
            raise SettingsError(f'{source}: keys: auth.mode "keys" needs at least one [[keys]]')
        if settings.auth.mode != "keys" and settings.keys:
            raise SettingsError(
                f'{source}: keys: with auth.mode "{settings.auth.mode}" nobody is asked for one; '
                f'remove them, or set auth.mode to "keys"'
            )
        if settings.server.max_message_bytes > settings.server.max_buffered_bytes:
            raise SettingsError(
                f"{source}: server.max_message_bytes = {settings.server.max_message_bytes}: "
                f"expected at most server.max_buffered_bytes, {settings.server.max_buffered_bytes}"
            )
        for index, upstream in enumerate(settings.upstreams):
            place = f"{source}: upstreams[{index}]"
            if len(set(upstream.api_keys)) < len(upstream.api_keys):
                raise SettingsError(f"{place}.api_keys: the same key is there twice")
            if settings.auth.mode != "passthrough" and not upstream.api_keys:
                raise SettingsError(f"{place}.api_keys is missing")
            if settings.auth.mode == "passthrough" and upstream.api_keys:
                raise SettingsError(
                    f'{place}.api_keys: with auth.mode "passthrough" clients bring their own; '
                    "remove it"
                )
            if not all(re.fullmatch(r"[!-~]+", key) for key in upstream.api_keys):
                raise SettingsError(f"{place}.api_keys: a key has characters no header can carry")
            if upstream.api_version and upstream.dialect != "azure":
                raise SettingsError(f'{place}.api_version is for dialect "azure" only')
            if upstream.ca_file and not upstream.tls:
                raise SettingsError(f"{place}.ca_file is for a base_url of wss or https only")

    def _error(self, place: str, value: Any, accepted: str) -> SettingsError:
        return SettingsError(
            f"{self._source}: {place} = {_shown(place, value)}: expected {accepted}"
        )

    def _unknown(self, place: str, known: Iterable[str]) -> SettingsError:
        # Without its value: a misspelt name does not tell whether that is a secret.
        return SettingsError(
            f"{self._source}: {_short(place)[1:-1]} is not a setting: "
            f"expected one of {', '.join(known)}"
        )


def _shown(place: str, value: Any) -> str:
    """``value`` for a message, unless it may have a secret in it."""
    if isinstance(value, dict):
        return "a table"
    secret = re.search(r"key|url|proxy", place.rpartition(".")[2])
    if isinstance(value, list):
        return "(hidden)" if secret or _has_tables(value) else _short(value)
    if isinstance(value, str) and value.startswith("env:"):
        return _short(value)
    return "(hidden)" if secret and not isinstance(value, bool) else _short(value)


def _has_tables(value: list[Any]) -> bool:
    return any(isinstance(v, dict | list) for v in value)


def _literal(text: str) -> bool | int | float | None:
    """The number or flag that ``text`` from the environment stands for."""
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"-?\d{1,18}", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?\d{1,18}\.\d{1,18}", text) else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _with_paths_from(settings: Settings, base: Path) -> Settings:
    store = settings.store
    scheme, _, path = store.url.partition(":///")
    if scheme.partition("+")[0] == "sqlite" and path and not path.startswith(("/", ":memory:")):
        store = replace(store, url=f"{scheme}:///{base / path}")
    store = replace(store, journal=str(base / store.journal))
    audit = settings.audit
    if audit.sink:
        audit = replace(audit, sink=f"jsonl:{base / audit.sink.removeprefix('jsonl:')}")
    prices = settings.prices
    if prices.file:
        prices = replace(prices, file=str(base / prices.file))
    upstreams = tuple(
        replace(upstream, ca_file=str(base / upstream.ca_file)) if upstream.ca_file else upstream
        for upstream in settings.upstreams
    )
    return replace(settings, store=store, audit=audit, prices=prices, upstreams=upstreams)
