"""The load talks, compares what it gets, and notices what a relay did to it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from picows import WSMsgType

from bench.load import KEY, Load, Upstream
from bench.workload import Turn

ROOT = Path(__file__).parents[2]


def run(use: Callable[[Load], Awaitable[None]], turn: Turn) -> Load:
    """A load straight on its provider, both of them comparing every byte."""

    async def main() -> Load:
        async with Upstream(turn).serving() as upstream:
            headers = {"Authorization": f"Bearer {KEY}"}
            load = Load(f"ws://127.0.0.1:{upstream.port}", upstream, headers)
            load.check = upstream.check = True
            await load.open(2)
            await use(load)
            await load.leave()
            return load

    return asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def test_sessions_in_a_closed_loop_get_every_byte_of_their_turns():
    async def two_turns(load: Load) -> None:
        load.talk_in_loop()
        await until(lambda: load.turns >= 4)

    load = run(two_turns, Turn())
    assert load.turns >= 4
    assert (load.mismatched, load.upstream.mismatched, load.upstream.lost) == (0, 0, 0)
    assert load.dropped == 0


def test_paced_sessions_are_timed():
    async def two_turns(load: Load) -> None:
        load.upstream.paced = True
        load.time_from_now()
        load.talk_paced(0.1)
        await until(lambda: load.turns >= 4)

    turn = Turn(append_seconds=1.0, deltas=4)
    turn.append_seconds = 0.01  # a hasty speaker, whose turns pile up
    load = run(two_turns, turn)
    assert len(load.audio_seconds) >= 16
    assert all(0 < seconds < 20 for seconds in load.audio_seconds)
    assert (load.mismatched, load.upstream.mismatched) == (0, 0)


def test_a_changed_byte_is_noticed():
    async def tamper(load: Load) -> None:
        client = load.clients[0]
        tampered = load.turn.append.replace(b"AADMA", b"AADMB", 1)
        client.transport.send(WSMsgType.TEXT, tampered)
        client.talk()
        await until(lambda: load.turns >= 1)

    load = run(tamper, Turn())
    assert load.upstream.mismatched == 1
    assert load.upstream.lost == -1


def test_the_command_measures_the_naive_relay_and_writes_what_it_found(tmp_path):
    out = tmp_path / "results.json"
    options = ["--rounds", "1", "--seconds", "0.5", "--peers", "direct,naive", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "closed-loop", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    found = results["scenarios"]["closed-loop"]
    assert not found["skipped"]
    naive = found["median"]["naive"]
    assert naive["turns_per_second"] > 0
    assert naive["cpu_ms_per_turn"] > 0
    assert naive["dropped"] == 0
    assert "CPU per voice turn, closed loop, ms" in done.stdout
    assert results["versions"]["gevent"]
