"""An accountant with a journal: durable at once, shipped when the store can, in order."""

import errno
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest
from ledger_support import ScriptedStore, finish, make_record, python, until

from relay_app.ledger import shipper
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.journal import Journal
from relay_app.ledger.outbox import LedgerFull
from relay_app.ledger.stores import StoreError
from relay_app.ledger.stores.native import make_lock

Maker = Callable[..., Accountant]
DOWN = [StoreError("down")]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


class Gate:
    """A sync that can be held up, and counts."""

    def __init__(self) -> None:
        self.calls = 0
        self._lock = make_lock()

    def __call__(self, descriptor: int) -> None:
        self.calls += 1
        with self._lock:
            os.fdatasync(descriptor)

    def shut(self) -> None:
        self._lock.__enter__()

    def open(self) -> None:
        self._lock.__exit__(None, None, None)


class Full:
    """A write that finds no space while it is told so."""

    full = False

    def __call__(self, descriptor: int, data: memoryview) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(descriptor, data)


@pytest.fixture
def journalled(tmp_path: Path) -> Iterator[Maker]:
    """A maker of accountants with a journal in one folder, that retry at once."""
    made: list[Accountant] = []

    def make(store: ScriptedStore, **options: object) -> Accountant:
        disk = {name: options.pop(name) for name in ("max_bytes", "write_bytes", "sync")
                if name in options}  # fmt: skip
        options.setdefault("backoff", lambda failures: 0.0)
        journal = Journal(tmp_path / "journal", **disk)  # type: ignore[arg-type]
        made.append(Accountant(store, journal=journal, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close(5.0)


def units(store: ScriptedStore) -> list[str]:
    return [record.unit_id for record in store.written]


def shipped(ledger: Accountant) -> bool:
    assert ledger.journal is not None
    return ledger.pending == 0 and ledger.journal.backlog.unshipped_bytes == 0


def files(folder: Path) -> list[str]:
    return [path.name for path in (folder / "journal").glob("*")]


def test_a_commit_is_done_in_the_journal_and_shipped_behind_its_back(journalled: Maker) -> None:
    store = ScriptedStore()
    ledger = journalled(store)
    store.hold()
    commit = ledger.record([make_record("1"), make_record("2")])
    assert commit.wait(30)
    assert store.written == []
    assert (ledger.pending, ledger.records_written) == (0, 2)
    store.release()
    until(lambda: shipped(ledger))
    assert units(store) == ["1", "2"]


def test_construction_starts_nothing_and_touches_no_file(journalled: Maker, tmp_path: Path) -> None:
    ledger = journalled(ScriptedStore())
    assert ledger.flush(0)
    assert ledger.close(0)
    assert not (tmp_path / "journal").exists()


def test_a_start_proves_that_the_journal_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ledger = Accountant(ScriptedStore(), journal=Journal(tmp_path / "file" / "journal"))
    ledger.start()
    until(lambda: not ledger.healthy)
    assert "File exists" in str(ledger.last_error)
    (tmp_path / "file").unlink()
    ledger.flush(0)
    ledger.record([make_record()])
    assert ledger.flush(30)
    assert ledger.healthy
    assert ledger.close(30)


def test_200_who_wait_share_one_sync(journalled: Maker) -> None:
    gate = Gate()
    ledger = journalled(ScriptedStore(), sync=gate)
    assert ledger.record([make_record("first")]).wait(30)
    gate.shut()
    before = gate.calls
    blocked = ledger.record([make_record("blocked")])
    until(lambda: gate.calls == before + 1)
    sessions = [
        gevent.spawn(lambda n: ledger.record([make_record(str(n))]).wait(30), n) for n in range(200)
    ]
    until(lambda: ledger.pending == 201)
    gate.open()
    gevent.joinall(sessions)
    assert blocked.done
    assert all(session.value for session in sessions)
    assert gate.calls == before + 2


def test_the_hub_ticks_on_while_the_disk_is_slow(journalled: Maker) -> None:
    gate = Gate()
    ledger = journalled(ScriptedStore(), sync=gate)
    assert ledger.record([make_record("first")]).wait(30)
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            gevent.sleep(0)

    ticking = gevent.spawn(tick)
    gate.shut()
    commit = ledger.record([make_record()])
    until(lambda: ticks > 10_000)  # would never come if the hub waited for the disk
    assert not commit.done
    assert ledger.lag_seconds > 0
    gate.open()
    assert commit.wait(30)
    ticking.kill()


def test_a_store_that_is_down_refuses_nobody_and_gets_all_in_order_later(
    journalled: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    store = ScriptedStore(*DOWN * 1_000_000)
    ledger = journalled(store, backoff=lambda failures: 0.001)
    for n in range(300):
        assert ledger.record([make_record(str(n), ended_at=1e9)]).wait(30)
    assert ledger.shipper is not None
    until(lambda: ledger.shipper.writer.failures > 2)
    assert (ledger.healthy, ledger.failures, ledger.pending) == (True, 0, 0)
    assert ledger.warning is not None
    assert ledger.warning.startswith("the journal grows: ")
    assert "StoreError: down" in ledger.warning
    assert ledger.shipper.oldest_seconds > 1e6
    store.script.clear()
    until(lambda: shipped(ledger))
    assert units(store) == [str(n) for n in range(300)]
    assert (ledger.warning, ledger.shipper.oldest_seconds) == (None, 0.0)
    texts = [entry.getMessage() for entry in caplog.records]
    assert texts[0] == "the store fails, usage waits in the journal: StoreError: down"
    assert texts[1].startswith("the store works again")
    assert len(texts) == 2


def test_a_store_that_loses_some_writes_doubles_and_reorders_nothing(journalled: Maker) -> None:
    store = ScriptedStore(StoreError("full"), None, OSError("gone"), StoreError("full"), None)
    ledger = journalled(store)
    for n in range(50):
        ledger.record([make_record(str(n))])
        if n % 10 == 0:
            assert ledger.flush(30)
    assert ledger.flush(30)
    until(lambda: shipped(ledger))
    assert units(store) == [str(n) for n in range(50)]


def test_a_long_outage_takes_no_memory_and_is_drained_in_batches(journalled: Maker) -> None:
    store = ScriptedStore(*DOWN)
    ledger = journalled(store, max_pending=50, backoff=lambda failures: 1_000.0)
    total = 0
    for n in range(40):
        records = [make_record(f"{n}-{part}", usage_raw="x" * 4000) for part in range(50)]
        assert ledger.record(records).wait(30)
        total += len(records)
    assert ledger.pending == 0
    assert len(store.calls) == 1
    assert ledger.shipper is not None
    ledger.shipper._hurry.set()
    until(lambda: shipped(ledger))
    assert len(store.written) == total
    assert len(store.calls) > 20
    assert max(len(call) for call in store.calls) < 100


def test_what_the_store_refuses_for_good_is_logged_and_holds_up_nothing(
    journalled: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    bad = make_record("bad")
    store = ScriptedStore(StoreError("1 bad", rejected={bad.id: "no such text"}))
    ledger = journalled(store)
    store.hold()
    assert ledger.record([make_record("1"), bad, make_record("2")]).wait(30)
    store.release()
    until(lambda: shipped(ledger))
    assert units(store) == ["1", "2"]
    assert ledger.records_rejected == 1
    assert repr(bad) in caplog.text


def test_checkpoints_of_one_response_are_one_row_of_a_write(journalled: Maker) -> None:
    store = ScriptedStore(*DOWN)
    ledger = journalled(store, backoff=lambda failures: 1_000.0)
    for n in range(100):
        guess = make_record("long", source="estimated", status="dropped", ended_at=1e9 + n)
        assert ledger.record([guess]).wait(30)
        assert ledger.record([make_record(f"other {n}")]).wait(30)
    assert ledger.record([make_record("long", ended_at=2e9)]).wait(30)
    assert ledger.shipper is not None
    ledger.shipper._hurry.set()
    until(lambda: shipped(ledger))
    assert units(store) == [*(f"other {n}" for n in range(100)), "long"]
    assert store.written[-1] == make_record("long", ended_at=2e9)


# Full disks.


def test_a_full_disk_refuses_new_sessions_says_so_and_is_forgotten_when_over(
    journalled: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Full()
    store = ScriptedStore()
    ledger = journalled(store, write_bytes=disk, max_pending=10, backoff=lambda failures: 0.001)
    assert ledger.record([make_record("before")]).wait(30)
    disk.full = True
    commit = ledger.record([make_record("0")])
    assert not commit.wait(0.02)
    until(lambda: not ledger.healthy)
    for n in range(1, 10):
        ledger.record([make_record(str(n))])
    with pytest.raises(LedgerFull):
        ledger.record([make_record("too many")])
    assert (ledger.pending, len(ledger.unwritten)) == (10, 10)
    assert ledger.failures > 0
    disk.full = False
    assert ledger.flush(30)
    assert ledger.healthy
    assert commit.durable
    until(lambda: shipped(ledger))
    assert units(store) == ["before", *map(str, range(10))]
    texts = [entry.getMessage() for entry in caplog.records]
    assert "the journal fails, usage waits in memory: OSError: [Errno 28]" in texts[0]
    assert texts[1].startswith("the journal works again")


def test_a_crowded_journal_is_for_the_open_sessions_only(journalled: Maker) -> None:
    store = ScriptedStore(*DOWN * 1_000_000)
    ledger = journalled(store, max_bytes=50_000, max_pending=10, backoff=lambda failures: 0.001)
    assert ledger.journal is not None
    written = 0
    while ledger.healthy:
        assert ledger.record([make_record(str(written))]).wait(30)
        written += 1
    assert ledger.failing_since is None
    assert 45_000 <= ledger.journal.backlog.unshipped_bytes < 46_000
    while ledger.record([make_record(str(written))]).wait(0.2):
        written += 1
    written += 1
    assert ledger.journal.backlog.unshipped_bytes <= 50_000
    assert "the journal is full" in str(ledger.last_error)
    store.script.clear()
    assert ledger.flush(30)
    until(lambda: shipped(ledger))
    assert ledger.healthy
    assert units(store) == [str(n) for n in range(written)]


# The end, and the next beginning.


def test_async_puts_at_most_50_ms_at_risk(journalled: Maker) -> None:
    ledger = journalled(ScriptedStore(), durability="async")
    assert ledger._flush_seconds == 0.05
    commits = []
    for n in range(5):
        commits.append(ledger.record([make_record(str(n))]))
        gevent.sleep(0)
    assert not commits[-1].done
    assert commits[0].wait(30)
    assert commits[-1].done
    assert ledger.commits == 1


def test_close_ships_what_is_left_and_leaves_no_file(journalled: Maker, tmp_path: Path) -> None:
    store = ScriptedStore()
    ledger = journalled(store)
    ledger.record([make_record()])
    assert ledger.close(30)
    assert units(store) == ["resp_1"]
    assert store.closed == 1
    assert files(tmp_path) == []
    assert ledger.close(30)


def test_close_does_not_wait_for_a_store_that_is_down_and_the_next_worker_ships(
    journalled: Maker, tmp_path: Path
) -> None:
    ledger = journalled(ScriptedStore(*DOWN * 1_000), backoff=lambda failures: 10_000.0)
    ledger.record([make_record("1")])
    assert ledger.flush(30)
    with gevent.Timeout(30):
        assert ledger.close(10_000)
    assert ledger.unwritten == []
    assert len(files(tmp_path)) == 1
    store = ScriptedStore()
    successor = journalled(store)
    successor.start()
    until(lambda: shipped(successor) and bool(store.written))
    assert units(store) == ["1"]


def test_close_returns_in_time_though_the_store_hangs(
    journalled: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay_app.ledger.accountant.CLOSE_SECONDS", 0.01)
    store = ScriptedStore()
    ledger = journalled(store)
    store.hold()
    ledger.record([make_record()])
    until(lambda: len(store.calls) == 1)
    assert ledger.close(0.01)
    assert len(files(tmp_path)) == 1
    store.release()


def test_at_the_end_a_full_disk_is_passed_by(journalled: Maker) -> None:
    disk = Full()
    store = ScriptedStore()
    ledger = journalled(store, write_bytes=disk, backoff=lambda failures: 0.001)
    disk.full = True
    ledger.record([make_record()])
    assert ledger.close(0.05)
    assert units(store) == ["resp_1"]
    assert ledger.unwritten == []


def test_at_the_end_with_neither_disk_nor_store_the_records_are_handed_back(
    journalled: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Full()
    ledger = journalled(ScriptedStore(*DOWN * 1_000), write_bytes=disk)
    disk.full = True
    ledger.record([make_record()])
    assert not ledger.close(0.05)
    assert ledger.unwritten == [make_record()]
    assert "closed with 1 usage records unwritten" in caplog.text


def test_a_siblings_death_is_noticed_later_too(
    journalled: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipper, "LOOK_SECONDS", 0.01)
    store = ScriptedStore()
    ledger = journalled(store)
    assert ledger.record([make_record("own")]).wait(30)
    until(lambda: shipped(ledger))
    sibling = Journal(tmp_path / "journal")
    sibling.write([make_record("sibling")])
    sibling.forget()  # its lock goes as with its death
    until(lambda: len(store.written) == 2)
    assert units(store) == ["own", "sibling"]


def test_a_killed_shipper_is_replaced_by_the_next_record(journalled: Maker) -> None:
    store = ScriptedStore()
    ledger = journalled(store)
    assert ledger.record([make_record("1")]).wait(30)
    assert ledger.shipper is not None
    assert ledger.shipper._greenlet is not None
    ledger.shipper._greenlet.kill()
    assert ledger.record([make_record("2")]).wait(30)
    until(lambda: shipped(ledger))
    assert {record.unit_id for record in store.records()} == {"1", "2"}


def test_a_child_forked_amid_recording_starts_afresh(tmp_path: Path) -> None:
    script = """
from gevent import monkey; monkey.patch_all()
import os
from ledger_support import ScriptedStore, make_record, until
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.journal import Journal
store = ScriptedStore()
ledger = Accountant(store, journal=Journal(sys.argv[1]))
assert ledger.record([make_record("before")]).wait(30)
until(lambda: len(store.written) == 1)
queued = ledger.record([make_record("queued")])
child = os.fork()
if not child:
    assert ledger.record([make_record("child")]).wait(30)
    until(lambda: len(store.written) == 2)
    assert [r.unit_id for r in store.written] == ["before", "child"], store.written
assert ledger.close(30)
if child:
    assert queued.durable
    assert [r.unit_id for r in store.written] == ["before", "queued"], store.written
    assert os.waitpid(child, 0)[1] == 0
"""
    finish(python(script, str(tmp_path)))
    assert list(tmp_path.iterdir()) == []
