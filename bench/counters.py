"""Counters in C: of allocations, and of calls to the kernel; compiled when they are wanted.

The rule: nothing of them is called back into Python, so that counting allocates nothing. They take
the compiler that Python itself was built with, and where there is none they say so.
"""

import ctypes
import importlib.util
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Protocol

__all__ = ["Allocations", "Calls", "Counter", "NoCompiler", "build"]


class NoCompiler(Exception):
    """A counter could not be built; the message says why."""


class Counter(Protocol):
    """Counts between ``resume`` and ``pause``; ``take`` gives what was counted since the last."""

    def resume(self) -> None: ...

    def pause(self) -> None: ...

    def take(self) -> dict[str, int]: ...


def build(name: str, folder: Path) -> Path:
    """Compiles ``name``.c from beside this file into ``folder``. Raises NoCompiler."""
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    library = folder / f"{name}.so"
    source = Path(__file__).with_name(f"{name}.c")
    command = [*compiler, "-shared", "-fPIC", "-O2", f"-I{sysconfig.get_path('include')}",
               str(source), "-o", str(library), "-ldl"]  # fmt: skip
    try:
        subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise NoCompiler(f"{shlex.join(command)}: {error.stderr.strip()}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise NoCompiler(f"{shlex.join(command)}: {error}") from error
    return library


class Allocations:
    """What Python's allocators are asked for. Once made it stays, and costs a branch a call."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            library = build("allocations", Path(folder))
            spec = importlib.util.spec_from_file_location("allocations", library)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        self.resume = module.resume
        self.pause = module.pause
        self._take = module.take

    def take(self) -> dict[str, int]:
        calls, size = self._take()
        return {"allocations": calls, "bytes": size}


class Calls:
    """What the kernel is asked for, in a process that was begun with ``calls`` before its C
    library (``LD_PRELOAD``)."""

    _KINDS = ("recv", "send", "epoll_ctl")

    def __init__(self) -> None:
        process = ctypes.CDLL(None)
        self._count = process.bench_calls_count
        self._take = process.bench_calls_take
        self._counts = (ctypes.c_ulonglong * len(self._KINDS))()

    def resume(self) -> None:
        self._count(1)

    def pause(self) -> None:
        self._count(0)

    def take(self) -> dict[str, int]:
        self._take(self._counts)
        return dict(zip(self._KINDS, self._counts, strict=True))
