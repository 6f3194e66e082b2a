"""One command to try it: a relay with a throw-away key, and the lines to paste.

The rule: what it starts is what one would run, ``relay-app serve`` and ``relay-app simulate``,
as processes of their own; when one of them ends, or a signal comes, all end.
"""

import hashlib
import os
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["run"]

MODEL = "gpt-realtime"
STOP_SECONDS = 45

_SETTINGS = """\
# Written by relay-app quickstart, anew at each start.
[auth]
mode = "keys"

[[keys]]
name = "quickstart"
key_sha256 = "{digest}"

[[upstreams]]
name = "{name}"
dialect = "{dialect}"
base_url = "{base_url}"
api_keys = ["{api_key}"]

[store]
url = "sqlite:///relay.db"
"""

_LINES = """
relay_app relays {http} to {upstream}.
Throw-away key: {key}

With wscat (type a line of JSON, such as the one below it):
  npx --yes wscat -c '{ws}/realtime?model={model}' -H 'Authorization: Bearer {key}'
  {{"type":"response.create","response":{{"output_modalities":["text"]}}}}

With curl (the upgrade, then the first event):
  curl -isN --max-time 2 -H 'Authorization: Bearer {key}' -H 'Connection: Upgrade' \
-H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \
-H 'Sec-WebSocket-Key: {nonce}' '{http}/realtime?model={model}' --output -

With the openai client ({python} -m pip install 'openai[realtime]'):
  {python} -c "from openai import OpenAI; \
c = OpenAI(api_key='{key}', websocket_base_url='{ws}').realtime.connect(model='{model}').enter(); \
c.conversation.item.create(item={{'type': 'message', 'role': 'user', \
'content': [{{'type': 'input_text', 'text': 'Say hello.'}}]}}); \
c.response.create(response={{'output_modalities': ['text']}}); \
print(next(e.text for e in c if e.type == 'response.output_text.done')); c.close()"

What it used:
  {relay_app} usage --config {config} --by session

Stop with Ctrl-C.
"""


def run(bind: str, folder: Path) -> int:
    """Runs until a signal comes; the exit status. Raises ValueError for a bind that cannot be."""
    _check_free(bind)
    key = f"rk-{secrets.token_urlsafe(24)}"
    config = folder / "relay.toml"
    processes: list[subprocess.Popen[str]] = []
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if os.environ.get("OPENAI_API_KEY"):
            upstream = {"name": "openai", "dialect": "openai", "api_key": "env:OPENAI_API_KEY",
                        "base_url": "wss://api.openai.com/v1"}  # fmt: skip
        else:
            simulator = _start(processes, "simulate", "--bind", "127.0.0.1:0")
            upstream = {"name": "simulator", "dialect": "compatible", "api_key": "sk-simulator",
                        "base_url": _ready(simulator).replace("http", "ws", 1) + "/v1"}  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(key.encode()).hexdigest()
        config.write_text(_SETTINGS.format(digest=digest, **upstream), encoding="utf-8")
        relay = _start(processes, "serve", "--bind", bind, "--config", str(config))
        ready = _ready(relay)
        http = f"{ready}/v1"
        print(
            _LINES.format(
                http=http,
                ws=http.replace("http", "ws", 1),
                upstream="OpenAI" if upstream["name"] == "openai" else "its simulator",
                key=key,
                model=MODEL,
                nonce="cmVhbHRpbWUgcmVsYXkuLg==",
                python=_shown(sys.executable),
                relay_app=_shown(sys.argv[0]),
                config=config,
            ),
            flush=True,
        )
        return relay.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(processes)


def _shown(path: str) -> str:
    """``path`` as one would type it here."""
    try:
        return str(Path(path).absolute().relative_to(Path.cwd()))
    except ValueError:
        return path


def _check_free(bind: str) -> None:
    host, _, port = bind.rpartition(":")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "expected HOST:PORT"
        raise ValueError(f"cannot listen on {bind}: {why}; choose another with --bind") from None


def _start(processes: list[subprocess.Popen[str]], *arguments: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-m", "relay_app.cli", *arguments], stdout=subprocess.PIPE, text=True
    )
    processes.append(process)
    return process


def _ready(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready "):
            return line.removeprefix("ready ").strip()
    raise ValueError("it did not start; the reason is above")


def _stop(processes: list[subprocess.Popen[str]]) -> None:
    # The relay first: it may still be collecting what the simulator reports.
    for process in reversed(processes):
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt
