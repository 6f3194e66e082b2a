"""What signals, limits and restarts mean to sessions under ``relay-app serve``."""

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from support.clients import eventually
from support.processes import Process, python, ready_url, running
from support.relays import RelayProcess, relay, usage_records, write_settings
from support.upstreams import upstream
from support.workers import all_workers, files, metric, worker, workers
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection
from websockets.sync.server import ServerConnection

ROOT = Path(__file__).parents[2]


class Provider:
    """Begins a response when asked to, and ends it when the test says ``finish`` or, unless it is
    ``deaf``, somebody cancels it."""

    def __init__(self) -> None:
        self.url = ""
        self.deaf = False
        self.begun = threading.Semaphore(0)
        self._open: queue.Queue[tuple[ServerConnection, str]] = queue.Queue()
        self._count = 0

    def handle(self, connection: ServerConnection) -> None:
        try:
            for message in connection:
                event = json.loads(message)
                if event["type"] == "response.cancel" and not self.deaf:
                    cancelled = {"id": event["response_id"], "status": "cancelled"}
                    connection.send(json.dumps({"type": "response.done", "response": cancelled}))
                if event["type"] == "response.create":
                    self._count += 1
                    name = f"resp_{self._count}"
                    response = {"id": name, "object": "realtime.response", "status": "in_progress"}
                    connection.send(json.dumps({"type": "response.created", "response": response}))
                    self._open.put((connection, name))
                    self.begun.release()
        except ConnectionClosed:
            pass  # what the relay does is for the test to judge

    def finish(self) -> None:
        connection, name = self._open.get(timeout=10)
        usage = {
            "total_tokens": 30, "input_tokens": 10, "output_tokens": 20,
            "input_token_details": {"text_tokens": 10, "audio_tokens": 0, "cached_tokens": 0},
            "output_token_details": {"text_tokens": 20, "audio_tokens": 0},
        }  # fmt: skip
        response = {"id": name, "object": "realtime.response", "status": "completed"}
        done = {"type": "response.done", "response": {**response, "usage": usage}}
        connection.send(json.dumps(done))


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    with upstream(made.handle, ping_interval=None) as made.url:
        yield made


def begin_response(client: ClientConnection, provider: Provider) -> None:
    client.send('{"type":"response.create"}')
    assert json.loads(client.recv(10))["type"] == "response.created"
    assert provider.begun.acquire(timeout=10)


def check_sent_away(client: ClientConnection) -> None:
    """An error event, then 1001."""
    error = json.loads(client.recv(10))
    assert (error["type"], error["error"]["code"]) == ("error", "relay_draining")
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(10)
    assert closed.value.rcvd.code == 1001


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def accepts(running: RelayProcess) -> bool:
    host, port = running.url.removeprefix("http://").split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=10):
            return True
    except ConnectionRefusedError:
        return False


@contextmanager
def gunicorn_arguments(arguments: str) -> Iterator[None]:
    os.environ["GUNICORN_CMD_ARGS"] = arguments
    try:
        yield
    finally:
        del os.environ["GUNICORN_CMD_ARGS"]


def test_sigterm_ends_idle_sessions_at_once_and_lets_a_response_finish(
    tmp_path: Path, provider: Provider
):
    with relay(tmp_path, provider.url) as running:
        with running.connect() as idle, running.connect() as busy:
            begin_response(busy, provider)
            running.process.signal(signal.SIGTERM)
            check_sent_away(idle)
            eventually(lambda: not accepts(running), "the listener is closed")
            provider.finish()
            assert json.loads(busy.recv(10))["type"] == "response.done"
            check_sent_away(busy)
        assert running.process.wait() == 0
        [record] = running.records()
        assert (record["source"], record["unit_id"]) == ("reported", "resp_1")
        assert record["output_text_tokens"] == 20
        assert "Traceback" not in running.output


def test_a_response_that_does_not_finish_is_cut_after_drain_seconds_and_recorded(
    tmp_path: Path, provider: Provider
):
    provider.deaf = True
    with relay(tmp_path, provider.url, limits="drain_seconds = 1") as running:
        with running.connect() as busy:
            begin_response(busy, provider)
            running.process.signal(signal.SIGTERM)
            check_sent_away(busy)
        assert running.process.wait() == 0
        [record] = running.records()
        assert (record["status"], record["unit_id"]) == ("dropped", "resp_1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_quick_stop_waits_for_no_response_and_loses_no_record(
    tmp_path: Path, provider: Provider, number: int
):
    provider.deaf = True
    with relay(tmp_path, provider.url) as running:
        with running.connect() as finished, running.connect() as busy:
            begin_response(finished, provider)
            provider.finish()
            assert json.loads(finished.recv(10))["type"] == "response.done"
            begin_response(busy, provider)
            running.process.signal(number)
            check_sent_away(finished)
            check_sent_away(busy)
        assert running.process.wait(10) == 0
        assert sorted(r["status"] for r in running.records()) == ["completed", "dropped"]
        assert "Traceback" not in running.output


