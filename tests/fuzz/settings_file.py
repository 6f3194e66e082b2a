"""A settings file: settings come of it, or one line that says where it is wrong, and no secret.

An input is the file.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from fuzz.target import Target
from relay_app.settings import Settings, SettingsError
from relay_app.settings_file import settings_from_toml
from relay_app.web.preflight import open_configured

__all__ = ["TARGET", "check"]

SECRET = "sk-planted-secret-0123456789"
ENVIRON = {"SET": SECRET, "RELAY_KEY": SECRET, "OPENAI_API_KEY": SECRET + "0"}
SECTIONS = [f.name for f in fields(Settings) if f.name != "source"]
_opened: set[str] = set()
"""URLs of stores that were tried: to look for installed ones takes longer than all else."""
EXAMPLE = Path(__file__).parents[2] / "relay.example.toml"


def check(data: bytes) -> None:
    """Whatever is wrong is a SettingsError of one line that names its place."""
    text = data.decode("utf-8", "replace")
    settings = _read(text, SECTIONS)
    for only in (["store"], ["keys", "prices"], ["upstreams"]):
        part = _read(text, only)
        assert settings is None or part is not None
    if settings is None:
        return
    assert SECRET not in repr(settings)
    assert _read(text, SECTIONS) == settings
    if settings.store.url in _opened:
        return
    try:
        open_configured(settings).close()
    except SettingsError as error:
        _said(error, text)
    _opened.add(settings.store.url)


def _read(text: str, only: list[str]) -> Settings | None:
    base = Path("/nowhere")
    try:
        return settings_from_toml(text, source="f.toml", base=base, environ=ENVIRON, only=only)
    except SettingsError as error:
        _said(error, text)
    return None


def _said(error: SettingsError, text: str) -> None:
    message = str(error)
    assert message.startswith("f.toml: ")
    assert message.isprintable(), message
    assert len(message) < 1_000
    assert SECRET not in message
    where = message.removeprefix("f.toml: ")
    if where.startswith("not TOML: "):
        return
    tomllib.loads(text)
    assert "is not a setting" in where or where.startswith(tuple(SECTIONS)), where


def _seeds() -> Iterator[bytes]:
    example = EXAMPLE.read_text(encoding="utf-8")
    lines = [line.partition(" # ")[0].rstrip() for line in example.splitlines()]
    plain = "\n".join(line for line in lines if line and not line.startswith("#"))
    yield plain.encode()
    uncommented = [re.sub(r"^# (?=[a-z_0-9]+ = )", "", line) for line in example.splitlines()]
    sections = "\n".join(uncommented).split("\n[")
    for section in sections[1:]:
        kept = [line.partition("#")[0].rstrip() for line in section.splitlines()]
        yield ("[" + "\n".join(line for line in kept if line)).encode()
    minimum = (
        '[[keys]]\nname = "a"\nkey = "env:SET"\n[[upstreams]]\nname = "u"\n'
        'base_url = "wss://host/v1"\napi_keys = ["env:SET"]\n'
    )
    for more in ("", "models = {}\n", 'proxy = "http://u:p@h:1"\n', '[store]\nurl = "memory://"\n'):
        yield (minimum + more).encode()
    yield minimum.encode() + b"a = " + b"[" * 1_800
    for url in (
        "sqlite:///x.db",
        "postgresql+psycopg://u:p@h/d?x=1",
        "redis://u:p@h:1/0",
        "a+b://",
    ):
        yield f'{minimum}[store]\nurl = "{url}"\n'.encode()


TARGET = Target(
    check,
    _seeds,
    max_bytes=2_000,
    between=b"\n",
    words=(b"[server]\n", b"[auth]\n", b"[[keys]]\n", b"[[upstreams]]\n", b"[store]\n",
           b"[audit]\n", b"[prices]\n", b'"env:SET"', b'"env:UNSET"', b'"env:"', b" = ", b"true",
           b"[]", b"{}", b"1e309", b"nan", b"1979-05-27", b'"*"', b'"\\u0000"', b'"\\ud800"',
           b"sqlite:///", b"memory://", b"redis://", b"postgresql+psycopg://", b"wss://",
           b'"passthrough"', b'"open"', b'"azure"', b"9" * 30,
           *sorted({line.lstrip("# ").partition(" = ")[0].encode()
                    for line in EXAMPLE.read_text(encoding="utf-8").splitlines()
                    if re.match(r"(# )?[a-z_0-9]+ = ", line)})),
)  # fmt: skip
