"""Workers are replaced under load, one way or another: nobody is cut short, and all is billed."""

import os
import signal
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.clients import eventually
from support.load import Crowd, Talking, judge, talking_upstream
from support.relays import RelayProcess, relay
from support.workers import all_workers, metric, workers

WORKERS = 2
SLOW = 4.0
"""How many seconds a client of a large crowd may think: the test's machine is to relay, not to
write out events."""

pytestmark = pytest.mark.timeout(180)


def sessions(running: RelayProcess) -> float:
    return metric(running, "relay_sessions_open")


def seen_off_politely(clients: list[Talking]) -> int:
    """How many partings there were, each of them announced and without a word left unsaid."""
    for client in clients:
        assert client.refused == []
        assert client.cut == {}
        assert set(client.partings) <= {"1001"}
        assert client.errors == ["relay_draining"] * len(client.partings)
    return sum(len(client.partings) for client in clients)


def test_a_rolling_restart_with_two_hundred_sessions_cuts_nobody_short_and_loses_nothing(
    tmp_path: Path,
) -> None:
    clients = 200
    with ExitStack() as stack:
        upstream = stack.enter_context(talking_upstream())
        running = stack.enter_context(relay(tmp_path, upstream.url, workers=WORKERS))
        before = all_workers(running, WORKERS)
        crowd = stack.enter_context(Crowd(running, clients, thinking=(0.0, SLOW)))
        eventually(lambda: sessions(running) == clients, "all are there", seconds=60)
        ends = crowd.ends
        eventually(lambda: crowd.ends > ends + clients // 2, "they talk", seconds=60)

        running.process.signal(signal.SIGHUP)
        eventually(lambda: not set(before) & set(workers(running)), "the old ones go", seconds=60)
        all_workers(running, WORKERS)
        ends = crowd.ends
        eventually(lambda: crowd.ends > ends + clients // 2, "they talk again", seconds=60)
        eventually(lambda: sessions(running) == clients, "all are back", seconds=60)
        crowd.go_home()

        assert seen_off_politely(crowd.clients) == clients
        found = judge(running.records(), upstream, crowd.seen)
    assert found.clean, found
    assert found.dropped == found.residual == 0
    assert "Traceback" not in running.output


def test_workers_that_have_had_their_requests_are_replaced_under_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = 20
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--max-requests 5 --max-requests-jitter 5")
    with ExitStack() as stack:
        upstream = stack.enter_context(talking_upstream())
        running = stack.enter_context(relay(tmp_path, upstream.url, workers=WORKERS))
        before = all_workers(running, WORKERS)
        crowd = stack.enter_context(Crowd(running, clients))
        eventually(lambda: not set(before) & set(workers(running)), "they go", seconds=60)
        between = all_workers(running, WORKERS)
        eventually(lambda: not set(between) & set(workers(running)), "and theirs", seconds=60)
        crowd.go_home()
        assert seen_off_politely(crowd.clients) >= clients
        found = judge(running.records(), upstream, crowd.seen)
    assert found.clean, found
    assert found.dropped == found.residual == 0


def test_a_master_that_is_killed_takes_no_record_with_it(tmp_path: Path) -> None:
    clients = 20
    with ExitStack() as stack:
        upstream = stack.enter_context(talking_upstream())
        running = stack.enter_context(relay(tmp_path, upstream.url, workers=WORKERS))
        orphans = all_workers(running, WORKERS)
        crowd = stack.enter_context(Crowd(running, clients))
        eventually(lambda: crowd.ends > clients, "they talk")
        master = running.process
        os.kill(master.pid, signal.SIGKILL)
        master.wait()
        eventually(lambda: not any(map(alive, orphans)), "its workers go too", seconds=60)
        successor = stack.enter_context(relay(tmp_path, upstream.url, workers=WORKERS))
        crowd.running = successor
        ends = crowd.ends
        eventually(lambda: crowd.ends > ends + clients, "they talk again")
        crowd.go_home()
        partings = Counter(parting for client in crowd.clients for parting in client.partings)
        assert partings["1001"] == clients
        assert not any(client.cut for client in crowd.clients)
        found = judge(successor.records(), upstream, crowd.seen)
    assert found.clean, found
    assert found.dropped == found.residual == 0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
