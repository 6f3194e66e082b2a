"""The accountant: nothing lost, nothing doubled, order kept, and the hub never held up."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import gevent
import pytest
from ledger_support import OnThread, ScriptedStore, finish, make_record, python, until

from relay_app.errors import RelayFault
from relay_app.ledger.accountant import COMMIT_SECONDS, Accountant
from relay_app.ledger.outbox import Commit, LedgerClosed, LedgerFull
from relay_app.ledger.stores import StoreError, open_store

Maker = Callable[..., Accountant]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def test_a_commit_is_done_once_its_records_are_stored(store: OnThread, accountant: Maker) -> None:
    ledger = accountant(store.direct)
    commit = ledger.record([make_record("1"), make_record("2")])
    assert not commit.done
    assert commit.wait(30)
    assert (commit.done, commit.error) == (True, None)
    assert {record.unit_id for record in store.records()} == {"1", "2"}


def test_a_copy_that_a_fork_makes_while_records_gather_writes_nothing() -> None:
    script = """
import os
import gevent
from ledger_support import make_record
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.stores.memory import MemoryStore

parent, children = os.getpid(), []

class Store(MemoryStore):
    def write(self, records):
        os.write(1, b"written by the " + (b"parent" if os.getpid() == parent else b"child") + b". ")
        super().write(records)

ledger = Accountant(Store(), durability="async", flush_seconds=0.2)
commit = ledger.record([make_record("1")])
gevent.idle()  # by now it gathers
children.append(gevent.fork())
durable = commit.wait(2)
if os.getpid() != parent:
    os._exit(durable)
print(durable, os.waitpid(children[0], 0)[1])
"""
    assert finish(python(script)) == "written by the parent. True 0\n"


def test_a_copy_that_a_fork_makes_amid_checkpoints_leaves_in_silence() -> None:
    script = """
import os
import gevent
from ledger_support import make_record
from relay_app import breath
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.stores.memory import MemoryStore

breath.HOLD_SECONDS = 0.0
parent, made = os.getpid(), []
ledger = Accountant(MemoryStore())

def fork(copy):
    if gevent.fork():
        os.wait()
    else:
        asked = []
        ledger.checkpoint_soon(lambda: asked.append(gevent.getcurrent() is copy) or [])
        assert ledger.record([make_record("child")]).wait(30)
        copy.join(30)
        left = copy.successful() and not any(asked)
        os.write(1, b"the copy left. " if left else b"the copy went on. ")
        os._exit(0)

def make():
    if not made:
        gevent.spawn(fork, gevent.getcurrent())
    made.append(os.getpid() == parent)
    return [make_record(str(len(made)), kind="residual")]

for _ in range(3):
    ledger.checkpoint_soon(make)
while ledger.commits < 1 or os.getpid() != parent:
    gevent.sleep(0.01)
