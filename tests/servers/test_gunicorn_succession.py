"""One worker takes the place of another, also when what it is made of is broken on the disk."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from support.clients import Peer, Provider, knock, provider
from support.processes import Process, python, ready_url
from support.relays import RelayProcess, write_settings
from support.workers import all_workers, files

ROOT = Path(__file__).parents[2]
SERVE = ("relay_app.cli", "serve")
GUNICORN = ("gunicorn", "-c", "gunicorn.conf.py", "wsgi:app")


@pytest.fixture
def upstream() -> Iterator[Provider]:
    with provider() as listening:
        yield listening


@contextmanager
def started(config: Path, *command: str, workers: int = 2) -> Iterator[RelayProcess]:
    options = ["--bind", "127.0.0.1:0", "--workers", str(workers)]
    env = {"RELAY_CONFIG": str(config), "PYTHONDONTWRITEBYTECODE": "1"}
    process = Process(python("-m", *command, *options), cwd=ROOT, env=env)
    try:
        yield RelayProcess(process, config, ready_url(process))
    finally:
        process.stop()


def check_talks(client: Peer, target: Peer) -> None:
    client.say("are you there")
    assert target.hear() == b"are you there"
    target.say("still here")
    assert client.hear() == b"still here"


@contextmanager
def session(running: RelayProcess, upstream: Provider) -> Iterator[tuple[Peer, Peer]]:
    """A session's client and upstream."""
    with knock(running) as client, upstream.meet() as target:
        check_talks(client, target)
        yield client, target


@contextmanager
def carried(running: RelayProcess, upstream: Provider) -> Iterator[tuple[int, int, Peer, Peer]]:
    """The worker of a session, the other worker, the session's client, and its upstream."""
    before = {pid: files(pid)["socket"] for pid in all_workers(running, 2)}
    with session(running, upstream) as (client, target):
        carrier, other = sorted(before, key=lambda pid: before[pid] - files(pid)["socket"])
        yield carrier, other, client, target


def kill(running: RelayProcess, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    running.process.wait_for(f"(pid:{pid}) was sent SIGKILL")


@pytest.mark.parametrize("command", [SERVE, GUNICORN], ids=["serve", "gunicorn"])
def test_a_killed_worker_is_replaced_by_what_was_checked_while_every_file_on_disk_is_bad(
    tmp_path: Path, upstream: Provider, command: tuple[str, ...]
):
    prices, bundle = tmp_path / "prices.toml", tmp_path / "ca.pem"
    prices.write_text("")
    bundle.write_bytes(trustme.CA().cert_pem.bytes())
    other = '[[upstreams]]\nname = "other"\nbase_url = "wss://127.0.0.1:9/v1"\nca_file = "ca.pem"'
    other += '\napi_keys = ["sk-other"]\nmodels = { other = "other" }'
    config = write_settings(
        tmp_path, upstream.url, upstreams=other, more='[prices]\nfile = "prices.toml"',
        store=f"sqlite:///{tmp_path}/relay.db",
    )  # fmt: skip
    with started(config, *command) as running:
        with carried(running, upstream) as (carrier, other, client, target):
            config.write_text("[server]\nnonsense = 1\n")
            prices.unlink()
            bundle.unlink()
            running.process.signal(signal.SIGHUP)
            running.process.wait_for("not reloaded")
            kill(running, other)
            all_workers(running, 2)
            check_talks(client, target)
        kill(running, carrier)
        with session(running, upstream):  # in one that was started since
            assert "cannot boot" not in running.output
        assert running.process.popen.poll() is None
