"""What is Redis's own: its keys, its one moment, its memory and its log."""

import json
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest
import redis
import trustme
from ledger_support import OnThread, make_record

from relay_app.ledger.stores import StoreError, open_store
from relay_app.ledger.stores.keys import StoredKey
from relay_app.ledger.stores.redis_scripts import VIEW_SECONDS
from relay_app.settings import Key


@pytest.fixture
def store(redis_url: str) -> Iterator[OnThread]:
    opened = OnThread(open_store(redis_url))
    yield opened
    opened.close()


@pytest.fixture
def operator(redis_server: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server, decode_responses=True) as client:
        yield client


def key(redis_url: str, name: str) -> str:
    return f"{{{redis_url.rpartition('prefix=')[2]}}}:{name}"


def test_a_record_can_be_looked_up_by_its_id(
    store: OnThread, operator: redis.Redis, redis_url: str
) -> None:
    record = make_record()
    store.write(record)
    value = operator.hget(key(redis_url, "records"), record.id)
    head, brace, text = value.partition("{")
    assert head == "2 1 32 12300 2023-11-14 6 team-a sess_1"
    assert json.loads(brace + text) == record.as_dict()


def test_a_view_shows_what_was_there_before_it_was_replaced(store: OnThread) -> None:
    before = [
        make_record(str(n), source="estimated", status="dropped", ended_at=float(n))
        for n in range(1_200)
    ]
    store.write(*before)
    view = store.direct.records()
    seen = list(islice(view, 600))
    # Some behind the reader, some ahead, moved to and fro; twice, as a busy session might.
    for status in ("incomplete", "completed"):
        store.write(
            *(make_record(str(n), status=status, ended_at=float(n + 1_000)) for n in range(300)),
            *(make_record(str(n), status=status, ended_at=0.5) for n in range(900, 1_200)),
        )
    assert seen + list(view) == before
    after = store.records()
    assert len(after) == 1_200
    assert [record.ended_at for record in after] == sorted(record.ended_at for record in after)
    assert sum(record.status == "completed" for record in after) == 600


def test_many_records_of_one_instant_are_paged_through(store: OnThread) -> None:
    store.write(*(make_record(str(n)) for n in range(1_700)))
    found = [record.id for record in store.records()]
    assert found == sorted(found)
    assert len(set(found)) == 1_700


def test_what_was_replaced_is_let_go_of_when_no_view_can_ask_for_it(
    store: OnThread, operator: redis.Redis, redis_url: str
) -> None:
    store.write(make_record(source="estimated"))
    store.write(make_record())
    assert operator.hlen(key(redis_url, "records")) == 2
    store.write(make_record())  # a replay keeps nothing
    assert operator.hlen(key(redis_url, "records")) == 2
    buried = key(redis_url, "buried")
    ((field, since),) = operator.zrange(buried, 0, -1, withscores=True)
    operator.zadd(buried, {field: since - VIEW_SECONDS - 1})
    store.write(make_record("another"))
    assert operator.hlen(key(redis_url, "records")) == 2
    assert operator.zcard(key(redis_url, "order")) == 2
    assert len(store.records()) == 2


def test_what_was_forgotten_is_let_go_of_when_no_view_can_ask_for_it(
    store: OnThread, operator: redis.Redis, redis_url: str
) -> None:
    store.write(*(make_record(str(n), ended_at=float(n)) for n in range(700)))
    assert store.forget("1970-01-02") == 700
    assert operator.hlen(key(redis_url, "records")) == 700
    buried = key(redis_url, "buried")
    for field in operator.zrange(buried, 0, -1):
        operator.zincrby(buried, -VIEW_SECONDS - 1, field)
    assert store.forget("1970-01-02") == 0  # lets go of as many as a step forgets
    for _ in range(7):
        store.write(make_record("another"))
    assert operator.hlen(key(redis_url, "records")) == 1
    assert operator.zcard(key(redis_url, "order")) == 1


def test_a_record_that_was_forgotten_may_be_written_again(store: OnThread) -> None:
    record = make_record(ended_at=1.0)
    for _ in range(3):
        store.write(record)
        assert store.forget("1970-01-02") == 1
        assert store.records() == []
    store.write(record)
    assert store.records() == [record]


