"""A relay's workers as the kernel and ``/metrics`` see them."""

import re
import urllib.request
from collections import Counter
from pathlib import Path

from support.clients import eventually
from support.relays import RelayProcess
from support.secrets import found_in

__all__ = [
    "all_workers",
    "files",
    "metric",
    "metrics",
    "resident_bytes",
    "sessions_closed",
    "threads",
    "worker",
    "workers",
]

_SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


def metrics(running: RelayProcess) -> dict[str, float]:
    """All samples by ``name{labels}``, without the worker's ``pid`` label."""
    with urllib.request.urlopen(f"{running.url}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    assert found_in(text) == []
    found: dict[str, float] = {}
    for name, labels, value in _SAMPLE.findall(text):
        kept = ",".join(label for label in labels.split(",") if not label.startswith("pid="))
        found[f"{name}{{{kept}}}" if kept else name] = float(value)
    return found


def metric(running: RelayProcess, name: str) -> float:
    """One sample; 0 while it has not been counted."""
    return metrics(running).get(name, 0.0)


def workers(running: RelayProcess) -> list[int]:
    """The process ids of the relay's workers."""
    pid = running.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


def all_workers(running: RelayProcess, count: int) -> list[int]:
    """Those of all ``count`` workers, once they have been started and no other is left."""
    return eventually(lambda: len(found := workers(running)) == count and found, "all workers")


def worker(running: RelayProcess) -> int:
    """The process id of the relay's only worker."""
    (child,) = eventually(lambda: workers(running), "a worker")
    return child


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


def files(pid: int) -> Counter[str]:
    """The kinds of what a process has open: ``socket``, ``pipe``, and files by their paths."""
    kinds: Counter[str] = Counter()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue  # closed while we looked
        kinds[target.split(":[")[0]] += 1
    return kinds


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def sessions_closed(running: RelayProcess) -> list[str]:
    """The ids of the sessions whose last log line is there, in the order they closed."""
    return re.findall(r"session close session=(rs_\w+)", running.output)
