"""Results: what was measured, on what, with which versions, as one JSON file a run."""

import json
import os
import platform
import subprocess
import sys
import timeit
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.peers import PEERS, Missing
from bench.rounds import LOAD_CORES, PEER_CORES

__all__ = ["FOLDER", "describe", "save"]

FOLDER = Path(__file__).parent / "results"
_PACKAGES = (
    "relay_app", "gevent", "gunicorn", "flask", "flask-sock", "simple-websocket", "ujson",
    "SQLAlchemy", "tiktoken", "picows", "uvloop",
)  # fmt: skip


def describe(peers: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """Everything that somebody who compares two runs wants to know."""
    return {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "options": options,
        "machine": {
            "cores": os.cpu_count(),
            "cpu": _cpu(),
            "kernel": platform.release(),
            "load_average": os.getloadavg(),
        },
        "versions": {
            "python": platform.python_version(),
            "python_us": _pace(),
            "python_beside_us": _pace_beside(),
            **{name: _installed(name) for name in _PACKAGES},
        },
        "peers": {name: _peer(name) for name in peers},
    }


def save(results: dict[str, Any], path: Path | None) -> Path:
    """Writes them, under the time they began unless told where."""
    if path is None:
        name = results["began"].replace("-", "").replace(":", "")[:13]
        path = FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    return path


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=FOLDER.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


class _Step:
    def __init__(self, size: int) -> None:
        self.size = size

    def more(self, by: int) -> int:
        return self.size + by


def _pace() -> float:
    """Microseconds that a fixed piece of Python takes here. One version built with and without
    its optimizations differs by a third, and what nginx and HAProxy are built with does not."""

    def piece() -> int:
        step = _Step(3)
        return sum([step.more(n) for n in range(4)])

    return min(timeit.repeat(piece, number=10_000, repeat=20)) * 1e6 / 10_000


def _pace_beside() -> float:
    """The same while the load's core is busy. Where the two are threads of one core, as virtual
    ones may be, all is slower that a peer thinks about, and hardly what it copies."""
    here = os.sched_getaffinity(0)
    busy = subprocess.Popen(
        [sys.executable, "-c", "while True: pass"],
        preexec_fn=lambda: os.sched_setaffinity(0, LOAD_CORES),
    )
    try:
        os.sched_setaffinity(0, PEER_CORES)
        return _pace()
    finally:
        os.sched_setaffinity(0, here)
        busy.kill()
        busy.wait()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _peer(name: str) -> str | None:
    try:
        return PEERS[name].version()
    except Missing:
        return None
