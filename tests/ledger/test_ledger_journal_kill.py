"""Kills: what a worker acknowledged is in the store once, whoever died and whoever replays."""

import random
from collections import Counter
from pathlib import Path

import pytest
from ledger_support import OnThread, finish, kill, lines, make_record, python

from relay_app.ledger.journal import Journal
from relay_app.ledger.stores import open_store

WORKER = """
from gevent import monkey; monkey.patch_all()
import gevent
from itertools import count
from ledger_support import Elsewhere, make_record
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.journal import Journal
path, life, how = sys.argv[1:]
ledger = Accountant(Elsewhere(path, how), journal=Journal(f"{path}/journal", max_bytes=1 << 22))

def session(name):
    for n in count():
        guess = make_record(str(n), name, source="estimated", status="dropped", ended_at=float(n))
        assert ledger.record([guess]).wait(60)
        assert ledger.record([make_record(str(n), name, ended_at=float(n))]).wait(60)
        print(name, n, flush=True)

gevent.joinall([gevent.spawn(session, f"{life}-{n}") for n in range(20)], raise_error=True)
"""
"""Twenty sessions that record a checkpoint and the report of each unit, and say so when durable."""

SUCCESSOR = """
from gevent import monkey; monkey.patch_all()
import gevent
from ledger_support import Elsewhere
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.journal import Journal
path, = sys.argv[1:]
journal = Journal(f"{path}/journal")
ledger = Accountant(Elsewhere(path, "up"), journal=journal)
ledger.start()
while not journal.backlog.adopted_bytes or journal.backlog.unshipped_bytes:
    gevent.sleep(0.001)
assert ledger.close(60)
print(journal.backlog.damaged_bytes)
"""


@pytest.mark.timeout(400)  # some thirty processes
def test_20_kills_at_random_instants_lose_double_and_reorder_nothing(tmp_path: Path) -> None:
    dice = random.Random()
    acknowledged: set[tuple[str, int]] = set()
    left = 0
    for life in range(20):
        # A store that works, one that is slow, one that fails now and then, one that is down.
        how = ("up", "slow", "flaky", "down")[life % 4]
        process = python(WORKER, str(tmp_path), f"life{life}", how)
        seen = lines(process)
        said = [next(seen) for _ in range(dice.randrange(1, 300))]
        said += kill(process)
        acknowledged |= {(name, int(n)) for name, n in map(str.split, said)}
        left += len(list(tmp_path.glob("journal/*.journal")))
        if life % 5 == 4:
            damaged = int(finish(python(SUCCESSOR, str(tmp_path))))
            check(tmp_path, acknowledged)
            # A write that the kill cut short was never acknowledged; it is set aside.
            assert len(list(tmp_path.glob("journal/*"))) <= damaged
    assert left >= 20


def check(folder: Path, acknowledged: set[tuple[str, int]]) -> None:
    store = OnThread(open_store(f"sqlite:///{folder}/relay.db"))
    records = store.records()
    store.close()
    sources = {(r.session_id, int(r.unit_id)): r.source for r in records}
    assert len(sources) == len(records)
    assert [unit for unit in acknowledged if sources.get(unit) != "reported"] == []
    arrived: Counter[str] = Counter()
    for line in (folder / "arrivals").read_text().splitlines():
        name, n = line.split()
        # Shipped again is fine, shipped before its predecessor is not.
        assert int(n) <= arrived[name]
        arrived[name] = max(arrived[name], int(n) + 1)
    assert arrived == Counter(name for name, _ in sources)


RIVAL = """
from relay_app.ledger.journal import Journal
journal = Journal(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(journal.backlog.adopt())
while (batch := journal.backlog.read()) is not None:
    for record in batch.records:
        print(record.unit_id)
    journal.backlog.shipped(batch)
journal.close()
"""


def test_of_starters_that_race_each_file_is_adopted_by_one(tmp_path: Path) -> None:
    for n in range(30):
        dead = Journal(tmp_path)
        dead.write([make_record(f"{n}-{part}") for part in range(3)])
        dead.forget()
    rivals = [python(RIVAL, str(tmp_path), stdin=-1) for _ in range(4)]
    for rival in rivals:
        assert next(lines(rival)) == "ready"
    for rival in rivals:
        assert rival.stdin is not None
        rival.stdin.write("\n")
        rival.stdin.flush()
    shipped = [line for rival in rivals for line in finish(rival).splitlines()]
    units = Counter(line for line in shipped if "-" in line)
    assert units == Counter(f"{n}-{part}" for n in range(30) for part in range(3))
    assert sum(int(line) for line in shipped if "-" not in line) == 30
    assert list(tmp_path.iterdir()) == []
