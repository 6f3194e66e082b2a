"""Peers in Python that also meter: ours, LiteLLM's proxy, and one as one would write it first."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click

from bench.load import KEY
from bench.peers.base import Missing, Peer, Running
from bench.processes import Process, file_limit, free_port

__all__ = ["LiteLLM", "Naive", "Relay"]

_ROOT = Path(__file__).parents[2]
_PURE = _ROOT / "bench" / "pure"
_SPARE_SESSIONS = 100
_RELAY_FILES = 512
"""What our relay wants besides two a session, or it does not start."""

_RELAY = """\
[server]
max_sessions = {sessions}
max_session_seconds = 604800  # a soak may be longer than the default
max_messages_per_second = 0  # a closed loop says as much as it is let

[[keys]]
name = "bench"
key = "{key}"

[[upstreams]]
name = "provider"
dialect = "openai"
base_url = "ws://127.0.0.1:{upstream_port}/v1"
api_keys = ["sk-upstream"]

[store]
url = "sqlite:///relay.db"
durability = "{durability}"
"""


class Relay(Peer):
    """relay_app under gunicorn, with its defaults: metering, SQLite, durable before forwarding.
    Only its sessions may last longer, and say more.

    ``pure``: without its compiled parts, as where there was no compiler.
    """

    def __init__(
        self,
        name: str,
        *,
        durability: str = "before-forward",
        workers: int = 1,
        pure: bool = False,
    ) -> None:
        self.name = name
        self._durability = durability
        self._workers = workers
        folders = [_PURE, _ROOT] if pure else [_ROOT]
        self._path = os.pathsep.join(str(folder) for folder in folders)

    def version(self) -> str:
        return version("relay_app")

    def start(self, upstream_port: int, folder: Path, *, cores: set[int], sessions: int) -> Running:
        port = free_port()
        config = folder / "relay.toml"
        config.write_text(
            _RELAY.format(
                # Sessions of the last round may still be ending.
                sessions=min(sessions + _SPARE_SESSIONS, (file_limit() - _RELAY_FILES) // 2),
                key=KEY,
                upstream_port=upstream_port,
                durability=self._durability,
            )
        )
        command = [
            sys.executable, "-m", "relay_app.cli", "serve", "--config", str(config),
            "--bind", f"127.0.0.1:{port}", "--workers", str(self._workers),
        ]  # fmt: skip
        process = Process(command, cores=cores, folder=folder, PYTHONPATH=self._path)
        process.wait_listening(port)
        return Running(f"ws://127.0.0.1:{port}", process, folder)


class Naive(Peer):
    """``naive.py`` under gunicorn with gevent."""

    name = "naive"

    def version(self) -> str:
        return f"flask-sock {version('flask-sock')}, simple-websocket {version('simple-websocket')}"

    def start(self, upstream_port: int, folder: Path, *, cores: set[int], sessions: int) -> Running:
        port = free_port()
        command = [
            sys.executable, "-m", "gunicorn", "-k", "gevent",
            "--bind", f"127.0.0.1:{port}", "--worker-connections", str(sessions + 100),
            "--log-level", "warning", "bench.peers.naive:app",
        ]  # fmt: skip
        process = Process(
            command,
            cores=cores,
            folder=folder,
            PYTHONPATH=str(_ROOT),
            BENCH_UPSTREAM=f"ws://127.0.0.1:{upstream_port}",
            BENCH_KEYS=KEY,
        )
        process.wait_listening(port)
        return Running(f"ws://127.0.0.1:{port}", process, folder)


_LITELLM = """\
model_list:
  - model_name: gpt-realtime
    litellm_params:
      model: openai/gpt-realtime
      api_base: http://127.0.0.1:{upstream_port}/v1
      api_key: sk-upstream
general_settings:
  master_key: {key}
litellm_settings:
  set_verbose: false
"""


class LiteLLM(Peer):
    """LiteLLM's proxy with one worker and no database, in a virtual environment of its own."""

    name = "litellm"

    def version(self) -> str:
        found = next(self._python().parents[1].glob("lib/*/site-packages/litellm-*.dist-info"))
        return found.name.removeprefix("litellm-").removesuffix(".dist-info")

    def start(self, upstream_port: int, folder: Path, *, cores: set[int], sessions: int) -> Running:
        port = free_port()
        config = folder / "litellm.yaml"
        config.write_text(_LITELLM.format(upstream_port=upstream_port, key=_litellm_key()))
        program = str(self._python().with_name("litellm"))
        command = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        env = {
            "LITELLM_LOG": "ERROR",
            "LITELLM_TELEMETRY": "False",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "DISABLE_ADMIN_UI": "True",
        }
        process = Process(command, cores=cores, folder=folder, **env)
        process.wait_listening(port, seconds=180)
        headers = {"Authorization": f"Bearer {_litellm_key()}"}
        return Running(f"ws://127.0.0.1:{port}", process, folder, headers)

    def _python(self) -> Path:
        venv = _ROOT / "bench" / ".venv-litellm"
        python = venv / "bin" / "python"
        install = f"python3 -m venv {venv} && {python} -m pip install 'litellm[proxy]'"
        if (venv / "installed").exists():
            return python
        if os.environ.get("BENCH_NO_INSTALL"):
            raise Missing(install)
        click.echo(
            "installing LiteLLM's proxy into bench/.venv-litellm (a minute or two) …", err=True
        )
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        try:
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=120)
            subprocess.run(
                [*pip, "litellm[proxy]"], check=True, timeout=900
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise Missing(install) from error
        (venv / "installed").touch()
        return python


def _litellm_key() -> str:
    return f"sk-{KEY}"  # it demands this beginning of a master key
