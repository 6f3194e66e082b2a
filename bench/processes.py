"""Processes under test: started on a core of their own, and what the kernel says they cost.

The rule: a process costs what its whole tree costs, workers and threads included.
"""

import os
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = [
    "Process",
    "StartError",
    "cpu_seconds",
    "descendants",
    "file_limit",
    "free_port",
    "own_cpu_seconds",
    "raise_file_limit",
    "resident_bytes",
]

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_STOP_SECONDS = 15.0


class StartError(Exception):
    """A process did not come up; the message says what it last said."""


class Process:
    """A server in ``folder``, pinned to ``cores``. What it prints goes to a file there."""

    def __init__(
        self, command: Sequence[str], *, cores: set[int], folder: Path, **env: str
    ) -> None:  # fmt: skip
        self._log = folder / "out.log"
        with self._log.open("wb") as out:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, **env},
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
                start_new_session=True,
            )
        self.pid = self._popen.pid

    def wait_listening(self, port: int, seconds: float = 20.0) -> None:
        """Until somebody listens on ``port``. Raises StartError."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._popen.poll() is not None:
                raise StartError(f"{self._popen.args[0]!r} ended: {self._last_words()}")  # type: ignore[index]
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        raise StartError(f"did not listen within {seconds:g} s: {self._last_words()}")

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-600:].strip()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for whatever of its session is left."""
        self._popen.terminate()
        try:
            self._popen.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._popen.wait()


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def descendants(pid: int) -> Iterator[int]:
    """A process and all that it and its children have started, parents first."""
    yield pid
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                yield from descendants(int(child))
    except FileNotFoundError:
        return  # it ended while we looked


def cpu_seconds(pid: int) -> tuple[float, float]:
    """User and system seconds of a process, its living and its buried descendants."""
    user = system = 0
    for each in descendants(pid):
        try:
            stat = Path(f"/proc/{each}/stat").read_text()
        except FileNotFoundError:
            continue
        fields = stat[stat.rindex(")") + 2 :].split()
        user += int(fields[11]) + int(fields[13])
        system += int(fields[12]) + int(fields[14])
    return user * _TICK, system * _TICK


def own_cpu_seconds() -> float:
    """What this process, the load, has cost."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants."""
    kilobytes = 0
    for each in descendants(pid):
        try:
            status = Path(f"/proc/{each}/status").read_text()
        except FileNotFoundError:
            continue
        kilobytes += sum(
            int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")
        )
    return kilobytes * 1024


def raise_file_limit(files: int) -> str | None:
    """Room for that many open files here and in what is started; else how to get it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= files:
        return None
    for limits in ((files, max(files, hard)), (hard, hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        except (ValueError, OSError):
            continue
        if limits[0] >= files:
            return None
    return (
        f"needs {files} open files and the hard limit is {hard}: ulimit -Hn {files} as root first"
    )


def file_limit() -> int:
    """How many files may be open here."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
