"""Peers that only forward: none at all, nginx, HAProxy."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from string import Template

from bench.peers.base import Missing, Peer, Running
from bench.processes import Process, free_port

__all__ = ["Direct", "HAProxy", "Nginx"]

_HERE = Path(__file__).parent
_SPARE_FILES = 512


class Direct(Peer):
    """No relay: what the load and the machine cost by themselves."""

    name = "direct"

    def version(self) -> str:
        return ""

    def start(self, upstream_port: int, folder: Path, *, cores: set[int], sessions: int) -> Running:
        return Running(f"ws://127.0.0.1:{upstream_port}", None, folder)


class Nginx(Peer):
    """One worker, the usual WebSocket configuration, buffers as they are or of 64 kB."""

    def __init__(self, name: str, *, large: bool = False) -> None:
        self.name = name
        self._large = large

    def version(self) -> str:
        return _version(_find("nginx", "apt-get install nginx-light"), "-v")

    def start(self, upstream_port: int, folder: Path, *, cores: set[int], sessions: int) -> Running:
        nginx = _find("nginx", "apt-get install nginx-light")
        port = free_port()
        large = "proxy_buffer_size 64k; proxy_buffers 4 64k; proxy_busy_buffers_size 128k;"
        config = _render(
            "nginx.conf",
            # As root its worker would become nobody, who may not read our folder.
            user="user root;" if os.geteuid() == 0 else "",
            folder=folder,
            files=2 * sessions + _SPARE_FILES,
            # With less than a sixteenth of them free, nginx closes connections that idle.
            connections=round(2.2 * sessions) + _SPARE_FILES,
            port=port,
            upstream_port=upstream_port,
            buffers=large if self._large else "",
        )
        command = [nginx, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)]
        process = Process(command, cores=cores, folder=folder)
        process.wait_listening(port)
        return Running(f"ws://127.0.0.1:{port}", process, folder)


class HAProxy(Peer):
    """One thread, the usual WebSocket configuration, buffers as they are or of 64 kB."""

    def __init__(self, name: str, *, large: bool = False) -> None:
        self.name = name
        self._large = large

    def version(self) -> str:
        return _version(_find("haproxy", "apt-get install haproxy"), "-v")

    def start(self, upstream_port: int, folder: Path, *, cores: set[int], sessions: int) -> Running:
        haproxy = _find("haproxy", "apt-get install haproxy")
        port = free_port()
        config = _render(
            "haproxy.cfg",
            folder=folder,
            sessions=sessions + 100,
            port=port,
            upstream_port=upstream_port,
            buffers="tune.bufsize 65536" if self._large else "",
        )
        process = Process([haproxy, "-db", "-f", str(config)], cores=cores, folder=folder)
        process.wait_listening(port)
        return Running(f"ws://127.0.0.1:{port}", process, folder)


def _find(program: str, install: str) -> str:
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise Missing(install)
    return found


def _version(program: str, flag: str) -> str:
    done = subprocess.run([program, flag], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+\.\d+\S*", done.stdout + done.stderr)
    return found.group() if found else "?"


def _render(name: str, **values: object) -> Path:
    config = Path(str(values["folder"])) / name
    config.write_text(Template((_HERE / name).read_text()).substitute(values))
    return config
