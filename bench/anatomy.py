"""What a session is made of: ``python -m bench.anatomy``.

Prints the memory of an idle session by part, as the relay's worker finds it when it looks at
itself, and the CPU of opening and closing one by part, sampled by py-spy. The rule: what is printed
as a sum was measured from outside; the parts only divide it.
"""

import asyncio
import gc
import json
import os
import re
import runpy
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, create_subprocess_exec
from collections import Counter, deque
from pathlib import Path
from types import BuiltinMethodType, CellType, FunctionType, MethodType
from typing import Any

import click
import uvloop
from greenlet import greenlet

from bench.load import Load, Upstream
from bench.peers import PEERS, Running
from bench.peers import python as peers
from bench.processes import Process, descendants, raise_file_limit, resident_bytes
from bench.rounds import LOAD_CORES, running, window
from bench.workload import Turn

LOOK = signal.SIGRTMIN + 1
REPORT = "BENCH_ANATOMY"
PAGE = os.sysconf("SC_PAGE_SIZE")
PLAIN = (
    dict, list, tuple, set, frozenset, deque, str, bytes, bytearray, int, float, MethodType,
    BuiltinMethodType, FunctionType, CellType,
)  # fmt: skip

SPARE_FILES = 1_000

_IDLE = re.compile(r"acquire_with_timeout|_work_off \([^;]*$")
"""Where threads wait that have nothing to do."""

PARTS = (
    ("log lines", "SessionLog."),
    ("dialling: connect", "Dialler._connect"),
    ("dialling: handshake", "Dialler._shake_hands"),
    ("the 101", "Carrier.open"),
    ("admitting: key, route, price, address", "RealtimeEndpoint.upgrade"),
    ("Flask: contexts, routing, response", "Flask.__call__"),
    ("the session's first event, metered", "Pump._observed"),
    ("pumps, links, their frames", "Reader._work"),
    ("farewells", "see_off"),
    ("the session: making, settling, counting it", "Conversation._run"),
    ("gunicorn: request, environ, the rest", "AsyncWorker.handle"),
    ("event loop, accepting", "Hub.run"),
)


# -- in the relay ----------------------------------------------------------------------------------


def serve() -> None:
    """gunicorn, which tells what its memory is made of when it is asked by a signal."""
    signal.signal(LOOK, lambda *_: Path(os.environ[REPORT]).write_text(json.dumps(census())))
    sys.argv[:1] = []
    runpy.run_module("gunicorn", run_name="__main__")


def census() -> dict[str, int]:
    """Bytes by part, of what was made since the worker began."""
    gc.collect()
    objects = gc.get_objects()
    greenlets = [o for o in objects if isinstance(o, greenlet) and o.gr_frame is not None]
    found = Counter({"C stacks of greenlets, saved": sum(g._stack_saved for g in greenlets)})
    # CPython gives each its first 16 kB; of those the kernel has given what was touched.
    found["Python stacks of greenlets, a page each"] = PAGE * len(greenlets)
    seen = {id(objects), id(greenlets)}
    queue = deque((o, part) for o in objects if (part := _part(type(o))))
    while queue:
        o, part = queue.popleft()
        if id(o) in seen:
            continue
        seen.add(id(o))
        found[part] += _size(o)
        queue.extend((r, part) for r in gc.get_referents(o) if type(r) in PLAIN)
    return dict(found)


def _part(kind: type) -> str:
    package, _, rest = kind.__module__.partition(".")
    if package == "relay_app":
        return f"objects of relay_app.{rest.split('.')[0]}"
    if package in ("gunicorn", "gevent"):
        return f"objects of {package}"
    return ""


def _size(o: Any) -> int:
    # Attributes of an object without slots lie beside it, and are nowhere counted.
    beside = 8 * len(o.__dict__) if type(o).__dictoffset__ and type(o) not in PLAIN else 0
    return sys.getsizeof(o) + beside


# -- beside it -------------------------------------------------------------------------------------


