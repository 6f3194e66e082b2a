"""A store on another host that fails, workers that are killed: what clients saw is billed."""

import json
import os
import signal
import sqlite3
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.processes import ready_url, running
from support.relays import SERVERS, RelayProcess, write_settings
from support.upstreams import upstream
from websockets.exceptions import WebSocketException

STORE = '''
"""A store of somebody else's: SQLite at heart, but it says that it is far away, and is slow."""

import os
import time
from relay_app.ledger.stores import StoreError
from relay_app.ledger.stores.native import sleep
from relay_app.ledger.stores.sql import SQLStore
from relay_app.ledger.stores.sqlite import SQLite


class Faraway(SQLStore):
    @classmethod
    def from_url(cls, url):
        store = cls(SQLite(url.removeprefix("faraway://")))
        store.local = False
        store.switch = url.removeprefix("faraway://") + ".down"
        return store

    def write(self, records):
        sleep(0.05)
        if os.path.exists(self.switch):
            raise StoreError("no route to host")
        super().write(records)
'''
_pause = threading.Event()


@contextmanager
def faraway_relay(folder: Path, base_url: str, workers: int = 1) -> Iterator[RelayProcess]:
    """A relay whose store is registered as any package would register it: by entry point."""
    site = folder / "site"
    (site / "faraway-1.0.dist-info").mkdir(parents=True)
    (site / "faraway.py").write_text(STORE)
    metadata = "Metadata-Version: 2.1\nName: faraway\nVersion: 1.0\n"
    (site / "faraway-1.0.dist-info" / "METADATA").write_text(metadata)
    points = "[relay_app.stores]\nfaraway = faraway:Faraway\n"
    (site / "faraway-1.0.dist-info" / "entry_points.txt").write_text(points)
    config = write_settings(folder, base_url)
    text = config.read_text().replace("sqlite:///relay.db", f"faraway://{folder}/far.db")
    config.write_text(text)
    environment = {
        "RELAY_CONFIG": str(config),
        "HOME": str(folder),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]).rstrip(":"),
    }
    command = SERVERS["gunicorn"](config, workers)
    with running(command, cwd=folder, env=environment) as process:
        yield RelayProcess(process, config, ready_url(process))


def provider(connection) -> None:
    """Answers every request with a response of its own, and says what it used."""
    for _ in connection:
        response = {
            "id": f"resp_{os.urandom(8).hex()}",
            "object": "realtime.response",
            "status": "completed",
            "output": [],
            "usage": {
                "total_tokens": 12, "input_tokens": 5, "output_tokens": 7,
                "input_token_details": {"text_tokens": 5, "audio_tokens": 0, "cached_tokens": 0},
                "output_token_details": {"text_tokens": 7, "audio_tokens": 0},
            },
        }  # fmt: skip
        created = {**response, "status": "in_progress", "usage": None}
        connection.send(json.dumps({"type": "response.created", "response": created}))
        connection.send(json.dumps({"type": "response.done", "response": response}))


class Crowd:
    """Clients that ask for responses, one after another, and come back when they are cut off."""

    def __init__(self, running: RelayProcess, clients: int) -> None:
        self.seen: set[str] = set()
        self.refused: list[str] = []
        self._running = running
        self._going_home = threading.Event()
        self._threads = [threading.Thread(target=self._client) for _ in range(clients)]

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._going_home.set()
        for thread in self._threads:
            thread.join(60)

    def _client(self) -> None:
        while not self._going_home.is_set():
            try:
                with self._running.connect(open_timeout=30, close_timeout=1) as connection:
                    while not self._going_home.is_set():
                        connection.send('{"type":"response.create"}')
                        event = {"type": ""}
                        while event["type"] != "response.done":
                            event = json.loads(connection.recv(timeout=30))
                        self.seen.add(event["response"]["id"])
            except (OSError, WebSocketException) as error:
                if getattr(error, "response", None) is not None:
                    self.refused.append(str(error))
                _pause.wait(0.05)


def worker(running: RelayProcess) -> int:
    pid = running.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return int(eventually(lambda: children.read_text().split(), "a worker")[0])


def eventually(condition, what: str, seconds: float = 60.0):
    for _ in range(int(seconds * 20)):
        value = condition()
        if value:
            return value
        _pause.wait(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


def stored(folder: Path) -> list[str]:
    path = folder / "far.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        try:
            return [unit for (unit,) in connection.execute("SELECT unit_id FROM usage_records")]
        except sqlite3.OperationalError:
            return []  # not created yet


def readiness(running: RelayProcess) -> dict:
    with urllib.request.urlopen(f"{running.url}/readyz", timeout=30) as answer:
        return json.load(answer)


@pytest.mark.parametrize("down", [False, True], ids=["slow store", "store down"])
def test_kills_under_load_lose_nothing_that_a_client_saw(tmp_path: Path, down: bool) -> None:
    switch = tmp_path / "far.db.down"
    with upstream(provider) as base_url, faraway_relay(tmp_path, base_url) as running:
        if down:
            switch.touch()
        with Crowd(running, 8) as crowd:
            for _ in range(3):
                before = len(crowd.seen)
                eventually(lambda: len(crowd.seen) > before + 100, "responses")  # noqa: B023
                os.kill(worker(running), signal.SIGKILL)
        assert crowd.refused == []
        if down:
            assert stored(tmp_path) == []
            warning = eventually(lambda: readiness(running).get("warning"), "a warning")
            assert "no route to host" in warning
            switch.unlink()
        eventually(lambda: crowd.seen <= set(stored(tmp_path)), "every response in the store")
        units = stored(tmp_path)
        assert len(units) == len(set(units))
        eventually(lambda: "warning" not in readiness(running), "all is well")
    assert list(tmp_path.glob("var/journal/*.journal")) == []


def test_an_answer_that_a_kill_cut_off_while_the_store_was_down_is_in_the_store_later(
    tmp_path: Path,
) -> None:
    def begin(connection) -> None:
        for _ in connection:
            connection.send('{"type":"response.created","response":{"id":"resp_cut"}}')

    with upstream(begin) as base_url, faraway_relay(tmp_path, base_url) as running:
        switch = tmp_path / "far.db.down"
        switch.touch()
        with running.connect(close_timeout=1) as client:
            client.send('{"type":"response.create"}')
            client.recv(timeout=30)
            journal = tmp_path / "var" / "journal"
            noted = lambda: any(b"resp_cut" in f.read_bytes() for f in journal.glob("*.journal"))  # noqa: E731
            eventually(noted, "a checkpoint in the journal")
            os.kill(worker(running), signal.SIGKILL)
        switch.unlink()
        eventually(lambda: stored(tmp_path) == ["resp_cut"], "the residual in the store")


def test_a_worker_that_stops_leaves_to_the_next_start_what_the_store_does_not_take(
    tmp_path: Path,
) -> None:
    switch = tmp_path / "far.db.down"
    with upstream(provider) as base_url:
        with faraway_relay(tmp_path, base_url) as running:
            switch.touch()
            with Crowd(running, 2) as crowd:
                eventually(lambda: len(crowd.seen) > 20, "responses")
        assert "usage record lost" not in running.output
        assert stored(tmp_path) == []
        assert len(list(tmp_path.glob("var/journal/*.journal"))) == 1
        switch.unlink()
        (tmp_path / "site").rename(tmp_path / "old")
        with faraway_relay(tmp_path, base_url):
            eventually(lambda: crowd.seen <= set(stored(tmp_path)), "every response in the store")
    assert list(tmp_path.glob("var/journal/*")) == []
