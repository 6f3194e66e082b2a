"""Servers that stop, crash, hang and come back, with the accountant in front of them."""

import logging
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import gevent
import pytest
from ledger_support import OnThread, make_record
from store_support import Wire, wire
from support.servers import PASSWORD, Postgres, Server, Valkey, running_server

from relay_app.ledger.accountant import Accountant
from relay_app.ledger.stores import StoreError, open_store

Maker = Callable[..., Accountant]
KINDS = {"postgres": Postgres, "redis": Valkey}
IMPATIENT = {
    "postgresql+psycopg": "options=-cstatement_timeout%3D1000",
    "redis": "timeout=1",
}


@pytest.fixture(scope="module", params=list(KINDS))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of our own, whatever the environment says: this one gets hurt."""
    with running_server(KINDS[request.param]) as started:
        yield started


@dataclass
class Outage:
    """A server, a wire to it, and the store at the end of the wire."""

    server: Server
    wire: Wire
    store: OnThread


@pytest.fixture
def outage(server: Server) -> Iterator[Outage]:
    if server.process is None:
        server.start()
    with wire(server.port) as proxy:
        url = server.url.replace(f":{server.port}", f":{proxy.port}")
        # Impatient, so that a server's silence ends within the test.
        url += "?connect_timeout=1&" + IMPATIENT[urlsplit(url).scheme]
        store = OnThread(open_store(url))
        yield Outage(server, proxy, store)
        store.close()


def pause_until(condition: Callable[[], bool]) -> None:
    """Like ``until``, for what takes its time: it leaves the interpreter to the writing thread."""
    while not condition():
        gevent.sleep(0.005)


def names(store: OnThread, session: str) -> list[str]:
    return [record.unit_id for record in store.records(session_id=session)]


def test_a_server_that_is_down_at_the_start_is_waited_for(
    outage: Outage, accountant: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    outage.server.stop()
    ledger = accountant(outage.store.direct, backoff=lambda failures: 0.01)
    commits = [ledger.record([make_record(str(n), "down", ended_at=float(n))]) for n in range(100)]
    pause_until(lambda: ledger.failures > 3)
    assert ledger.pending == 100
    assert PASSWORD not in str(ledger.last_error) + caplog.text
    outage.server.start()
    assert ledger.flush(30)
    assert all(commit.durable for commit in commits)
    assert names(outage.store, "down") == [str(n) for n in range(100)]


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_nothing_is_lost_doubled_or_reordered_by_crashes_amid_writing(
    outage: Outage, accountant: Maker, end: str
) -> None:
    ledger = accountant(outage.store.direct, backoff=lambda failures: 0.02)
    commits = []
    for burst in range(9):
        for n in range(100 * burst, 100 * burst + 100):
            commits.append(ledger.record([make_record(str(n), end, ended_at=float(n))]))
        if burst % 3 != 1:
            assert commits[-1].wait(60)
            continue
        gevent.sleep(random.uniform(0, 0.02))  # any moment of the write will do
        durable = sum(commit.durable for commit in commits)
        getattr(outage.server, end)()
        ledger.record([make_record(f"down-{n}", "down")])
        pause_until(lambda failures=ledger.failures: ledger.failures > failures)
        outage.server.start()
        # All that was acknowledged before the crash is there after it.
        assert names(outage.store, end)[:durable] == [str(n) for n in range(durable)]
    assert ledger.flush(60)
    assert ledger.records_written == 903
    assert names(outage.store, end) == [str(n) for n in range(900)]
    assert ledger.healthy


def test_a_connection_that_was_cut_while_idle_is_nobodys_business(
    outage: Outage, accountant: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = accountant(outage.store.direct)
    for n in range(3):
        assert ledger.record([make_record(str(n), "idle")]).wait(30)
        outage.wire.cut()
    assert ledger.failures == 0
    assert not [entry for entry in caplog.records if entry.levelno >= logging.WARNING]


def test_a_server_that_falls_silent_holds_no_thread_for_ever(
    outage: Outage, accountant: Maker
) -> None:
    store = outage.store
    store.write(make_record("before", "silent"))
    outage.wire.hold()
    for attempt in (
        lambda: store.write(make_record("during", "silent")),
        store.ping,
        lambda: store.records(),
        lambda: store.totals("key"),
    ):
        with pytest.raises(StoreError) as caught:
            attempt()
        assert PASSWORD not in str(caught.value)
    ledger = accountant(store.direct)
    commit = ledger.record([make_record("during", "silent")])
    assert not commit.wait(0.01)
    outage.wire.release()
    outage.wire.cut()
    assert commit.wait(30)
    assert sorted(names(store, "silent")) == ["before", "during"]


def test_a_frozen_server_holds_no_thread_for_ever(outage: Outage) -> None:
    store = outage.store
    store.write(make_record("before", "frozen"))
    outage.server.freeze()
    try:
        with pytest.raises(StoreError):
            store.write(make_record("during", "frozen"))
    finally:
        outage.server.thaw()
    store.write(make_record("during", "frozen"))
    assert sorted(names(store, "frozen")) == ["before", "during"]


def test_nobody_knocks_more_often_than_the_back_off_says(outage: Outage) -> None:
    outage.store.write(make_record("first", "knock"))
    outage.server.stop()
    outage.wire.cut()
    dials = outage.wire.dials
    ledger = Accountant(outage.store.direct)  # with its true back-off
    ledger.record([make_record("second", "knock")])
    pause_until(lambda: ledger.failures >= 3)
    # A write dials once; the first, which had a connection, may once more.
    assert outage.wire.dials - dials <= ledger.failures + 1
    outage.server.start()
    assert ledger.flush(30)
    assert sorted(names(outage.store, "knock")) == ["first", "second"]
    assert ledger.close(30)


def test_a_refusal_shows_no_password(server: Server) -> None:
    if server.process is None:
        server.start()
    store = OnThread(open_store(server.url.replace(PASSWORD, "hunter3-the-wrong-one")))
    for attempt in (store.ping, lambda: store.write(make_record())):
        with pytest.raises(StoreError) as caught:
            attempt()
        assert "hunter" not in str(caught.value)
    store.close()


@pytest.mark.parametrize("scheme", list(IMPATIENT))
@pytest.mark.parametrize(
    ("listens", "said"),
    [(True, "the store does not answer: "), (False, "the store cannot be reached: ")],
)
def test_what_is_wrong_is_said_in_words(scheme: str, listens: bool, said: str) -> None:
    """Of a server that takes connections and keeps silent, and of none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        if not listens:
            listener.close()
        url = f"{scheme}://127.0.0.1:{port}/0?connect_timeout=1&{IMPATIENT[scheme]}"
        store = OnThread(open_store(url))
        with pytest.raises(StoreError) as caught:
            store.ping()
        assert str(caught.value).startswith(said)
        store.close()
