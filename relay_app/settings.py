"""Settings: frozen values from one TOML file; the only reader of the environment.

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
import ipaddress
import os
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from relay_app import snapshot

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
MAX_FILE_BYTES = 1 << 20
"""Room for thousands of keys; beyond it the path is some other file's."""

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


def _patterns(value: Any) -> Any:
    accepted = "a list of model names, each with at most one *"
    if not isinstance(value, list) or not all(_is_model(v) and v.count("*") <= 1 for v in value):
        raise ValueError(accepted)
    return tuple(value)


def _is_model(name: Any) -> bool:
    return isinstance(name, str) and 0 < len(name) <= 256 and name.isprintable()


def _money(value: Any) -> Any:
    accepted = 'an amount in USD, like "5.00", of at most 6 decimals'
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(accepted)  # a float has no decimals of its own
    if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", str(value)):
        raise ValueError(accepted)
    return Decimal(value)


def _networks(value: Any) -> Any:
    accepted = 'a list of addresses or networks, like "10.0.0.0/8"'
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ValueError(accepted)
    try:
        return tuple(str(ipaddress.ip_network(v, strict=False)) for v in value)
    except ValueError:
        raise ValueError(accepted) from None


def _origins(value: Any) -> Any:
    accepted = 'a list of origins, like "https://app.example.com", "https://*.example.com" or "*"'
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ValueError(accepted)
    if not all(v in ("*", "null") or re.fullmatch(_ORIGIN, v, re.IGNORECASE) for v in value):
        raise ValueError(accepted)
    return tuple(v.lower() for v in value)


_ORIGIN = r"[a-z][a-z0-9+.-]*://(\*\.)?(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(:[0-9]{1,5})?"


def _split(value: Any, accepted: str) -> tuple[SplitResult, bool]:
    """The parts of a URL, and whether its port is one. Raises ValueError for what is none."""
    if not isinstance(value, str):
        raise ValueError(accepted)
    try:
        parts = urlsplit(value)
        return parts, parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError(accepted) from None


