"""One command to try it: a relay with a throw-away key, and the lines to paste.

The rule: what it starts is what one would run, ``relay-app serve`` and ``relay-app simulate``,
as processes of their own; when one of them ends, or a signal comes, all end, and a second signal
makes it quick.
"""

import hashlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from relay_app.web.preflight import check_free

__all__ = ["run"]

MODEL = "gpt-realtime"
STOP_SECONDS = 45

_SETTINGS = """\
# Written by relay-app quickstart, anew at each start.
[server]
max_sessions = 100

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
  {relay_app} usage --config {config} --by model

Stop with Ctrl-C.
"""


def run(bind: str, folder: Path) -> int:
    """Runs until a signal comes; the exit status.

    Raises ValueError for a bind or a folder that cannot be, and when something does not start.
    """
    check_free(bind)
    processes: list[subprocess.Popen[str]] = []
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        upstream = _openai() if os.environ.get("OPENAI_API_KEY") else _simulator(processes)
        key = f"rk-{secrets.token_urlsafe(24)}"
        config = _written(folder, key, upstream)
        relay = _start(processes, "serve", "--bind", bind, "--config", str(config))
        print(_lines(_ready(relay), key, config, upstream["name"]), flush=True)
        # Whichever ends first; it is left to be waited for by those who started it.
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        return relay.poll() or 1
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(processes)


def _openai() -> dict[str, str]:
    return {
        "name": "openai",
        "dialect": "openai",
        "api_key": "env:OPENAI_API_KEY",
        "base_url": "wss://api.openai.com/v1",
    }


def _simulator(processes: list["subprocess.Popen[str]"]) -> dict[str, str]:
    url = _ready(_start(processes, "simulate", "--bind", "127.0.0.1:0"))
    return {
        "name": "simulator",
        "dialect": "compatible",
        "api_key": "sk-simulator",
        "base_url": url.replace("http", "ws", 1) + "/v1",
    }


def _written(folder: Path, key: str, upstream: dict[str, str]) -> Path:
    config = folder / "relay.toml"
    digest = hashlib.sha256(key.encode()).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        config.write_text(_SETTINGS.format(digest=digest, **upstream), encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"cannot write {config}: {error.strerror}; choose another folder with --folder"
        ) from None
    return config


def _lines(url: str, key: str, config: Path, upstream: str) -> str:
    python = shlex.quote(_shown(Path(sys.executable)))
    beside = Path(sys.executable).with_name("relay-app")
    relay_app = f"{python} -m relay_app.cli"
    if shutil.which("relay-app"):  # only in an environment that is activated
        relay_app = "relay-app"
    elif beside.is_file():
        relay_app = shlex.quote(_shown(beside))
    return _LINES.format(
        http=f"{url}/v1",
        ws=f"{url.replace('http', 'ws', 1)}/v1",
        upstream="OpenAI" if upstream == "openai" else "its simulator",
        key=key,
        model=MODEL,
        nonce="cmVhbHRpbWUgcmVsYXkuLg==",
        python=python,
        relay_app=relay_app,
        config=shlex.quote(str(config)),
    )


def _shown(program: Path) -> str:
    """As one would type it here."""
    here = Path.cwd()
    return str(program.relative_to(here) if program.is_relative_to(here) else program)


def _start(processes: list["subprocess.Popen[str]"], *arguments: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-m", "relay_app.cli", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        # Ctrl-C is for us: the relay is to drain, and its workers are to end with it.
        start_new_session=True,
    )
    processes.append(process)
    return process


def _ready(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready "):
            return line.removeprefix("ready ").strip()
    raise ValueError("it did not start; the reason is above")


def _stop(processes: list["subprocess.Popen[str]"]) -> None:
    # The relay first: it may still be collecting what the simulator reports.
    try:
        for process in reversed(processes):
            process.terminate()
            process.wait(STOP_SECONDS)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        pass  # asked twice, or it hangs: no more waiting
    finally:
        for process in processes:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # all of it has ended
            process.wait()


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt
