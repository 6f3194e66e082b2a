"""One worker takes the place of another, also when what it is made of is broken on the disk."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme
from support.clients import Peer, Provider, eventually, knock, provider
from support.processes import Process, python, ready_url
from support.relays import RelayProcess, write_settings
from support.workers import all_workers, workers

ROOT = Path(__file__).parents[2]
WHOLE = "from relay_app.app import create_app\napp = create_app()\n"
BROKEN = 'raise RuntimeError("planted\\nhere")\n'
GATED = "import os, time\nwhile os.path.exists({gate!r}):\n    time.sleep(0.02)\n" + WHOLE
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


@contextmanager
def hosted(folder: Path, upstream: Provider, *, workers: int = 2) -> Iterator[RelayProcess]:
    """A relay whose application is ``hosted.py`` in ``folder``."""
    (folder / "hosted.py").write_text(WHOLE)
    config = write_settings(folder, upstream.url)
    command = ("gunicorn", "-c", "python:relay_app.web.gunicorn", "--pythonpath", str(folder))
    with started(config, *command, "hosted:app", workers=workers) as running:
        yield running


def check_talks(client: Peer, target: Peer) -> None:
    client.say("are you there")
    assert target.hear() == b"are you there"
    target.say("still here")
    assert client.hear() == b"still here"


def check_sent_away(client: Peer) -> None:
    assert client.told()["error"]["code"] == "relay_draining"
    assert client.hear_close()[0] == 1001


@contextmanager
def session(running: RelayProcess, upstream: Provider) -> Iterator[tuple[Peer, Peer]]:
    """A session's client and upstream."""
    with knock(running) as client, upstream.meet() as target:
        check_talks(client, target)
        yield client, target


@contextmanager
def carried(running: RelayProcess, upstream: Provider) -> Iterator[tuple[int, int, Peer, Peer]]:
    """The worker of a session, the other worker, the session's client, and its upstream."""
    pids = all_workers(running, 2)
    with session(running, upstream) as (client, target):
        carrier, other = sorted(pids, key=lambda pid: not has_open(pid, client))
        yield carrier, other, client, target


def has_open(pid: int, client: Peer) -> bool:
    """Whether a worker holds the relay's end of a client's connection."""
    ends = tuple(
        f":{port:04X}" for _, port in (client.sock.getpeername(), client.sock.getsockname())
    )
    rows = [row.split() for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    [inode] = [row[9] for row in rows if (row[1][-5:], row[2][-5:]) == ends]
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed while we looked
            if os.readlink(link) == f"socket:[{inode}]":
                return True
    return False


def pauses(running: RelayProcess) -> list[float]:
    """Before the next tries of a worker that could not boot, once there were two."""
    found = re.findall(r"tried again in ([0-9.]+) s", running.output)
    return [float(seconds) for seconds in found] if len(found) > 1 else []


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


def test_a_replaced_worker_that_cannot_boot_is_tried_again_while_the_others_go_on(
    tmp_path: Path, upstream: Provider
):
    with hosted(tmp_path, upstream) as running:
        with carried(running, upstream) as (carrier, other, client, target):
            (tmp_path / "hosted.py").write_text(BROKEN)
            kill(running, other)
            line = running.process.wait_for("cannot boot")
            assert f"RuntimeError: planted here ({tmp_path}/hosted.py:1)" in line
            first, second, *_ = eventually(lambda: pauses(running), "two tries")
            assert 0 < first < second
            check_talks(client, target)
        (tmp_path / "hosted.py").write_text(WHOLE)
        kill(running, carrier)
        with session(running, upstream):
            pass
        assert "Traceback" not in running.output


def test_a_reload_whose_workers_cannot_boot_leaves_the_old_ones_until_they_can(
    tmp_path: Path, upstream: Provider
):
    with (
        hosted(tmp_path, upstream, workers=1) as running,
        session(running, upstream) as (client, target),
    ):
        (tmp_path / "hosted.py").write_text(BROKEN)
        running.process.signal(signal.SIGHUP)
        eventually(lambda: pauses(running), "two tries")
        check_talks(client, target)
        (tmp_path / "hosted.py").write_text(WHOLE)
        check_sent_away(client)
        with session(running, upstream):
            pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_server_that_is_stopped_as_soon_as_it_listens_waits_for_no_worker(
    tmp_path: Path, number: signal.Signals
):
    config = write_settings(tmp_path, "ws://127.0.0.1:9/v1", server="drain_seconds = 300")
    with started(config, *SERVE) as running:
        running.process.signal(number)
        assert running.process.wait() == 0


def test_a_first_start_that_fails_ends_at_once(tmp_path: Path):
    (tmp_path / "hosted.py").write_text(BROKEN)
    config = write_settings(tmp_path, "ws://127.0.0.1:9/v1")
    command = ("-m", "gunicorn", "-c", "python:relay_app.web.gunicorn", "--bind", "127.0.0.1:0")
    process = Process(
        python(*command, "--pythonpath", tmp_path, "hosted:app"),
        cwd=ROOT, env={"RELAY_CONFIG": str(config)},
    )  # fmt: skip
    assert process.wait() == 3
    output = process.stop()
    assert "planted" in output
    assert "cannot boot" not in output


def test_the_old_workers_take_newcomers_until_the_new_ones_have_booted(
    tmp_path: Path, upstream: Provider
):
    gate = tmp_path / "gate"
    with (
        hosted(tmp_path, upstream, workers=1) as running,
        session(running, upstream) as (client, target),
    ):
        [old] = workers(running)
        gate.touch()
        (tmp_path / "hosted.py").write_text(GATED.format(gate=str(gate)))
        running.process.signal(signal.SIGHUP)
        [new] = set(all_workers(running, 2)) - {old}
        # Told to stop when the new one was begun, the old one would not let half of these in.
        for _ in range(50):
            with session(running, upstream):
                pass
        check_talks(client, target)
        gate.unlink()
        check_sent_away(client)
        assert workers(running)[-1] == new
        with session(running, upstream):
            pass
