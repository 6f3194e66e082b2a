"""``python -m tests.fuzz [NAME ...]``: looks for inputs that no test has thought of.

It goes on from tests/corpus and what it found before, a target after the other, and says a line
of each. What breaks a law is in build/fuzz/found. Needs atheris, and takes what is compiled from
build/fuzz/lib if it is there, with sanitizers and coverage: ``make fuzz`` builds that.
"""

import argparse
import importlib.util
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where pytest finds it, too

from fuzz.target import CORPUS
from fuzz.targets import TARGETS

BUILD = Path(__file__).parents[2] / "build" / "fuzz"
FOUND = BUILD / "found"
LIMITS = ["-timeout=20", "-report_slow_units=20", "-rss_limit_mb=2048"]
"""Longer than any input may take, in seconds, and more than any may hold."""
MOST_KEPT_BYTES = 2_500
WATCHED = {name for name, target in TARGETS.items() if target.compiled}
SHARES = {True: 7, False: 3}
"""How much of the time a target gets that has compiled parts, and another."""


def _environment(name: str) -> dict[str, str] | None:
    """That of a process whose C is watched, where it was built for that."""
    if not (BUILD / "lib").is_dir() or name not in WATCHED:
        return None
    import atheris  # here, for the usage can be told without

    return os.environ | {
        "LD_PRELOAD": f"{atheris.path()}/asan_with_fuzzer.so",
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=16",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONSAFEPATH": "1",  # or the relay_app of this folder would be found first
        "PYTHONPATH": f"{BUILD / 'lib'}{os.pathsep}{BUILD.parents[1]}",
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=60, help="for all of them together")
    parser.add_argument(
        "--plain", action="store_true", help="without sanitizers: some four times as many inputs"
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="then put the least that reaches as much in tests/corpus",
    )
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(TARGETS)
    if unknown:
        parser.error(f"no target: {', '.join(sorted(unknown))}")
    return arguments


def _folder(*parts: str) -> Path:
    folder = BUILD.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _seeded(name: str) -> Path:
    folder = _folder("seeds", name)
    for number, seed in enumerate(TARGETS[name].seeds()):
        (folder / f"{number:03d}").write_bytes(seed)
    words = [
        '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in TARGETS[name].words
    ]
    (BUILD / "seeds" / f"{name}.dict").write_text("".join(words))
    return folder


def _libfuzzer(name: str, log: Path, *arguments: object) -> str:
    """Runs it; what it said."""
    command = [sys.executable, "-m", "tests.fuzz.one", name, *LIMITS, *map(str, arguments)]
    with log.open("w") as out:
        subprocess.run(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=_environment(name),
            cwd=BUILD.parents[1],
            check=False,
        )
    return log.read_text(errors="replace")


def _cpu_seconds() -> float:
    """Of all that has run and ended. A machine that stands still meanwhile does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(name: str, seconds: int) -> None:
    target = TARGETS[name]
    own, seeds = _folder("corpus", name), _seeded(name)
    folders = [own, seeds, *([CORPUS / name] if (CORPUS / name).is_dir() else [])]
    before = _cpu_seconds()
    said = _libfuzzer(
        name,
        BUILD / f"{name}.log",
        *folders,
        f"-max_total_time={seconds}",
        f"-max_len={target.max_bytes}",
        f"-dict={BUILD / 'seeds' / name}.dict",
        f"-artifact_prefix={_folder('found')}/{name}-",
        "-print_final_stats=1",
    )
    done = re.findall(r"^#(\d+)\s.*cov: (\d+) ft: (\d+) corp: (\d+)/(\S+)", said, re.MULTILINE)
    found = sorted(path.name for path in FOUND.glob(f"{name}-*"))
    if not done and not found:
        sys.exit(f"{name} did not run: see {BUILD / name}.log")
    runs, edges, features, files, size = done[-1] if done else ("0", "0", "0", "0", "0")
    used = _cpu_seconds() - before
    print(
        f"{name:10} {used:6.0f} s of CPU {int(runs):10,d} inputs {edges:>6} edges "
        f"{features:>6} features {files:>5} kept ({size})  found: {', '.join(found) or 'nothing'}",
        flush=True,
    )


def _keep(name: str) -> None:
    """The least of all inputs that reaches as much; those with a name of their own stay."""
    least = _folder("least", name)
    shutil.rmtree(least)
    least.mkdir()
    kept = CORPUS / name
    kept.mkdir(parents=True, exist_ok=True)
    everything = [kept, _folder("corpus", name), _seeded(name)]
    _libfuzzer(
        name,
        BUILD / f"{name}-merge.log",
        "-set_cover_merge=1",
        "-use_counters=0",
        least,
        *everything,
    )
    for path in kept.iterdir():
        if re.fullmatch("[0-9a-f]{40}", path.name):
            path.unlink()
    for path in least.iterdir():
        if path.stat().st_size <= MOST_KEPT_BYTES:
            shutil.copyfile(path, kept / path.name)
    sizes = [path.stat().st_size for path in kept.iterdir()]
    print(f"{name:10} keeps {len(sizes)} files, {sum(sizes):,d} bytes", flush=True)


def _main(names: Sequence[str], seconds: int, keep: bool) -> int:
    shares = {name: SHARES[TARGETS[name].compiled] for name in names}
    for name, share in shares.items():
        _run(name, seconds * share // sum(shares.values()))
    if keep:
        for name in names:
            _keep(name)
    return 1 if any(FOUND.iterdir()) else 0


if __name__ == "__main__":
    chosen = _arguments()
    if chosen.plain:
        WATCHED.clear()
    if importlib.util.find_spec("atheris") is None:
        sys.exit("There is no atheris here: make fuzz installs it.")
    sys.exit(_main(chosen.names or list(TARGETS), chosen.seconds, chosen.keep))
