"""Settings: frozen values from one TOML file; the only reader of the environment.

The rules:

* a setting that is unknown, missing or out of range stops the start with one line that names
  the file, the key, the value and what would be accepted;
* a setting whose feature has not landed stops it with "not supported yet", so nothing is
  believed to be enforced that is not;
* ``env:NAME`` as a value reads that environment variable;
* paths are relative to the settings file.
"""

import hashlib
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

__all__ = [
    "Audit",
    "Auth",
    "Key",
    "Prices",
    "Server",
    "Settings",
    "SettingsError",
    "Store",
    "Upstream",
]

CONFIG_VARIABLE = "RELAY_CONFIG"

Check = Callable[[Any], Any]
"""Returns the value to use, or raises ValueError saying what would be accepted."""


class SettingsError(ValueError):
    """Settings that cannot be used; the message is one line."""


def _number(low: float, high: float, unit: str) -> Check:
    def check(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"a number of {unit}")
        if not low <= value <= high:
            raise ValueError(f"{low:g} to {high:g} {unit}")
        return value

    return check


def _whole(low: int, high: int, unit: str) -> Check:
    def check(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"a whole number of {unit} from {low} to {high}")
        return value

    return check


def _choice(*values: str) -> Check:
    def check(value: Any) -> Any:
        if value not in values:
            raise ValueError(" or ".join(f'"{v}"' for v in values))
        return value

    return check


def _matching(pattern: str, meaning: str) -> Check:
    def check(value: Any) -> Any:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(meaning)
        return value

    return check


def _flag(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _texts(meaning: str) -> Check:
    def check(value: Any) -> Any:
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            raise ValueError(f"a list of {meaning}")
        return tuple(value)

    return check


def _networks(value: Any) -> Any:
    accepted = 'a list of addresses or networks, like "10.0.0.0/8"'
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ValueError(accepted)
    try:
        return tuple(str(ipaddress.ip_network(v, strict=False)) for v in value)
    except ValueError:
        raise ValueError(accepted) from None


def _base_url(value: Any) -> Any:
    accepted = "a URL like wss://api.openai.com/v1 (ws, wss, http or https; no query, no password)"
    if not isinstance(value, str):
        raise ValueError(accepted)
    try:
        parts = urlsplit(value)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError(accepted) from None
    clean = not (parts.query or parts.fragment or parts.username or parts.password)
    if parts.scheme not in ("ws", "wss", "http", "https") or not parts.hostname or not clean:
        raise ValueError(accepted)
    if not port_is_fine or not re.fullmatch(r"[!-~]+", value):
        raise ValueError(accepted)
    return value.rstrip("/")


def _model_map(value: Any) -> Any:
    accepted = 'a table from the model asked for to the upstream\'s, like {"*" = "*"}'
    if not isinstance(value, dict) or not value:
        raise ValueError(accepted)
    for asked, given in value.items():
        if not isinstance(given, str) or not given or not asked or asked.count("*") > 1:
            raise ValueError(accepted + "; at most one * in each name")
        if given.count("*") > asked.count("*"):
            raise ValueError(accepted + f"; {given!r} has a * that {asked!r} does not fill")
    return dict(value)


def _setting(check: Check, default: Any = MISSING, **options: Any) -> Any:
    if default is MISSING:
        return field(metadata={"check": check}, **options)
    return field(default=default, metadata={"check": check}, **options)


_NAME = _matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "1 to 64 letters, digits, dots, - or _")
_SECRET = _matching(r"[!-~]{8,512}", "8 to 512 printable characters, or env:NAME")
_SHA256 = _matching(r"[0-9a-fA-F]{64}", "the 64 hex digits of the key's SHA-256")
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Server:
    """Limits of one worker. Sizes in bytes, times in seconds."""

    max_message_bytes: int = _setting(_whole(1_024, 1 << 30, "bytes"), 16_777_216)
    max_buffered_bytes: int = _setting(_whole(65_536, 1 << 40, "bytes"), 268_435_456)
    max_session_seconds: float = _setting(_number(1, 7 * _DAY, "seconds"), 3_600)
    idle_seconds: float = _setting(_number(1, 7 * _DAY, "seconds"), 600)
    stall_seconds: float = _setting(_number(1, 3_600, "seconds"), 15)
    ping_seconds: float = _setting(_number(1, 3_600, "seconds"), 20)
    dial_seconds: float = _setting(_number(0.1, 120, "seconds"), 8)
    drain_seconds: float = _setting(_number(0, 3_600, "seconds"), 30)
    drain_announce_seconds: float = _setting(_number(0, 600, "seconds"), 0)
    hold_seconds: float = _setting(_number(0, 60, "seconds"), 1)
    max_sessions: int = _setting(_whole(1, 1_000_000, "sessions"), 5_000)
    forwarded_allow_ips: tuple[str, ...] = _setting(_networks, ("127.0.0.1/32", "::1/128"))


