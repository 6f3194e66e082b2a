"""What both networked stores promise beyond the contract: races, size, and where they wait."""

import gc
import tracemalloc
from itertools import islice

import pytest
from ledger_support import OnThread, finish, kill, lines, make_record, python
from store_support import WRITER

from relay_app.ledger.stores import open_store


@pytest.fixture(params=["postgres", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


def test_several_processes_create_and_write_one_store_at_once(url: str) -> None:
    processes = [python(WRITER, url, str(n), "20") for n in range(4)]
    acknowledged = {unit for each in processes for unit in finish(each).split()}
    store = OnThread(open_store(url))
    found = store.records()
    store.close()
    shared = [record for record in found if record.unit_id.startswith("shared")]
    assert {record.unit_id for record in found} == acknowledged | {f"shared-{n}" for n in range(8)}
    assert len(found) == 4 * 20 + 8
    # Every writer wrote every rank of every shared record; the highest stands.
    assert [record.source for record in shared] == ["reported"] * 8


def test_a_kill_amid_writing_loses_nothing_that_was_acknowledged(url: str) -> None:
    process = python(WRITER, url, "0", "100000")
    acknowledged = set(islice(lines(process), 30))
    acknowledged |= set(kill(process))
    store = OnThread(open_store(url))
    found = {record.unit_id for record in store.records(session_id="0")}
    store.close()
    assert acknowledged <= found


def test_memory_does_not_grow_with_the_number_of_records(url: str) -> None:
    store = OnThread(open_store(url))

    def peak(records: int) -> int:
        for start in range(0, records, 500):
            batch = range(start, start + 500)
            store.write(*(make_record(str(n), f"s{n % 50}", ended_at=float(n // 2)) for n in batch))
        gc.collect()
        tracemalloc.start()
        try:
            assert sum(1 for _ in store.direct.records()) == records
            (total,) = store.totals("key")
            assert (total.records, total.sessions) == (records, 50)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(500), peak(5_000)
    store.close()
    assert many < 2 * few + 1_000_000


NATIVE = """
import os
if sys.argv[2] == "patched":
    from gevent import monkey; monkey.patch_all()
import gc, gevent, time
from gevent.hub import Hub
from ledger_support import make_record
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.stores import open_store

def descriptors():
    return len(os.listdir("/proc/self/fd"))

store = open_store(sys.argv[1])
ledger = Accountant(store)
assert ledger.record([make_record("first")]).wait(30)
ledger.run(store.ping)
gc.collect()
before = descriptors()
beats = 0

def beat():
    global beats
    while True:
        gevent.sleep(0.001)
        beats += 1

heart = gevent.spawn(beat)
def session(n):
    for m in range(10):
        assert ledger.record([make_record(f"{n}-{m}", f"s{n}")]).wait(30)
        if m % 5 == 0:
            ledger.run(store.totals, "key")
            gevent.get_hub().threadpool.apply(lambda: list(store.records(session_id=f"s{n}")))
gevent.joinall([gevent.spawn(session, n) for n in range(10)], raise_error=True)
heart.kill()
gc.collect()
hubs = [each for each in gc.get_objects() if isinstance(each, Hub)]
print(len(hubs), descriptors() - before, beats > 20)
assert ledger.close(30)
"""


@pytest.mark.parametrize("patched", ["patched", "unpatched"])
def test_stores_wait_on_their_thread_and_never_on_a_hub(url: str, patched: str) -> None:
    hubs, more_descriptors, hub_ran_on = finish(python(NATIVE, url, patched)).split()
    assert (hubs, more_descriptors, hub_ran_on) == ("1", "0", "True")
