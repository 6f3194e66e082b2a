"""Where a peer's time goes under load: ``python -m bench.profile [PEER] [--paced|--idle]``.

Prints which part of the relay is on the CPU, sampled by py-spy, as microseconds of a voice turn,
and system calls a turn, counted by perf (``apt-get install linux-perf``; as root). The rule: a
sample belongs to the first part in the list whose name its stack contains.
"""

import asyncio
import os
import re
import shutil
import sys
import tempfile
from asyncio.subprocess import PIPE, create_subprocess_exec
from collections import Counter
from pathlib import Path

import click
import uvloop

from bench.load import Load, Upstream
from bench.peers import PEERS, Running
from bench.processes import descendants
from bench.rounds import LOAD_CORES, running, window
from bench.workload import Turn

PARTS = (
    ("a record: commit by SQLite, on its thread", "_work_off"),
    ("a record: hand-over to that thread and back", "Accountant._flush"),
    ("a record: hold of response.done", "Pump._wait"),
    ("keeper, metrics", "Keeper._visit"),
    ("keeper, metrics", "Relay.publish"),
    ("a record: its price", "Pricer"),
    ("a record: response.done to usage record", "_response_done"),
    ("a record: into the outbox", "Bill._record"),
    ("metering: estimates", "Estimator"),
    ("metering: parsing what is counted", "loads_object"),
    ("metering: types, by peek", "peek"),
    ("metering: the ends of messages, unmasked", "Message."),
    ("metering: the rest", "_observe"),
    ("sending: the call", "Connection.send"),
    ("sending: around it", "Pump._send"),
    ("receiving: the call", "Connection.receive_into"),
    ("receiving: around it", "Link.receive"),
    ("metering: skims", "_skim_"),
    ("pump, messages", "Pump."),
    ("event loop, and what goes on it: express", "Hub.run"),
)
IDLE = "acquire_with_timeout"
"""Where the idle threads of gevent's pool wait; they use no CPU."""

CALLS = (
    "recvfrom", "sendto", "epoll_wait", "epoll_pwait", "epoll_ctl", "futex", "fdatasync",
    "pwrite64", "pread64", "read", "write", "writev", "getpid", "fcntl", "ioctl", "mmap", "munmap",
)  # fmt: skip


TURNS_PER_SECOND = 50
"""Of all paced sessions together, however many they are."""


async def profile(name: str, seconds: float, *, sessions: int, paced: bool, append_ms: int) -> str:
    """The two tables of a peer."""
    turn = Turn(append_seconds=append_ms / 1000)
    async with (
        Upstream(turn).serving() as upstream,
        running(PEERS[name], upstream, sessions=sessions) as peer,
    ):
        upstream.paced = paced
        load = Load(peer.url, upstream, peer.headers)
        await load.open(sessions)
        if paced:
            load.talk_paced(sessions / TURNS_PER_SECOND)
        else:
            load.talk_in_loop()
        await asyncio.sleep(3.0)
        spent = await window(load, peer, seconds)
        lines = [f"{name}: {1e6 * spent.cpu_seconds / spent.turns:.0f} µs a turn"]
        lines += await _samples(peer, load, seconds)
        lines += await _calls(peer, load, seconds)
        await load.leave()
    return "\n".join(lines)