@dataclass(frozen=True, slots=True)
class Auth:
    """Who may connect: holders of a relay key, holders of a provider key, or anybody."""

    mode: Literal["keys", "passthrough", "open"] = _setting(
        _choice("keys", "passthrough", "open"), "keys"
    )


@dataclass(frozen=True, slots=True)
class Key:
    """A relay key, known by its SHA-256 alone once the settings are read."""

    name: str = _setting(_NAME)
    key_sha256: str = _setting(_SHA256, repr=False)
    models: tuple[str, ...] = _setting(_texts("model names, * allowed"), ("*",))


@dataclass(frozen=True, slots=True)
class Upstream:
    """A provider: where it is, which dialect it speaks, which models it is asked for."""

    name: str = _setting(_NAME)
    base_url: str = _setting(_base_url)
    dialect: Literal["openai", "azure", "compatible"] = _setting(
        _choice("openai", "azure", "compatible"), "openai"
    )
    api_keys: tuple[str, ...] = _setting(_texts("keys, or env:NAME"), (), repr=False)
    models: Mapping[str, str] = _setting(_model_map, default_factory=lambda: {"*": "*"})
    priority: int = _setting(_whole(0, 1_000, "steps, 0 first"), 1)
    transcription: bool = _setting(_flag, True)
    api_version: str = _setting(
        _matching(r"\d{4}-\d\d-\d\d(-preview)?", "a date like 2025-04-01-preview"), ""
    )
    price_prefix: str = _setting(
        _matching(r"[!-~]{1,64}", "what goes before its models in the price list, like azure/eu/"),
        "",
    )


@dataclass(frozen=True, slots=True)
class Store:
    """Where usage records go, and whether the end of a unit waits for its record."""

    url: str = _setting(
        _matching(r"[a-z][a-z0-9+.-]*://.*", "a URL like sqlite:///var/relay.db"),
        "sqlite:///var/relay.db",
        repr=False,
    )
    durability: Literal["before-forward", "async"] = _setting(
        _choice("before-forward", "async"), "before-forward"
    )


@dataclass(frozen=True, slots=True)
class Audit:
    """Where a copy of what is said goes, without its audio; nowhere by default."""

    sink: str = _setting(_matching(r"jsonl:.+", "jsonl:PATH"), "")


@dataclass(frozen=True, slots=True)
class Prices:
    """What goes over the built-in price list: a file in its form, none by default."""

    file: str = _setting(_matching(r"[^\0\r\n]+", "the path of a price file"), "")


