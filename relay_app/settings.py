"""Settings: what the relay can be told, what each value may be, and what it is by default.

The rule: what a value may be is said once, beside it, for the settings file and for keys that
stand in none; values are frozen, and what may be a secret is in no repr. Nothing is read here.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

__all__ = [
    "SECRET",
    "Audit",
    "Auth",
    "Check",
    "Key",
    "Prices",
    "Server",
    "Settings",
    "SettingsError",
    "Store",
    "Upstream",
]

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


SECRET = _matching(r"[!-~]{8,512}", "8 to 512 printable characters, or env:NAME")
"""What a relay key may be before only its SHA-256 is left."""
_NAME = _matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "1 to 64 letters, digits, dots, - or _")
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