def test_a_quick_stop_overtakes_a_graceful_one(tmp_path: Path, provider: Provider):
    provider.deaf = True
    with relay(tmp_path, provider.url) as running:
        with running.connect() as idle, running.connect() as busy:
            begin_response(busy, provider)
            serving = worker(running)
            running.process.signal(signal.SIGTERM)
            check_sent_away(idle)
            os.kill(serving, signal.SIGQUIT)
            check_sent_away(busy)
        assert running.process.wait(10) == 0
        assert [r["status"] for r in running.records()] == ["dropped"]


def test_sighup_takes_new_settings_and_drains_the_old_worker(tmp_path: Path, provider: Provider):
    with relay(tmp_path, provider.url) as running:
        with running.connect() as old:
            before = worker(running)
            write_settings(tmp_path, provider.url, keys='models = ["gpt-realtime", "new"]')
            running.process.signal(signal.SIGHUP)
            check_sent_away(old)
        eventually(lambda: not Path(f"/proc/{before}").exists(), "the old worker has gone")
        with running.connect("model=new") as client:
            begin_response(client, provider)
        assert "not reloaded" not in running.output


def test_sighup_with_broken_settings_changes_nothing(tmp_path: Path, provider: Provider):
    with relay(tmp_path, provider.url) as running, running.connect() as client:
        write_settings(tmp_path, provider.url, server="dial_seconds = -1")
        running.process.signal(signal.SIGHUP)
        line = running.process.wait_for("not reloaded")
        assert "server.dial_seconds = -1" in line
        begin_response(client, provider)
        assert running.process.popen.poll() is None


def test_idle_sessions_outlive_gunicorns_worker_timeout(tmp_path: Path, provider: Provider):
    with gunicorn_arguments("--timeout 2"), relay(tmp_path, provider.url) as running:
        with running.connect() as client:
            with pytest.raises(TimeoutError):
                client.recv(4.5)
            begin_response(client, provider)
        assert "WORKER TIMEOUT" not in running.output


def test_a_worker_that_has_had_its_requests_drains(tmp_path: Path, provider: Provider):
    with gunicorn_arguments("--max-requests 2"), relay(tmp_path, provider.url) as running:
        with running.connect() as idle, running.connect() as busy:
            check_sent_away(idle)
            # The second request was the last one; its session begins in a draining worker.
            check_sent_away(busy)
        with ExitStack() as stack:
            client = eventually(lambda: _connected(running, stack), "a new worker accepts")
            begin_response(client, provider)


def _connected(running: RelayProcess, stack: ExitStack) -> ClientConnection | None:
    try:
        return stack.enter_context(running.connect())
    except (OSError, InvalidHandshake):  # refused or 503 while the workers change places
        return None


def test_two_workers_share_the_ledger_and_add_up_their_metrics(tmp_path: Path, provider: Provider):
    with relay(tmp_path, provider.url, workers=2) as running, ExitStack() as stack:
        workers = all_workers(running, 2)
        sessions = 0
        while not all(_upstream_connections(pid, provider) for pid in workers):
            assert sessions < 100
            begin_response(stack.enter_context(running.connect()), provider)
            provider.finish()
            sessions += 1
        eventually(lambda: len(running.records()) == sessions, "every response is recorded")

        def opened() -> list[float]:
            return [metric(running, "relay_sessions_opened_total") for _ in range(4)]

        # Each worker publishes once a second; whichever answers tells the sum of both.
        eventually(lambda: opened() == [sessions] * 4, "the sum of both workers")
        assert metric(running, "relay_sessions_open") == sessions


def _upstream_connections(pid: int, provider: Provider) -> int:
    port = int(provider.url.rsplit(":", 1)[1].split("/")[0])
    inodes = {
        line.split()[9]
        for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
        if line.split()[2].endswith(f":{port:04X}")
    }
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed while we looked
            links.append(os.readlink(link))
    return sum(f"socket:[{inode}]" in links for inode in inodes)


def test_a_drain_is_announced_before_the_listener_closes(tmp_path: Path, provider: Provider):
    with relay(tmp_path, provider.url, limits="drain_announce_seconds = 2") as running:
        assert status(f"{running.url}/readyz") == 200
        with running.connect() as client:
            running.process.signal(signal.SIGTERM)
            eventually(lambda: status(f"{running.url}/readyz") == 503, "not ready any more")
            assert status(f"{running.url}/healthz") == 200
            assert status(f"{running.url}/v1/realtime?model=gpt-realtime") == 426
            with running.connect() as newcomer:
                begin_response(newcomer, provider)
                provider.finish()
                assert json.loads(newcomer.recv(10))["type"] == "response.done"
            check_sent_away(client)
        assert running.process.wait() == 0