_LATER: dict[str, tuple[str, ...]] = {
    "keys": ("budget_usd", "max_sessions", "max_tokens_per_minute"),
    "upstreams": ("weight", "ca_file", "proxy"),
    "store": ("retention_days",),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the relay is told. ``source`` is where it was read, for messages."""

    server: Server = field(default_factory=Server)
    auth: Auth = field(default_factory=Auth)
    keys: tuple[Key, ...] = ()
    upstreams: tuple[Upstream, ...] = ()
    store: Store = field(default_factory=Store)
    audit: Audit = field(default_factory=Audit)
    prices: Prices = field(default_factory=Prices)
    source: str = "settings"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """The settings of the file that ``RELAY_CONFIG`` names, ``relay.toml`` by default.

        Raises SettingsError.
        """
        environ = os.environ if environ is None else environ
        return cls.from_file(environ.get(CONFIG_VARIABLE) or "relay.toml", environ)

    @classmethod
    def from_file(cls, path: str | Path, environ: Mapping[str, str] | None = None) -> "Settings":
        """The settings in a TOML file. Raises SettingsError."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise SettingsError(
                f"{path}: cannot be read ({error.strerror}); name a settings file with --config "
                f"or {CONFIG_VARIABLE}, relay.example.toml is one to start from"
            ) from None
        except UnicodeDecodeError:
            raise SettingsError(f"{path}: not UTF-8") from None
        return cls.from_toml(text, source=str(path), base=path.absolute().parent, environ=environ)

    @classmethod
    def from_toml(
        cls,
        text: str,
        *,
        source: str = "settings",
        base: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> "Settings":
        """The settings in TOML text; relative paths are taken from ``base``."""
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{source}: not TOML: {error}") from None
        reader = _Reader(source, os.environ if environ is None else environ)
        return reader.settings(document, base or Path.cwd())


class _Reader:
    """Turns a TOML document into Settings, complaining with the name of the place."""

    def __init__(self, source: str, environ: Mapping[str, str]) -> None:
        self._source = source
        self._environ = environ

    def settings(self, document: dict[str, Any], base: Path) -> Settings:
        sections = ("server", "auth", "keys", "upstreams", "store", "audit", "prices")
        for name in document:
            if name not in sections:
                raise self._error(name, document[name], "one of " + ", ".join(sections))
        audit = dict(self._table(document, "audit"))
        if audit.pop("audio", False) is not False:
            raise SettingsError(f"{self._source}: audit.audio is not supported yet")
        settings = Settings(
            server=self._section(Server, "server", self._table(document, "server")),
            auth=self._section(Auth, "auth", self._table(document, "auth")),
            keys=tuple(
                self._section(Key, f"keys[{i}]", self._hashed(f"keys[{i}]", table))
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
            if name in _LATER.get(place.partition("[")[0], ()):
                raise SettingsError(f"{self._source}: {place}.{name} is not supported yet")
            if name not in known:
                raise self._error(f"{place}.{name}", value, "one of " + ", ".join(known))
            value = self._from_environment(f"{place}.{name}", value)
            try:
                values[name] = known[name].metadata["check"](value)
            except ValueError as error:
                raise self._error(f"{place}.{name}", value, str(error)) from None
        for name, setting in known.items():
            needed = setting.default is MISSING and setting.default_factory is MISSING
            if needed and name not in values:
                raise SettingsError(f"{self._source}: {place}.{name} is missing")
        return kind(**values)

    def _hashed(self, place: str, table: dict[str, Any]) -> dict[str, Any]:
        if ("key" in table) == ("key_sha256" in table):
            raise SettingsError(f"{self._source}: {place} needs either key or key_sha256")
        table = dict(table)
        if "key" in table:
            key = self._from_environment(f"{place}.key", table.pop("key"))
            try:
                table["key_sha256"] = hashlib.sha256(_SECRET(key).encode()).hexdigest()
            except ValueError as error:
                raise self._error(f"{place}.key", key, str(error)) from None
        return table

    def _from_environment(self, place: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self._from_environment(f"{place}[{i}]", v) for i, v in enumerate(value)]
        if not isinstance(value, str) or not value.startswith("env:"):
            return value
        name = value[4:]
        if not self._environ.get(name):
            raise SettingsError(f"{self._source}: {place} = {value!r}: that variable is not set")
        return self._environ[name]

    def _check_together(self, settings: Settings) -> None:
        source = self._source
        for kind in ("keys", "upstreams"):
            names = [entry.name for entry in getattr(settings, kind)]
            for name in names:
                if names.count(name) > 1:
                    raise SettingsError(f"{source}: {kind}: the name {name!r} is used twice")
        if not settings.upstreams:
            raise SettingsError(f"{source}: upstreams: at least one [[upstreams]] is needed")
        if settings.auth.mode == "keys" and not settings.keys:
            raise SettingsError(f'{source}: keys: auth.mode "keys" needs at least one [[keys]]')
        if settings.server.max_message_bytes > settings.server.max_buffered_bytes:
            raise SettingsError(
                f"{source}: server.max_message_bytes is more than server.max_buffered_bytes"
            )
        for index, upstream in enumerate(settings.upstreams):
            place = f"{source}: upstreams[{index}]"
            if len(upstream.api_keys) > 1:
                raise SettingsError(f"{place}.api_keys: more than one key is not supported yet")
            if settings.auth.mode != "passthrough" and not upstream.api_keys:
                raise SettingsError(f"{place}.api_keys is missing")
            if not all(re.fullmatch(r"[!-~]+", key) for key in upstream.api_keys):
                raise SettingsError(f"{place}.api_keys: a key has characters no header can carry")
            if upstream.api_version and upstream.dialect != "azure":
                raise SettingsError(f'{place}.api_version is for dialect "azure" only')

    def _error(self, place: str, value: Any, accepted: str) -> SettingsError:
        secret = re.search(r"key|url", place.rpartition(".")[2])
        shown = "(hidden)" if secret and isinstance(value, str) else _short(value)
        return SettingsError(f"{self._source}: {place} = {shown}: expected {accepted}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _with_paths_from(settings: Settings, base: Path) -> Settings:
    store = settings.store
    scheme, _, path = store.url.partition(":///")
    if scheme.partition("+")[0] == "sqlite" and path and not path.startswith(("/", ":memory:")):
        store = replace(store, url=f"{scheme}:///{base / path}")
    audit = settings.audit
    if audit.sink:
        audit = replace(audit, sink=f"jsonl:{base / audit.sink.removeprefix('jsonl:')}")
    prices = settings.prices
    if prices.file:
        prices = replace(prices, file=str(base / prices.file))
    return replace(settings, store=store, audit=audit, prices=prices)
