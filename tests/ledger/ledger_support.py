"""What the ledger's tests share: records to write, a store on a thread, a store with a script."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import gevent

from relay_app.ledger.stores import By, Store, StoreError, Total
from relay_app.ledger.stores.keys import StoredKey
from relay_app.ledger.stores.leases import Ask, Lease, Limits
from relay_app.ledger.stores.memory import MemoryStore
from relay_app.ledger.stores.native import make_lock, sleep
from relay_app.ledger.stores.sql import SQLStore
from relay_app.ledger.stores.sqlite import SQLite
from relay_app.ledger.threads import call
from relay_app.meter.usage import Usage, UsageRecord, record_id


def make_record(unit: str = "resp_1", session: str = "sess_1", **changes: Any) -> UsageRecord:
    values: dict[str, Any] = {
        "id": record_id(session, unit),
        "session_id": session,
        "kind": "response",
        "source": "reported",
        "status": "completed",
        "key": "team-a",
        "upstream": "openai",
        "model": "gpt-realtime",
        "upstream_model": "gpt-realtime-2.1",
        "unit_id": unit,
        "started_at": 1_700_000_000.25,
        "ended_at": 1_700_000_001.5,
        "usage": Usage(
            input_text_tokens=10,
            input_audio_tokens=20,
            cached_audio_tokens=5,
            output_audio_tokens=40,
            transcription_seconds=1.5,
        ),
        "cost_usd": Decimal("0.0123"),
        "price": {"input_text": "4.00", "until": None},
        "usage_raw": '{"total_tokens":70}',
        "estimate": {"input_audio_tokens": 19},
    }
    return UsageRecord(**(values | changes))


def costing(microusd: int, unit: str = "resp_1", session: str = "sess_1", **changes: Any) -> Any:
    """A record that costs so much."""
    return make_record(unit, session, cost_usd=Decimal(microusd).scaleb(-6), **changes)


def make_ask(session: str = "sess_1", want: int = 0, *, spent: int = 0, **values: Any) -> Ask:
    """What ``session`` of team-a asks for. Limits are given by their names and ``budget``, which
    is 1,000 micro-dollars if nobody says otherwise."""
    budget = values.pop("budget", 1_000)
    names = [name for name in Limits.__dataclass_fields__ if name in values]
    limits = Limits(budget, **{name: values.pop(name) for name in names})
    values = {"key": "team-a", "limits": limits} | values
    return Ask(session, spent_microusd=spent, want_microusd=want, **values)


def spend_all(store: Store, relay: str, budget: int) -> None:
    """Be one session after another that asks for a little and spends what it is given, until
    nobody is given anything. Records of every other session arrive after it has ended."""
    for n in itertools.count():
        session, spent, late = f"{relay}-{n}", 0, []
        for unit in ("a", "b", "c"):
            (lease,) = store.lease([make_ask(session, 7, spent=spent, budget=budget)], seconds=60)
            if lease.refusal:
                return
            cost, spent = lease.held_microusd - spent, lease.held_microusd
            late.append([costing(cost // 2, unit, session, kind="residual")])
            late.append([costing(cost, unit, session)])
            while late and n % 2:
                store.write(late.pop(0))
        store.lease([make_ask(session, spent=spent, budget=budget, ends=True)], seconds=60)
        for records in late:
            store.write(records)


class OnThread:
    """A store whose methods run on a native thread, as they do in the relay."""

    def __init__(self, store: Store) -> None:
        self.direct = store

    def write(self, *records: UsageRecord) -> None:
        call(gevent.get_hub().threadpool, self.direct.write, records)

    def records(self, **filters: Any) -> list[UsageRecord]:
        return call(gevent.get_hub().threadpool, lambda: list(self.direct.records(**filters)))

    def totals(self, by: By, **filters: Any) -> list[Total]:
        return call(gevent.get_hub().threadpool, self.direct.totals, by, **filters)

    def lease(self, *asks: Ask, seconds: float = 60.0) -> list[Lease]:
        return call(gevent.get_hub().threadpool, lambda: self.direct.lease(asks, seconds=seconds))

    def ask(self, session: str = "sess_1", want: int = 0, **values: Any) -> Lease:
        """The answer to one ask: see :func:`make_ask`."""
        seconds = values.pop("seconds", 60.0)
        (lease,) = self.lease(make_ask(session, want, **values), seconds=seconds)
        return lease

    def keys(self) -> list[StoredKey]:
        return call(gevent.get_hub().threadpool, self.direct.keys)

    def put_key(self, key: StoredKey, *, instead_of: StoredKey | None = None) -> None:
        call(
            gevent.get_hub().threadpool,
            lambda: self.direct.put_key(key, instead_of=instead_of),
        )

    def forget(self, day: str) -> int:
        return call(gevent.get_hub().threadpool, self.direct.forget, day)

    def ping(self) -> None:
        call(gevent.get_hub().threadpool, self.direct.ping)

    def close(self) -> None:
        call(gevent.get_hub().threadpool, self.direct.close)


class ScriptedStore(MemoryStore):
    """A memory store whose writes follow a script, then succeed, and can be held at a gate."""

    def __init__(self, *script: Exception | None) -> None:
        super().__init__()
        self.script = list(script)
        self.calls: list[list[UsageRecord]] = []
        self.written: list[UsageRecord] = []
        self.closed = 0
        self._gate: Any = make_lock()

    def hold(self) -> None:
        """Let the next write begin, and not end before :meth:`release`."""
        self._gate.acquire()

    def release(self) -> None:
        self._gate.release()

    def write(self, records: Sequence[UsageRecord]) -> None:
        self.calls.append(list(records))
        with self._gate:
            outcome = self.script.pop(0) if self.script else None
            if outcome is not None and not getattr(outcome, "rejected", None):
                raise outcome
            bad = outcome.rejected if isinstance(outcome, StoreError) else {}
            good = [record for record in records if record.id not in bad]
            super().write(good)
            self.written.extend(good)
            if outcome is not None:
                raise outcome

    def close(self) -> None:
        self.closed += 1
        super().close()


class Elsewhere(SQLStore):
    """A SQLite store that pretends to be on another host, and behaves as told: ``up``,
    ``slow``, ``flaky`` or ``down``. What arrives is noted in the file ``arrivals``."""

    def __init__(self, folder: str, how: str) -> None:
        super().__init__(SQLite(f"{folder}/relay.db"))
        self.local = False
        self._how = how
        self._writes = 0
        self._arrivals = Path(folder) / "arrivals"

    def write(self, records: Sequence[UsageRecord]) -> None:
        self._writes += 1
        if self._how == "down" or (self._how == "flaky" and self._writes % 2):
            raise StoreError(self._how)
        if self._how == "slow":
            sleep(0.02)
        super().write(records)
        with self._arrivals.open("a") as file:
            file.write("".join(f"{r.session_id} {r.unit_id}\n" for r in records))


def until(condition: Callable[[], bool]) -> None:
    """Let the others run until ``condition`` holds; the test's own timeout is the limit.

    It is asked at each turn of the hub, for it may hold for no longer. But a thread that has let go
    of the interpreter would get it back after 5 ms only if nobody else did.
    """
    while not condition():
        gevent.sleep(0)
        sleep(0.00005)


def python(script: str, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
    """A Python process of its own, which finds this module too."""
    here = str(Path(__file__).parent)
    prelude = f"import sys; sys.path.insert(0, {here!r})\n"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", prelude + script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    """Its output, once it has ended well."""
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return out


def lines(process: "subprocess.Popen[str]") -> Iterator[str]:
    assert process.stdout is not None
    return (line.rstrip("\n") for line in process.stdout)


def kill(process: "subprocess.Popen[str]") -> list[str]:
    """Kill it, and what it had written that `lines` has not given yet: whole lines only.

    `communicate` would begin in the midst of a line: it reads beside the buffer that `lines` has
    read ahead into.
    """
    assert process.stdout is not None
    process.kill()
    rest = process.stdout.read().split("\n")[:-1]
    process.communicate()
    return rest
