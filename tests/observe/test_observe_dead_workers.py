"""Workers come and go; what they had counted stays, and takes no more room for it."""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from relay_app.observe.dead_workers import add_up, unchanged

WORKER = """
import sys
from relay_app.observe.metrics import Metrics, Snapshot
metrics = Metrics()
for _ in range(int(sys.argv[1])):
    metrics.refused("client", 401)
    metrics.held(0.25, True)
metrics.attempted("up", "ok")
metrics.publish(Snapshot(open=int(sys.argv[1]), journal_seconds=5.0))
import os
print(os.getpid())
"""


def work(folder: Path, times: int) -> int:
    """A worker that counted and has died."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(times)],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return int(done.stdout)


def figures(folder: Path) -> dict[str, float]:
    """All that is not 0."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))
    return {
        " ".join([sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))]): value
        for metric in registry.collect()
        for sample in metric.samples
        if (value := sample.value)
    }


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    folder = tmp_path_factory.mktemp("figures")
    return folder, [work(folder, times) for times in (1, 2, 4)]


def test_what_the_dead_had_counted_is_there_in_two_files(worked: tuple[Path, list[int]]):
    folder, (first, second, living) = worked
    before = figures(folder)
    assert before["relay_refused_total by=client status=401"] == 7
    assert before["relay_sessions_open"] == 7
    for pid in (first, second, second, 999_999):  # the last two have left nothing
        add_up(folder, pid)
    after = figures(folder)
    assert after.pop("relay_sessions_open") == 4, "only of those that live"
    del before["relay_sessions_open"]
    assert after == before
    assert after["relay_hold_seconds_bucket le=+Inf"] == 7
    dead = {"counter_0.db", "histogram_0.db"}
    kinds = ("counter", "histogram", "gauge_livesum", "gauge_livemax")
    assert names(folder) == dead | {f"{kind}_{living}.db" for kind in kinds}


def test_nothing_is_added_up_while_somebody_reads(tmp_path: Path):
    """Else he would count it twice, or miss it, or not find a file that was there."""
    pid = work(tmp_path, 3)
    with unchanged(tmp_path), unchanged(tmp_path):  # readers do not wait for each other
        adding = threading.Thread(target=add_up, args=(tmp_path, pid))
        before = names(tmp_path)
        adding.start()
        adding.join(0.02)  # twenty times what it takes
        assert adding.is_alive()
        assert names(tmp_path) == before
    adding.join()
    assert names(tmp_path) == {"counter_0.db", "histogram_0.db"}


def test_who_cannot_wait_any_longer_reads_all_the_same(tmp_path: Path):
    """A master that was stopped amid an addition holds up no session."""
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with unchanged(tmp_path):
            pass
    finally:
        os.close(descriptor)