print(made)
"""
    assert finish(python(script)) == "the copy left. [True, True, True]\n"


def test_recording_nothing_is_done_at_once(accountant: Maker) -> None:
    commit = accountant(ScriptedStore()).record([])
    assert commit.done
    assert commit.wait(0)


def test_a_store_that_does_not_answer_is_known_before_anybody_records(
    accountant: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ScriptedStore()
    asked: list[str] = []

    def ping() -> None:
        asked.append("ping")
        if len(asked) < 3:
            raise StoreError("no disk")

    monkeypatch.setattr(store, "ping", ping)
    ledger = accountant(store)
    ledger.start()
    ledger.wait_tried(30)
    assert not ledger.healthy
    assert ledger.last_error == "StoreError: no disk"
    until(lambda: ledger.healthy)
    assert (len(asked), store.calls) == (3, [])


def test_construction_starts_nothing() -> None:
    threads, hub = threading.active_count(), gevent.get_hub()
    ledger = Accountant(ScriptedStore())
    assert ledger.flush(0)
    assert ledger.close(0)
    assert (threading.active_count(), gevent.get_hub()) == (threads, hub)


def test_all_who_wait_share_one_write(accountant: Maker) -> None:
    store = ScriptedStore()
    ledger = accountant(store)
    store.hold()
    first = ledger.record([make_record("first")])
    until(lambda: len(store.calls) == 1)
    sessions = [
        gevent.spawn(lambda n: ledger.record([make_record(str(n))]).wait(30), n) for n in range(200)
    ]
    until(lambda: ledger.pending == 201)
    store.release()
    gevent.joinall(sessions)
    assert first.done
    assert all(session.value for session in sessions)
    assert [len(call) for call in store.calls] == [1, 200]
    assert (ledger.commits, ledger.records_written, ledger.pending) == (2, 201, 0)


def test_the_hub_runs_on_while_the_store_is_slow(accountant: Maker) -> None:
    store = ScriptedStore()
    ledger = accountant(store)
    store.hold()
    commit = ledger.record([make_record()])
    until(lambda: len(store.calls) == 1)
    for _ in range(10_000):
        gevent.sleep(0)  # would never come back if the hub waited for the gate
    assert not commit.done
    assert not commit.wait(0.001)
    assert ledger.lag_seconds > 0
    store.release()
    assert commit.wait(30)
    assert ledger.lag_seconds == 0


def test_a_failing_store_loses_doubles_and_reorders_nothing(accountant: Maker) -> None:
    store = ScriptedStore(StoreError("full"), None, OSError("gone"), StoreError("full"), None)
    ledger = accountant(store)
    commits = []
    for n in range(50):
        commits.append(ledger.record([make_record(str(n))]))
        if n % 10 == 0:
            assert ledger.flush(30)
    assert ledger.flush(30)
    assert all(commit.durable for commit in commits)
    assert [record.unit_id for record in store.written] == [str(n) for n in range(50)]
    assert ledger.failures == 3
    assert ledger.records_written == 50


def test_failing_is_visible_while_it_lasts(
    accountant: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    store = ScriptedStore(*[StoreError("no redis://:hunter2@h/0") for _ in range(3)])
    delays: list[int] = []
    ledger = accountant(store, clock=lambda: 42.0, backoff=lambda n: delays.append(n) or 0.0)
    assert ledger.healthy
    store.hold()
    ledger.record([make_record()])
    until(lambda: len(store.calls) == 1)
    store.release()
    until(lambda: not ledger.healthy)
    assert ledger.failing_since == 42.0
    assert ledger.pending == 1
    assert ledger.flush(30)
    assert ledger.healthy
    assert ledger.failing_since is None
    assert delays == [1, 2, 3]
    assert ledger.last_error == "StoreError: no redis://***@h/0"
    assert [entry.levelname for entry in caplog.records] == ["ERROR", "WARNING"]
    assert "hunter2" not in caplog.text


def test_an_error_that_is_no_store_error_is_retried_too(accountant: Maker) -> None:
    store = ScriptedStore(RuntimeError("password=hunter2"))
    ledger = accountant(store)
    assert ledger.record([make_record()]).wait(30)
    assert ledger.last_error == "RuntimeError: password=***"


def test_a_refused_record_is_told_logged_and_not_retried(
    accountant: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    bad = make_record("bad", key="\udc80")
    store = ScriptedStore(StoreError("1 bad", rejected={bad.id: "no such text"}))
    ledger = accountant(store)
    good, mixed = ledger.record([make_record("1")]), ledger.record([make_record("2"), bad])
    assert good.wait(30)
    assert not mixed.wait(30)
    assert (mixed.done, mixed.error) == (True, "no such text")
    assert [record.unit_id for record in store.written] == ["1", "2"]
    assert (ledger.records_written, ledger.records_rejected, ledger.pending) == (2, 1, 0)
    assert ledger.healthy
    assert repr(bad) in caplog.text


def test_a_full_ledger_refuses_and_drops_nothing(accountant: Maker) -> None:
    store = ScriptedStore()
    ledger = accountant(store, max_pending=3)
    store.hold()
    ledger.record([make_record("1"), make_record("2")])
    with pytest.raises(LedgerFull) as caught:
        ledger.record([make_record("3"), make_record("4")])
    assert isinstance(caught.value, RelayFault)
    assert (caught.value.status, caught.value.close_code) == (503, 1011)
    ledger.record([make_record("3")])
    with pytest.raises(LedgerFull):
        ledger.record([make_record("4")])
    store.release()
    assert ledger.flush(30)
    ledger.record([make_record("4")])
    assert ledger.flush(30)
    assert [record.unit_id for record in store.written] == ["1", "2", "3", "4"]


def test_flush_gives_up_in_time_and_keeps_all(accountant: Maker) -> None:
    store = ScriptedStore()
    ledger = accountant(store)
    store.hold()
    commit = ledger.record([make_record()])
    assert not ledger.flush(0.001)
    assert ledger.pending == 1
    store.release()
    assert ledger.flush(30)
    assert commit.durable


def test_flush_does_not_sit_out_a_back_off(accountant: Maker) -> None:
    ledger = accountant(ScriptedStore(StoreError("full")), backoff=lambda failures: 10_000.0)
    ledger.record([make_record()])
    until(lambda: ledger.failures == 1)
    assert ledger.flush(30)


def test_async_records_gather_and_flush_does_not_wait_for_more(accountant: Maker) -> None:
    store = ScriptedStore()
    ledger = accountant(store, durability="async", flush_seconds=10_000.0)
    for n in range(5):
        ledger.record([make_record(str(n))])
        for _ in range(100):
            gevent.sleep(0)
    assert store.calls == []
    assert ledger.flush(30)
    assert [len(call) for call in store.calls] == [5]


def test_who_is_alone_waits_for_nobody_and_who_is_not_gathers(accountant: Maker) -> None:
    store = ScriptedStore()
    ledger = accountant(store, group_seconds=10_000.0)
    for n in range(3):
        assert ledger.record([make_record(f"alone {n}")]).wait(30)
    both = [ledger.record([make_record(f"shared {n}")]) for n in range(2)]
    assert all(commit.wait(30) for commit in both)
    for n in range(5):
        ledger.record([make_record(str(n))])
        for _ in range(100):
            gevent.sleep(0)
    assert [len(call) for call in store.calls] == [1, 1, 1, 2]
    assert ledger.flush(30)
    assert [len(call) for call in store.calls] == [1, 1, 1, 2, 5]


def test_a_pause_between_writes_is_over_by_itself(accountant: Maker) -> None:
    ledger = accountant(ScriptedStore())
    for _ in range(3):
        commits = [ledger.record([make_record(str(n))]) for n in range(20)]
        assert all(commit.wait(30) for commit in commits)


def test_close_stores_what_is_pending_and_ends_recording(accountant: Maker) -> None:
    store = ScriptedStore()
    ledger = accountant(store)
    commit = ledger.record([make_record()])
    assert ledger.close(30)
    assert commit.durable
    assert store.closed == 1
    assert ledger.close(30)
    assert store.closed == 1
    with pytest.raises(LedgerClosed):
        ledger.record([make_record()])


def test_a_close_in_vain_says_so_and_hands_back_the_records(
    accountant: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    store = ScriptedStore(*[StoreError("full")] * 1_000)
    ledger = accountant(store, backoff=lambda failures: 10_000.0)
    ledger.record([make_record()])
    assert not ledger.close(0.01)
    assert not ledger.close(0.01)
    assert ledger.unwritten == [make_record()]
    assert store.closed == 1
    assert "closed with 1 usage records unwritten" in caplog.text


def test_close_returns_though_the_store_hangs(
    accountant: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay_app.ledger.accountant.CLOSE_SECONDS", 0.01)
    store = ScriptedStore()
    ledger = accountant(store)
    store.hold()
    ledger.record([make_record()])
    assert not ledger.close(0.01)
    assert ledger.unwritten == [make_record()]
    store.release()


def test_a_killed_flusher_is_replaced_and_nothing_is_lost(accountant: Maker) -> None:
    store = ScriptedStore()
    ledger = accountant(store)
    store.hold()
    commit = ledger.record([make_record("1")])
    until(lambda: len(store.calls) == 1)
    assert ledger._flusher is not None
    ledger._flusher.kill()  # as a worker does that kills every greenlet it finds
    store.release()
    assert ledger.flush(30)
    assert commit.durable
    assert [record.unit_id for record in store.records()] == ["1"]


def test_a_close_cut_short_can_be_made_good(accountant: Maker) -> None:
    store = ScriptedStore()
    ledger = accountant(store)
    store.hold()
    ledger.record([make_record()])
    closing = gevent.spawn(ledger.close, 30)
    until(lambda: len(store.calls) == 1)
    closing.kill()
    store.release()
    assert ledger.close(30)
    assert len(store.written) == 1


def test_queries_do_not_wait_behind_a_write(accountant: Maker) -> None:
    store = ScriptedStore()
    ledger = accountant(store)
    main = threading.get_native_id()
    store.hold()
    ledger.record([make_record()])
    until(lambda: len(store.calls) == 1)
    assert ledger.run(threading.get_native_id) != main
    with pytest.raises(ZeroDivisionError):
        ledger.run(divmod, 1, 0)
    store.release()


def test_queries_can_be_made_before_the_first_record(accountant: Maker) -> None:
    assert accountant(ScriptedStore()).run(sum, [1, 2]) == 3


def test_another_threads_hub_is_turned_away(accountant: Maker) -> None:
    ledger = accountant(ScriptedStore())
    ledger.start()
    errors: list[Exception] = []

    def elsewhere() -> None:
        try:
            ledger.record([make_record()])
        except RuntimeError as error:
            errors.append(error)
        finally:
            gevent.get_hub().destroy()

    gevent.get_hub().threadpool.spawn(elsewhere).get()
    assert "one hub" in str(errors)


def test_commits_are_timed_and_counted(accountant: Maker) -> None:
    ledger = accountant(ScriptedStore())
    for n in range(3):
        ledger.record([make_record(str(n))]).wait(30)
    assert ledger.commits == sum(ledger.commit_counts) == 3
    assert len(ledger.commit_counts) == len(COMMIT_SECONDS) + 1
    assert ledger.commit_seconds > 0


def test_commits_settle_in_the_order_they_were_recorded(accountant: Maker) -> None:
    ledger = accountant(ScriptedStore(StoreError("full")))
    commits: list[Commit] = [ledger.record([make_record(str(n))]) for n in range(20)]
    commits[-1].wait(30)
    assert all(commit.done for commit in commits)


def test_a_ledger_made_before_a_fork_works_on_both_sides(tmp_path: Path) -> None:
    script = """