class _Anatomised(Process):
    """A relay whose gunicorn is ours."""

    def __init__(self, command: Any, **options: Any) -> None:
        at = command.index("--bind")
        gunicorn = ["gunicorn", "-c", "python:relay_app.web.gunicorn", *command[at:]]
        config = command[command.index("--config") + 1]
        serve = [sys.executable, "-c", "from bench.anatomy import serve; serve()", *gunicorn]
        super().__init__(serve, RELAY_CONFIG=config, **options)


async def memory(sessions: int) -> str:
    """What each of ``sessions`` idle ones takes."""
    with tempfile.NamedTemporaryFile() as report:
        os.environ[REPORT] = report.name
        async with (
            Upstream(Turn()).serving() as upstream,
            running(PEERS["relay"], upstream, sessions=sessions + 20) as peer,
        ):
            load = Load(peer.url, upstream, peer.headers)
            await load.open(20)
            before, then = _resident(peer), await _census(peer, report.name)
            await load.open(sessions)
            await asyncio.sleep(1.0)
            after, now = _resident(peer), await _census(peer, report.name)
            await load.leave()
    parts = Counter(now)
    parts.subtract(then)
    lines = [f"{part}: {size / sessions / 1000:.1f} kB" for part, size in parts.most_common()]
    return "\n".join(
        [f"resident memory of an idle session: {(after - before) / sessions / 1000:.1f} kB", *lines]
    )


def _worker(peer: Running) -> int:
    assert peer.process is not None
    return list(descendants(peer.process.pid))[-1]


def _resident(peer: Running) -> int:
    return resident_bytes(_worker(peer))


async def _census(peer: Running, report: str) -> dict[str, int]:
    Path(report).write_text("")
    os.kill(_worker(peer), LOOK)
    while not (text := Path(report).read_text()):
        await asyncio.sleep(0.1)
    counted: dict[str, int] = json.loads(text)
    return counted


async def coming_and_going(seconds: float) -> str:
    """The CPU of a session that is opened and closed at once."""
    async with (
        Upstream(Turn()).serving() as upstream,
        running(PEERS["relay"], upstream, sessions=200) as peer,
    ):
        load = Load(peer.url, upstream, peer.headers)
        load.leaving, enough, count = True, False, 0

        async def come_and_go() -> None:
            nonlocal count
            while not enough:
                await (await load.connect()).leave()
                count += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(come_and_go())
            await asyncio.sleep(1.0)
            before = count
            spent = await window(load, peer, seconds)
            each = 1e6 * spent.cpu_seconds / (count - before)
            stacks = await _samples(peer, seconds)
            enough = True
    parts: Counter[str] = Counter()
    for stack, samples in stacks:
        parts[next((part for part, name in PARTS if name in stack), "the rest")] += samples
    total = sum(parts.values())
    lines = [f"opening and closing a session: {each:.0f} µs"]
    for part, samples in parts.most_common():
        lines.append(f"{part}: {each * samples / total:.0f} µs")
    return "\n".join(lines)


async def _samples(peer: Running, seconds: float) -> list[tuple[str, int]]:
    spy = str(Path(sys.executable).with_name("py-spy"))
    with tempfile.NamedTemporaryFile() as out:
        options = ["-d", f"{seconds:.0f}", "-r", "400", "-f", "raw", "-o", out.name]
        done = await create_subprocess_exec(
            spy, "record", "-p", str(_worker(peer)), *options, stdout=DEVNULL, stderr=DEVNULL
        )
        await done.wait()
        found = re.findall(r"^(.*) (\d+)$", Path(out.name).read_text(), re.MULTILINE)
    return [(stack, int(count)) for stack, count in found if not _IDLE.search(stack)]


@click.command()
@click.option("--sessions", default=4000, show_default=True)  # fewer find room that was free
@click.option("--seconds", default=10.0, show_default=True)
def main(sessions: int, seconds: float) -> None:
    """Prints what a session is made of."""
    needs = raise_file_limit(2 * sessions + SPARE_FILES)
    if needs is not None:
        raise click.ClickException(f"{sessions} idle sessions: {needs}")
    os.sched_setaffinity(0, LOAD_CORES)
    click.echo(uvloop.run(coming_and_going(seconds)) + "\n")
    peers.Process = _Anatomised  # type: ignore[misc]
    click.echo(uvloop.run(memory(sessions)))


if __name__ == "__main__":
    main()
