"""Relays as processes: the same application on each server that can carry it."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from websockets.sync.client import ClientConnection, connect

from support.processes import Process, python, ready_url, running
from support.secrets import KEY, PROVIDER_KEY, left_in

HOSTS = Path(__file__).parent / "hosts"

SETTINGS = """
[server]
{server}

[auth]
mode = "{mode}"
{auth}
{key_table}
[[upstreams]]
name = "up"
dialect = "compatible"
base_url = "{base_url}"
{api_keys}
{upstreams}

[store]
url = "{store}"
{more}
"""


@dataclass
class RelayProcess:
    """A relay that listens, and what a test wants of it."""

    process: Process
    config: Path
    url: str
    key: str = KEY

    @property
    def ws(self) -> str:
        return self.url.replace("http", "ws", 1)

    @property
    def output(self) -> str:
        return self.process.output

    def connect(self, query: str = "model=gpt-realtime", **options) -> ClientConnection:
        """A client of the ``websockets`` package, admitted with the relay's key."""
        options = {
            "additional_headers": {"Authorization": f"Bearer {self.key}"},
            "compression": None,
            "max_size": None,
            **options,
        }
        return connect(f"{self.ws}/v1/realtime?{query}", **options)

    def records(self) -> list[dict]:
        """What the ledger holds, by ``relay-app usage --records --json``."""
        return usage_records(self.config)


def usage_records(config: Path) -> list[dict]:
    command = python("-m", "relay_app.cli", "usage", "--config", config, "--records", "--json")
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60)
    if "no ledger there yet" in done.stderr:
        return []
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def write_settings(folder: Path, base_url: str, **parts: str) -> Path:
    """A settings file for one key and one upstream; ``parts`` are lines of TOML by section:
    ``server``, ``auth``, ``keys``, ``upstreams``, and ``more`` for what follows the ``store``'s
    URL. With another ``mode`` than "keys" there is no key, and with "passthrough" none upstream."""
    empty = dict.fromkeys(("server", "auth", "keys", "upstreams", "more"), "")
    parts = {**empty, "store": "sqlite:///relay.db", "mode": "keys", **parts}
    keys = f'[[keys]]\nname = "tester"\nkey = "{KEY}"\n{parts.pop("keys")}\n'
    config = folder / "relay.toml"
    config.write_text(
        SETTINGS.format(
            base_url=base_url,
            key_table=keys if parts["mode"] == "keys" else "",
            api_keys="" if parts["mode"] == "passthrough" else f'api_keys = ["{PROVIDER_KEY}"]',
            **parts,
        )
    )
    return config


@contextmanager
def relay(
    folder: Path,
    base_url: str,
    *,
    workers: int = 1,
    server: str = "gunicorn",
    limits: str = "",
    **parts: str,
) -> Iterator[RelayProcess]:
    """A relay in front of ``base_url`` on the given server (see ``SERVERS``); ``limits`` are
    the lines of ``[server]`` in its settings."""
    config = write_settings(folder, base_url, server=limits, **parts)
    with running(
        (SERVERS | _OTHERS)[server](config, workers), cwd=folder, env=_env(config)
    ) as process:
        yield RelayProcess(process, config, ready_url(process))
    assert left_in(folder) == []


def _env(config: Path) -> dict[str, str]:
    home = config.parent / "home"
    home.mkdir(exist_ok=True)
    return {"RELAY_CONFIG": str(config), "HOME": str(home), "PYTHONUNBUFFERED": "1"}


def _serve(config: Path, workers: int) -> list[str | Path]:
    options = ["--bind", "127.0.0.1:0", "--workers", str(workers), "--access-log"]
    return python("-m", "relay_app.cli", "serve", "--config", config, *options)


def _host(name: str):
    return lambda config, workers: python(HOSTS / f"{name}.py")


def _gunicorn(
    worker_class: str,
    *options: str,
    program: Sequence[str | Path] = ("-m", "gunicorn"),
    config: str = "python:relay_app.web.gunicorn",
    app: str = "application:create_host()",
):
    def command(_: Path, workers: int) -> list[str | Path]:
        return python(
            *program, "-c", config, "-k", worker_class, "--workers", str(workers),
            "--bind", "127.0.0.1:0", "--access-logfile", "-", "--pythonpath", HOSTS, *options,
            app,
        )  # fmt: skip

    return command


_THREADS_CONFIG = str(HOSTS / "threads.conf.py")

SERVERS = {
    "gunicorn": _serve,
    "flask-run": _host("flask_run"),
    "pywsgi": _host("pywsgi"),
    "pywsgi-patched": _host("pywsgi_patched"),
    "gevent_pywsgi": _gunicorn("gevent_pywsgi"),
    "gthread": _gunicorn("gthread", "--threads", "40", config=_THREADS_CONFIG),
    "geventwebsocket-worker": _gunicorn("relay_app.web.gevent_websocket.Worker"),
    "geventwebsocket-hook": _host("geventwebsocket_hook"),
    "geventwebsocket-stock": _host("geventwebsocket_stock"),
    "sync": _gunicorn("sync", config=_THREADS_CONFIG),
    "wsgiref": _host("wsgiref_server"),
}
"""How to start each server. ``gunicorn`` is the relay alone, by ``relay-app serve``; the others
run the host application of ``hosts/application.py``. The last two cannot carry a session."""

_OTHERS = {
    "short-leases": _gunicorn("gevent", app="short_leases:create()"),
    "large-answers": _gunicorn("relay_app.web.worker.Worker", app="large_answers:create()"),
    "measured-stack": _gunicorn("relay_app.web.worker.Worker", app="measured_stack:create()"),
    "jumping-clock": _gunicorn(
        "gevent", program=(HOSTS / "jumping_clock.py",), app="jumping_clock:create()"
    ),
}
"""The relay alone, with something of it changed."""