def _base_url(value: Any) -> Any:
    accepted = "a URL like wss://api.openai.com/v1 (ws, wss, http or https; no query, no password)"
    parts, port_is_fine = _split(value, accepted)
    clean = not (parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in ("ws", "wss", "http", "https") or not parts.hostname or not clean:
        raise ValueError(accepted)
    if not (port_is_fine and _is_host(parts.hostname) and re.fullmatch(r"[!-~]+", value)):
        raise ValueError(accepted)
    return value.rstrip("/")


def _proxy_url(value: Any) -> Any:
    accepted = "a URL like http://user:password@host:3128 (http alone; no path, no query)"
    parts, port_is_fine = _split(value, accepted)
    clean = not (parts.path.strip("/") or parts.query or parts.fragment)
    if parts.scheme != "http" or not parts.hostname or not clean:
        raise ValueError(accepted)
    if not (port_is_fine and _is_host(parts.hostname) and re.fullmatch(r"[!-~]+", value)):
        raise ValueError(accepted)
    return value


def _is_host(name: str) -> bool:
    if ":" not in name:
        # What DNS and TLS can carry; underscores are common among containers.
        return bool(re.fullmatch(r"([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}", name))
    try:
        return ipaddress.ip_address(name).version == 6
    except ValueError:
        return False


def _model_map(value: Any) -> Any:
    accepted = 'a table from the model asked for to the upstream\'s, like {"*" = "*"}'
    if not isinstance(value, dict) or not value:
        raise ValueError(accepted)
    for asked, given in value.items():
        if not _is_model(asked) or not _is_model(given):
            raise ValueError(accepted + "; names are 1 to 256 printable characters")
        if asked.count("*") > 1:
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
    """Limits of one worker. Sizes in bytes, times in seconds.

    ``max_requests_per_minute`` are those of one client's address, ``max_messages_per_second``
    those of one session's client, on average over a minute; 0 is no limit.
    """

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
    handshake_seconds: float = _setting(_number(0.1, 600, "seconds"), 10)
    max_requests_per_minute: int = _setting(_whole(0, 10**9, "requests"), 0)
    max_messages_per_second: int = _setting(_whole(0, 10**9, "messages"), 1_000)
    forwarded_allow_ips: tuple[str, ...] = _setting(_networks, ("127.0.0.1/32", "::1/128"))


@dataclass(frozen=True, slots=True)
class Auth:
    """Who may connect: holders of a relay key, holders of a provider key, or anybody.

    ``allowed_origins`` are the web pages from which; None is all, but for mode "open", which
    then allows pages of this machine alone.
    """

    mode: Literal["keys", "passthrough", "open"] = _setting(
        _choice("keys", "passthrough", "open"), "keys"
    )
    allowed_origins: tuple[str, ...] | None = _setting(_origins, None)


@dataclass(frozen=True, slots=True)
class Key:
    """A relay key, known by its SHA-256 alone once the settings are read.

    ``budget_usd`` is what its sessions may cost together in a UTC ``budget_period``; None is no
    limit, here as below.
    """

    name: str = _setting(_NAME)
    key_sha256: str = _setting(_SHA256, repr=False)
    models: tuple[str, ...] = _setting(_patterns, ("*",))
    budget_usd: Decimal | None = _setting(_money, None)
    budget_period: Literal["day", "month", "total"] = _setting(
        _choice("day", "month", "total"), "total"
    )
    max_sessions: int | None = _setting(_whole(1, 1_000_000, "sessions"), None)
    max_tokens_per_minute: int | None = _setting(_whole(1, 10**12, "tokens"), None)

    @classmethod
    def checked(cls, **values: Any) -> "Key":
        """The key of ``values`` that stand in no file, held to the same rules.

        Raises SettingsError, which repeats no value: a secret is pasted in the wrong place soon.
        """
        return cls(**_checked(cls, values))

    def changed(self, **values: Any) -> "Key":
        """This key with other ``values``, as in :meth:`checked`."""
        return replace(self, **_checked(Key, values))


def _checked(kind: type[Key], values: dict[str, Any]) -> dict[str, Any]:
    for setting in fields(kind):
        if setting.name in values:
            try:
                values[setting.name] = setting.metadata["check"](values[setting.name])
            except ValueError as error:
                raise SettingsError(f"{setting.name}: expected {error}") from None
    return values


@dataclass(frozen=True, slots=True)
class Upstream:
    """A provider: where it is, which dialect it speaks, which models it is asked for.

    Of those that have a model the lowest ``priority`` is asked first, and of several of it each
    as often as its ``weight`` says. ``ca_file`` holds certificates to trust besides the system's.
    """

    name: str = _setting(_NAME)
    base_url: str = _setting(_base_url)
    dialect: Literal["openai", "azure", "compatible"] = _setting(
        _choice("openai", "azure", "compatible"), "openai"
    )
    api_keys: tuple[str, ...] = _setting(_texts("keys, or env:NAME"), (), repr=False)
    models: Mapping[str, str] = _setting(_model_map, default_factory=lambda: {"*": "*"})
    priority: int = _setting(_whole(0, 1_000, "steps, 0 first"), 1)
    weight: int = _setting(_whole(1, 1_000, "shares"), 1)
    transcription: bool = _setting(_flag, True)
    hide_rate_limits: bool = _setting(_flag, False)
    api_version: str = _setting(
        _matching(r"\d{4}-\d\d-\d\d(-preview)?", "a date like 2025-04-01-preview"), ""
    )
    price_prefix: str = _setting(
        _matching(r"[!-~]{1,64}", "what goes before its models in the price list, like azure/eu/"),
        "",
    )
    ca_file: str = _setting(_matching(r"[^\0\r\n]+", "the path of a PEM file of certificates"), "")
    proxy: str = _setting(_proxy_url, "", repr=False)

    @property
    def tls(self) -> bool:
        """Whether it is spoken to over TLS."""
        return urlsplit(self.base_url).scheme in ("wss", "https")


@dataclass(frozen=True, slots=True)
class Store:
    """Where usage records go, and whether the end of a unit waits for its record.

    ``journal`` is the folder where records are kept, by each worker at most
    ``journal_max_bytes``, until a store that is not on this host has them. Records that ended
    more than ``retention_days`` UTC days before today are forgotten; None keeps all.
    """

    url: str = _setting(
        _matching(r"[a-z][a-z0-9+.-]*://.*", "a URL like sqlite:///var/relay.db"),
        "sqlite:///var/relay.db",
        repr=False,
    )
    durability: Literal["before-forward", "async"] = _setting(
        _choice("before-forward", "async"), "before-forward"
    )
    journal: str = _setting(_matching(r".+", "a folder on a local disk"), "var/journal")
    journal_max_bytes: int = _setting(_whole(1 << 20, 1 << 40, "bytes"), 1 << 30)
    retention_days: int | None = _setting(_whole(1, 36_500, "days"), None)


@dataclass(frozen=True, slots=True)
class Audit:
    """Where a copy of what is said goes, without its audio; nowhere by default."""

    sink: str = _setting(_matching(r"jsonl:.+", "jsonl:PATH"), "")


@dataclass(frozen=True, slots=True)
class Prices:
    """What goes over the built-in price list: a file in its form, none by default."""

    file: str = _setting(_matching(r"[^\0\r\n]+", "the path of a price file"), "")


_SECTIONS = ("server", "auth", "keys", "upstreams", "store", "audit", "prices")
_UNSET_SHA256 = "0" * 64
"""Stands for the digest of a key whose variable is not set, where nobody asks for it."""


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
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, *, only: Collection[str] = _SECTIONS
    ) -> "Settings":
        """The settings of the file that ``RELAY_CONFIG`` names, ``relay.toml`` by default.

        ``only`` as in :meth:`from_toml`. Raises SettingsError.
        """
        environ = os.environ if environ is None else environ
        return cls.from_file(environ.get(CONFIG_VARIABLE) or "relay.toml", environ, only=only)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        environ: Mapping[str, str] | None = None,
        *,
        only: Collection[str] = _SECTIONS,
    ) -> "Settings":
        """The settings in a TOML file. ``only`` as in :meth:`from_toml`. Raises SettingsError."""
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
        return cls.from_toml(text, source=str(path), base=base, environ=environ, only=only)

    @classmethod
    def from_toml(
        cls,
        text: str,
        *,
        source: str = "settings",
        base: Path | None = None,
        environ: Mapping[str, str] | None = None,
        only: Collection[str] = _SECTIONS,
    ) -> "Settings":
        """The settings in TOML text; relative paths are taken from ``base``.

        Of a file that is not to be served, a command reads ``only`` the sections it uses: what
        is in the others may need variables that are set for the relay alone. So may the secrets
        of ``keys``, which are then not read either.
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
            key = self._checked(f"{place}.key", table.pop("key"), _SECRET)
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