from gevent import monkey; monkey.patch_all()
import os
from ledger_support import make_record
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.stores import open_store
ledger = Accountant(open_store(sys.argv[1]))
child = os.fork()
assert ledger.record([make_record("parent" if child else "child")]).wait(30)
assert ledger.close(30)
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    url = f"sqlite:///{tmp_path}/relay.db"
    finish(python(script, url))
    store = OnThread(open_store(url))
    assert {record.unit_id for record in store.records()} == {"parent", "child"}
    store.close()


def test_a_child_forked_amid_recording_starts_afresh() -> None:
    script = """
from gevent import monkey; monkey.patch_all()
import os
from ledger_support import ScriptedStore, make_record, until
from relay_app.ledger.accountant import Accountant
store = ScriptedStore()
ledger = Accountant(store)
assert ledger.record([make_record("before")]).wait(30)
queued = ledger.record([make_record("queued")])
child = os.fork()
if not child:
    assert ledger.record([make_record("child")]).wait(30)
    assert [r.unit_id for r in store.written] == ["before", "child"], store.written
    assert (ledger.commits, ledger.records_written, ledger.pending) == (1, 1, 0)
assert ledger.close(30)
if child:
    assert queued.durable
    assert os.waitpid(child, 0)[1] == 0
"""
    finish(python(script))