@pytest.mark.parametrize(
    "flaw",
    [
        {"key": "\udc80"},
        {"usage_raw": "\ud800"},
        {"id": "a\x00b"},
        {"session_id": None},
        {"model": object()},
        {"started_at": float("nan")},
    ],
)
def test_a_value_json_cannot_hold_costs_only_its_own_record(
    store: OnThread, flaw: dict[str, object]
) -> None:
    good = [make_record(str(n), ended_at=float(n)) for n in range(20)]
    bad = make_record("bad", **flaw)
    with pytest.raises(StoreError) as caught:
        store.write(*good[:7], bad, *good[7:])
    assert list(caught.value.rejected) == [bad.id]
    assert store.records() == good


def test_keys_of_a_newer_version_are_left_alone(
    store: OnThread, operator: redis.Redis, redis_url: str
) -> None:
    operator.hset(key(redis_url, "state"), "schema", "99")
    for attempt in (
        store.ping,
        store.records,
        lambda: store.write(make_record()),
        store.ask,
        store.keys,
        lambda: store.put_key(StoredKey(Key("team-a", "a" * 64), 0.0)),
        lambda: store.forget("2026-01-31"),
    ):
        with pytest.raises(StoreError, match="newer relay_app") as caught:
            attempt()
        assert not caught.value.rejected
    assert operator.keys(key(redis_url, "*").replace("{", "[{]").replace("}", "[}]")) == [
        key(redis_url, "state")
    ]


def test_a_server_that_may_evict_records_is_refused(store: OnThread, operator: redis.Redis) -> None:
    operator.config_set("maxmemory", "1gb")
    operator.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(StoreError, match="may evict usage records") as caught:
            store.write(make_record())
        assert not caught.value.rejected
    finally:
        operator.config_set("maxmemory-policy", "noeviction")
        operator.config_set("maxmemory", "0")
    store.write(make_record())


def test_a_server_without_a_log_is_warned_of(
    store: OnThread, operator: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    operator.config_set("appendonly", "no")
    try:
        store.write(make_record())
    finally:
        operator.config_set("appendonly", "yes")
    assert "no append-only file" in caplog.text


def test_a_write_can_wait_for_the_log_to_be_on_disk(redis_url: str, operator: redis.Redis) -> None:
    store = OnThread(open_store(redis_url + "&wait_aof=yes&timeout=1"))
    store.write(make_record())
    operator.config_set("appendonly", "no")
    try:
        with pytest.raises(StoreError, match="appendonly is disabled") as caught:
            store.write(make_record())
        assert not caught.value.rejected
    finally:
        operator.config_set("appendonly", "yes")
    store.close()


def test_tls_is_spoken_and_the_certificate_is_checked(redis_url: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with tls_in_front_of(redis_url, authority) as port:
        head, _, tail = redis_url.partition("@")
        url = f"{head.replace('redis', 'rediss', 1)}@localhost:{port}/0?{tail.partition('?')[2]}"
        trusting = OnThread(open_store(f"{url}&ca_file={tmp_path}/ca.pem"))
        records = [make_record(str(n), usage_raw="x" * 4_000) for n in range(700)]
        trusting.write(*records)
        assert len(trusting.records()) == 700
        trusting.close()
        wary = OnThread(open_store(url))
        with pytest.raises(StoreError, match=r"(?i)certificate") as caught:
            wary.ping()
        assert "hunter" not in str(caught.value)
        wary.close()


class tls_in_front_of:
    """A TLS terminator, on Python's ssl rather than ours, before the server of ``url``."""

    def __init__(self, url: str, authority: trustme.CA) -> None:
        self._url = url
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(self._context)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> int:
        self._spawn(self._accept)
        port: int = self._listener.getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _spawn(self, *target: object) -> None:
        thread = threading.Thread(target=target[0], args=target[1:], daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        host, port = self._url.rpartition("@")[2].partition("/")[0].split(":")
        with (
            suppress(OSError),
            client,
            socket.create_connection((host, int(port))) as server,
            self._context.wrap_socket(client, server_side=True) as secured,
        ):
            pump = threading.Thread(target=_carry, args=(server, secured), daemon=True)
            pump.start()
            _carry(secured, server)
            pump.join(10)


def _carry(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError, ssl.SSLError):
        while data := source.recv(65_536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
