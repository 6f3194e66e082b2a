"""Allocations: the counter of ``allocations.c``, compiled when it is wanted.

The rule: nothing of it is called back into Python, so that counting allocates nothing. It takes
the compiler that Python itself was built with, and where there is none it says so.
"""

import importlib.util
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Protocol, cast

__all__ = ["Counter", "NoCompiler", "counter"]

_SOURCE = Path(__file__).with_name("allocations.c")


class NoCompiler(Exception):
    """The counter could not be built; the message says why."""


class Counter(Protocol):
    """What the compiled module offers. Once made it stays, and costs a branch a call."""

    def resume(self) -> None:
        """Counts from now on."""

    def pause(self) -> None:
        """Counts no more."""

    def take(self) -> tuple[int, int]:
        """Calls and bytes since this was last asked."""


def counter() -> Counter:
    """Compiles and loads it. Raises NoCompiler."""
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        library = Path(folder) / "allocations.so"
        command = [*compiler, "-shared", "-fPIC", "-O2", f"-I{sysconfig.get_path('include')}",
                   str(_SOURCE), "-o", str(library)]  # fmt: skip
        try:
            subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            raise NoCompiler(f"{shlex.join(command)}: {error.stderr.strip()}") from error
        except (OSError, subprocess.SubprocessError) as error:
            raise NoCompiler(f"{shlex.join(command)}: {error}") from error
        spec = importlib.util.spec_from_file_location("allocations", library)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return cast(Counter, module)