def test_the_log_names_the_client_behind_a_trusted_balancer(tmp_path: Path, provider: Provider):
    forwarded = {"X-Forwarded-For": "198.51.100.1, 203.0.113.9"}
    with relay(tmp_path, provider.url) as running:
        key = {"Authorization": f"Bearer {running.key}"}
        with running.connect(additional_headers={**key, **forwarded}):
            running.process.wait_for("client=203.0.113.9")
        assert not list((tmp_path / "home").rglob("*"))


def test_the_log_names_the_peer_where_no_balancer_is_trusted(tmp_path: Path, provider: Provider):
    forwarded = {"X-Forwarded-For": "203.0.113.9"}
    with relay(tmp_path, provider.url, limits="forwarded_allow_ips = []") as running:
        key = {"Authorization": f"Bearer {running.key}"}
        with running.connect(additional_headers={**key, **forwarded}):
            running.process.wait_for("client=127.0.0.1")


def _limited(limit: str, config: Path) -> list[str]:
    command = python("-m", "relay_app.cli", "serve", "--bind", "127.0.0.1:0", "--config", config)
    return ["sh", "-c", f'{limit}; exec "$@"', "sh", *map(str, command)]


def test_too_low_a_soft_limit_on_files_is_raised(tmp_path: Path):
    config = write_settings(tmp_path, "ws://127.0.0.1:9/v1", server="max_sessions = 200")
    with running(_limited("ulimit -Sn 100", config), cwd=tmp_path) as process:
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        soft = next(line.split()[3] for line in limits.splitlines() if "open files" in line)
        assert int(soft) == 2 * 200 + 512


def test_too_low_a_hard_limit_on_files_stops_the_start_with_the_line_that_mends_it(
    tmp_path: Path,
):
    config = write_settings(tmp_path, "ws://127.0.0.1:9/v1", server="max_sessions = 200")
    command = _limited("ulimit -n 300", config)
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "LimitNOFILE=912" in done.stderr
    assert "Traceback" not in done.stderr


def _at_the_root(config: Path, *options: str) -> Process:
    command = python("-m", "gunicorn", "--bind", "127.0.0.1:0", *options)
    return Process(command, cwd=ROOT, env={"RELAY_CONFIG": str(config)})


def test_gunicorn_alone_starts_the_relay_from_the_projects_folder(
    tmp_path: Path, provider: Provider
):
    config = write_settings(tmp_path, provider.url)
    process = _at_the_root(config)
    try:
        started = RelayProcess(process, config, ready_url(process))
        with started.connect() as client:
            begin_response(client, provider)
            provider.finish()
            assert json.loads(client.recv(10))["type"] == "response.done"
    finally:
        process.stop()
    assert [r["status"] for r in usage_records(config)] == ["completed"]


def test_gunicorn_alone_says_in_one_line_what_is_wrong_with_the_settings(tmp_path: Path):
    config = write_settings(tmp_path, "ws://127.0.0.1:9/v1", server="nonsense = 1")
    process = _at_the_root(config)
    assert process.wait(30) != 0
    output = process.stop()
    assert "server.nonsense" in output
    assert len(output.splitlines()) == 1


def test_sync_workers_are_warned_of_at_the_start(tmp_path: Path):
    config = write_settings(tmp_path, "ws://127.0.0.1:9/v1")
    process = _at_the_root(config, "-k", "sync")
    try:
        process.wait_for("sync workers cannot carry WebSocket sessions")
    finally:
        process.stop()


def test_what_killed_workers_had_counted_stays_and_their_files_do_not(
    tmp_path: Path, provider: Provider
):
    opened = "relay_sessions_opened_total"
    with relay(tmp_path, provider.url) as running:
        for count in (1, 2, 3):
            with running.connect():
                eventually(lambda count=count: metric(running, opened) == count, "it is counted")
            pid = worker(running)
            (figures,) = {
                Path(path).parent for path in files(pid) if Path(path).name.startswith("counter_")
            }
            os.kill(pid, signal.SIGKILL)
            eventually(lambda pid=pid: workers(running) not in ([], [pid]), "another worker")
        assert metric(running, opened) == 3
        kept = {path.stem.rpartition("_")[2] for path in figures.glob("*.db")}
        assert kept == {"0", str(worker(running))}

        # Whoever removes them takes no more than them.
        shutil.rmtree(figures)
        pid = worker(running)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: workers(running) not in ([], [pid]), "another worker")
        with running.connect():
            eventually(lambda: metric(running, opened) == 1, "it is counted")
    assert not figures.exists()