async def idle(name: str, seconds: float, *, sessions: int) -> str:
    """What a second costs in which nobody says a word, by two numbers of sessions."""
    spent = []
    for count in (sessions // 10, sessions):
        async with (
            Upstream(Turn()).serving() as upstream,
            running(PEERS[name], upstream, sessions=count) as peer,
        ):
            load = Load(peer.url, upstream, peer.headers)
            await load.open(count)
            await asyncio.sleep(3.0)
            found = await window(load, peer, seconds)
            spent.append((count, 1e6 * found.cpu_seconds / found.seconds))
            await load.leave()
    (few, less), (many, more) = spent
    each = (more - less) / (many - few)
    return (
        f"{name}: {more:.0f} µs a second with {many:,} sessions, {less:.0f} with {few:,}: "
        f"{each:.1f} of one more"
    )


async def _samples(peer: Running, load: Load, seconds: float) -> list[str]:
    assert peer.process is not None
    spy = Path(sys.executable).with_name("py-spy")
    with tempfile.NamedTemporaryFile() as out:
        # The last to be started is the worker.
        pid = list(descendants(peer.process.pid))[-1]
        before, begun = _thread_seconds(pid), load.turns
        options = ["-d", f"{seconds:.0f}", "-r", "200", "-f", "raw", "-t", "-o", out.name]
        done = await create_subprocess_exec(
            str(spy), "record", "-p", str(pid), *options, stdout=PIPE, stderr=PIPE
        )
        _, said = await done.communicate()
        after, turns = _thread_seconds(pid), load.turns - begun
        stacks = Path(out.name).read_text().splitlines()
    if not stacks:
        return [f"no samples: {said.decode().strip()[-200:]}"]
    # A thread that waits for the disk is sampled too, so each thread's samples are worth the time
    # that it was on the CPU, all together.
    samples: dict[str, Counter[str]] = {}
    for stack, count in (line.rsplit(" ", 1) for line in stacks if IDLE not in line):
        part = next((part for part, name in PARTS if name in stack), "the rest")
        found = re.match(r"thread \((\d+)\)", stack)
        samples.setdefault(found[1] if found else "", Counter())[part] += int(count)
    spent: Counter[str] = Counter()
    for thread, parts in samples.items():
        micros = 1e6 * (after.get(thread, 0.0) - before.get(thread, 0.0)) / turns
        for part, count in parts.items():
            spent[part] += micros * count / parts.total()
    lines = ["", "| part | share | µs a turn |", "|---|---|---|"]
    for part, micros in spent.most_common():
        lines.append(f"| {part} | {micros / spent.total():.0%} | {micros:.0f} |")
    return lines


def _thread_seconds(pid: int) -> dict[str, float]:
    """CPU time of each thread, by its number."""
    tasks = Path(f"/proc/{pid}/task")
    return {t.name: int((t / "schedstat").read_text().split()[0]) / 1e9 for t in tasks.iterdir()}


async def _calls(peer: Running, load: Load, seconds: float) -> list[str]:
    assert peer.process is not None
    if shutil.which("perf") is None:
        return ["", "system calls: not counted, apt-get install linux-perf"]
    pids = ",".join(str(pid) for pid in descendants(peer.process.pid))
    events = [f"--event=syscalls:sys_enter_{call}" for call in CALLS]
    begun = load.turns
    counted = await create_subprocess_exec(
        "perf", "stat", "-x,", *events, "--event=context-switches", "-p", pids,
        "sleep", str(seconds), stderr=PIPE,
    )  # fmt: skip
    _, said = await counted.communicate()
    turns = load.turns - begun
    found = re.findall(r"^(\d+),,(?:syscalls:sys_enter_)?([\w-]+),", said.decode(), re.MULTILINE)
    if not found:
        return ["", f"system calls: not counted: {said.decode().strip()[:200]}"]
    each = [f"{call} {int(count) / turns:.2f}" for count, call in found if int(count)]
    return ["", f"calls a turn: {', '.join(each)}"]


@click.command()
@click.argument("peer", default="relay", type=click.Choice(list(PEERS)))
@click.option("--seconds", default=10.0, show_default=True)
@click.option("--paced", is_flag=True, help="100 paced sessions instead of 20 in a closed loop.")
@click.option("--idle", "silent", is_flag=True, help="1,000 sessions without a word.")
@click.option("--sessions", type=int, help="Another number of them.")
@click.option("--append-ms", default=100, show_default=True, help="Audio in one append.")
def main(
    peer: str, seconds: float, paced: bool, silent: bool, sessions: int | None, append_ms: int
) -> None:
    """Prints where PEER's time goes."""
    os.sched_setaffinity(0, LOAD_CORES)
    if silent:
        click.echo(uvloop.run(idle(peer, seconds, sessions=sessions or 1000)))
        return
    count = sessions or (100 if paced else 20)
    found = profile(peer, seconds, sessions=count, paced=paced, append_ms=append_ms)
    click.echo(uvloop.run(found))


if __name__ == "__main__":
    main()
