"""Processes of the project's own, started for a test and gone after it."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.secrets import found_in

START_SECONDS = 30
STOP_SECONDS = 60


class Process:
    """A child process whose output is collected and whose ``ready URL`` line was read."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self.popen = subprocess.Popen(
            [str(a) for a in arguments],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            **options,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def output(self) -> str:
        with self._changed:
            return "".join(self._lines)

    def wait_for(self, text: str, seconds: float = START_SECONDS) -> str:
        """The first line with ``text`` in it; fails the test with the output if none comes."""
        with self._changed:
            found = self._changed.wait_for(lambda: self._find(text) or self._ended, seconds)
            line = self._find(text)
            assert found, f"no line with {text!r} within {seconds} s:\n{''.join(self._lines)}"
            assert line, f"ended without a line with {text!r}:\n{''.join(self._lines)}"
            return line

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """The exit status, once the process has ended and all its output was read."""
        status = self.popen.wait(seconds)
        self._reader.join(seconds)
        return status

    def stop(self) -> str:
        """Ends the process with SIGTERM, waits, and returns all it said."""
        if self.popen.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            self.wait()
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.wait()
            raise AssertionError(f"did not stop on SIGTERM:\n{self.output}") from None
        finally:
            self.popen.stdout.close()
        assert found_in(self.output) == []
        return self.output

    def _find(self, text: str) -> str:
        return next((line for line in self._lines if text in line), "")

    def _read(self) -> None:
        for line in self.popen.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@contextmanager
def running(arguments: Sequence[str | Path], **options) -> Iterator[Process]:
    """A process that has printed its ``ready`` line."""
    process = Process(arguments, **options)
    try:
        process.wait_for("ready ")
        yield process
    finally:
        process.stop()


def ready_url(process: Process) -> str:
    """The ``http://HOST:PORT`` of the ``ready`` line."""
    return process.wait_for("ready ").split("ready ", 1)[1].strip()


def python(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, *arguments]


@contextmanager
def simulator(*options: str) -> Iterator[str]:
    """A running ``relay-app simulate``; yields its ``ws://HOST:PORT/v1``."""
    command = python("-m", "relay_app.cli", "simulate", "--bind", "127.0.0.1:0", *options)
    with running(command) as process:
        yield ready_url(process).replace("http", "ws", 1) + "/v1"
