"""Stores that are killed and disks that are full while everybody talks: nobody is harmed by it,
and nothing is lost or billed twice."""

import json
import resource
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.clients import eventually
from support.load import Crowd, Upstream, judge, talking_upstream
from support.relays import RelayProcess, relay
from support.servers import Postgres, Server, Valkey, own_place, running_server
from support.workers import metric, worker
from websockets.exceptions import InvalidStatus

CLIENTS = 6
SERVERS = {"postgres": Postgres, "valkey": Valkey}
_pause = threading.Event()


@pytest.fixture(scope="module", params=list(SERVERS))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running_server(SERVERS[request.param]) as started:
        yield started


def readiness(running: RelayProcess) -> tuple[int, dict[str, Any]]:
    """What ``/readyz`` answers."""
    try:
        with urllib.request.urlopen(f"{running.url}/readyz", timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.load(refusal)


def all_go_on(crowd: Crowd) -> None:
    """Everybody has come to an end of something since now, more or less."""
    before = crowd.ends
    eventually(lambda: crowd.ends > before + 2 * CLIENTS, "ends of responses")


def check(running: RelayProcess, upstream: Upstream, crowd: Crowd) -> None:
    """Nobody was harmed, and every end that was seen is in the ledger once."""
    assert crowd.refused == []
    assert crowd.cut == {}
    deadline = time.monotonic() + 60
    while not (found := judge(running.records(), upstream, crowd.seen)).clean:
        assert time.monotonic() < deadline, found
        _pause.wait(0.2)
    assert found.reported == len(crowd.seen)
    assert "usage record lost" not in running.output
    assert "Traceback" not in running.output


def test_a_store_that_crashes_under_load_and_comes_back_costs_nothing(
    tmp_path: Path, server: Server
) -> None:
    # Nothing here may pass because a hold ran out of patience.
    limits = "hold_seconds = 30"
    with (
        talking_upstream() as upstream,
        relay(tmp_path, upstream.url, store=own_place(server), limits=limits) as running,
    ):
        with Crowd(running, CLIENTS) as crowd:
            for _ in range(2):
                all_go_on(crowd)
                server.kill()
                all_go_on(crowd)
                eventually(lambda: "warning" in readiness(running)[1], "a warning")
                assert readiness(running)[0] == 200
                assert metric(running, "relay_journal_bytes") > 0
                server.start()
                eventually(lambda: "warning" not in readiness(running)[1], "all is well")
        check(running, upstream, crowd)
        eventually(lambda: metric(running, "relay_journal_bytes") == 0, "an empty journal")


@contextmanager
def full_disk(pid: int) -> Iterator[None]:
    """No file of this process can grow: a disk without room, as far as it can see."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def test_a_store_that_cannot_be_made_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        talking_upstream() as upstream,
        relay(tmp_path, upstream.url, store="sqlite:///file/relay.db") as running,
    ):
        with pytest.raises(InvalidStatus) as refused:
            running.connect()
        assert refused.value.response.status_code == 503
        assert b"ledger_unavailable" in refused.value.response.body
        assert readiness(running)[0] == 503
        (tmp_path / "file").unlink()  # whoever mends it needs no restart
        (tmp_path / "file").mkdir()
        eventually(lambda: readiness(running)[0] == 200, "it is mended")
        running.connect().close()
    assert not upstream.began


def test_a_full_disk_under_load_turns_away_who_is_new_and_harms_nobody_who_is_there(
    tmp_path: Path, server: Server
) -> None:
    check_full_disk(tmp_path, own_place(server))


def test_a_full_disk_is_the_same_for_a_store_on_it(tmp_path: Path) -> None:
    check_full_disk(tmp_path, "sqlite:///relay.db")


def check_full_disk(folder: Path, store: str) -> None:
    limits = "hold_seconds = 0.1"  # what is not durable waits no longer than that
    with (
        talking_upstream() as upstream,
        relay(folder, upstream.url, store=store, limits=limits) as running,
    ):
        with Crowd(running, CLIENTS) as crowd:
            all_go_on(crowd)
            with full_disk(worker(running)):
                eventually(lambda: readiness(running)[0] == 503, "readiness says so")
                reason = eventually(lambda: refusal(running), "new sessions are turned away")
                assert b"cannot record usage" in reason
                all_go_on(crowd)
                assert readiness(running)[0] == 503
            eventually(lambda: readiness(running)[0] == 200, "room for new sessions")
            with running.connect():
                all_go_on(crowd)
        check(running, upstream, crowd)


def refusal(running: RelayProcess) -> bytes:
    """What somebody new is told with the 503 they get; empty if they are let in."""
    try:
        with running.connect():
            return b""
    except InvalidStatus as refused:
        return refused.response.body if refused.response.status_code == 503 else b""
