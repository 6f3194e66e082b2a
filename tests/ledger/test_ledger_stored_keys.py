"""Keys of a store in a worker: fresh, cheap whoever asks, and there while the store is not."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator

import gevent
import pytest

from relay_app.errors import RelayFault
from relay_app.ledger import stored_keys
from relay_app.ledger.stored_keys import StoredKeys
from relay_app.ledger.stores.base import StoreError
from relay_app.ledger.stores.keys import StoredKey
from relay_app.ledger.stores.memory import MemoryStore
from relay_app.settings import Key

SECONDS = 20.0


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


class Counting(MemoryStore):
    """Counts its readers, and fails or holds them as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.error: Exception | None = None
        self.gate = gevent.monkey.get_original("threading", "Event")()
        self.gate.set()

    def keys(self) -> list[StoredKey]:
        self.reads += 1
        assert threading.get_ident() != MAIN, "the hub was blocked"
        self.gate.wait(SECONDS)
        if self.error is not None:
            raise self.error
        return super().keys()

    def add(self, name: str, revoked_at: float | None = None, **limits) -> None:
        made = StoredKey(Key(name, digest(name), **limits), 1.0, revoked_at)
        self.put_key(made, instead_of=self._keys.get(name))


MAIN = threading.get_ident()


def until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(SECONDS):
        while not condition():
            gevent.sleep(0.001)


@pytest.fixture
def store() -> Counting:
    return Counting()


@pytest.fixture
def keys(store: Counting, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoredKeys]:
    monkeypatch.setattr(stored_keys, "ASK_SECONDS", 0.05)
    monkeypatch.setattr(stored_keys, "SHARE", 0)
    made = StoredKeys(store, refresh_seconds=SECONDS)
    yield made
    store.gate.set()
    made.stop()


def test_a_key_is_found_by_its_digest_whatever_its_letters(store, keys):
    store.put_key(StoredKey(Key("a", digest("a").upper(), ("x",)), 1.0), instead_of=None)
    assert keys.find(digest("a")).models == ("x",)
    assert keys.has("a")
    assert keys.find(digest("b")) is None
    assert not keys.has("b")


def test_a_revoked_key_is_none(store, keys):
    store.add("a", revoked_at=2.0)
    assert keys.find(digest("a")) is None
    assert not keys.has("a")


def test_a_key_that_was_made_just_now_is_found_at_once(store, keys):
    for name in ("a", "b", "c"):
        store.add(name)
        assert keys.find(digest(name)).name == name  # the next round is 20 seconds away


def test_a_known_key_costs_the_store_nothing(store, keys):
    store.add("a")
    keys.find(digest("a"))
    reads = store.reads
    assert [keys.find(digest("a")).name for _ in range(1_000)] == ["a"] * 1_000
    assert store.reads == reads


def test_a_flood_of_wrong_keys_is_one_reading_a_moment(store, keys, monkeypatch):
    monkeypatch.setattr(stored_keys, "ASK_SECONDS", 0.2)
    store.add("a")
    keys.find(digest("a"))
    started = time.monotonic()
    asking = [gevent.spawn(keys.find, digest(f"wrong-{n}")) for n in range(5_000)]
    gevent.joinall(asking, timeout=SECONDS, raise_error=True)
    assert all(greenlet.value is None for greenlet in asking)
    assert store.reads <= 2 + (time.monotonic() - started) / 0.2


def test_only_so_many_wait_for_the_store(store, keys, monkeypatch):
    monkeypatch.setattr(stored_keys, "MAX_WAITING", 3)
    keys.find(digest("none"))
    store.gate.clear()
    asking = [gevent.spawn(keys.find, digest(f"wrong-{n}")) for n in range(10)]
    until(lambda: sum(greenlet.ready() for greenlet in asking) == 7)
    store.gate.set()
    gevent.joinall(asking, timeout=SECONDS, raise_error=True)
    assert [greenlet.value for greenlet in asking] == [None] * 10


def test_when_too_many_wait_for_a_store_that_is_down_none_is_called_wrong(store, keys, monkeypatch):
    keys.find(digest("none"))
    store.error = StoreError("down")
    assert_not_told(keys, "new")
    monkeypatch.setattr(stored_keys, "MAX_WAITING", 0)
    assert_not_told(keys, "new")


def assert_not_told(keys: StoredKeys, name: str) -> None:
    with pytest.raises(RelayFault) as caught:
        keys.find(digest(name))
    assert (caught.value.status, caught.value.code) == (503, "keys_unavailable")
    assert caught.value.headers == {"Retry-After": "5"}


def test_a_store_that_hangs_is_not_waited_for_by_everybody(store, keys, monkeypatch):
    monkeypatch.setattr(stored_keys, "WAIT_SECONDS", 0.05)
    store.add("a")
    keys.find(digest("a"))
    store.gate.clear()
    assert_not_told(keys, "new")  # waited until its patience was over
    until(lambda: keys._reading and time.monotonic() - keys._began_at > 0.05)
    monkeypatch.setattr(keys, "_wanted", None)  # whoever waited now would fall over this
    assert_not_told(keys, "new")
    assert keys.find(digest("a")).name == "a"
    monkeypatch.undo()


def test_between_readings_that_take_long_a_wrong_key_is_wrong(store, keys, monkeypatch):
    monkeypatch.setattr(stored_keys, "ASK_SECONDS", SECONDS)
    keys.find(digest("none"))
    until(lambda: not keys._reading)
    monkeypatch.setattr(stored_keys, "WAIT_SECONDS", 0.05)
    assert keys.find(digest("wrong")) is None
    assert store.reads == 1


def test_what_is_revoked_is_noticed_without_being_asked(store):
    read = []
    keys = StoredKeys(store, on_read=lambda: read.append(keys.has("a")), refresh_seconds=0.001)
    stored_keys_share, stored_keys.SHARE = stored_keys.SHARE, 0
    try:
        store.add("a")
        keys.start()
        until(lambda: read and read[-1])
        store.add("a", revoked_at=2.0)
        until(lambda: not read[-1])
    finally:
        stored_keys.SHARE = stored_keys_share
        keys.stop()


def test_a_store_that_is_down_leaves_what_was_known(store, keys, caplog):
    store.add("a")
    assert keys.find(digest("a")).name == "a"
    store.error = StoreError("no such host postgres://user:hunter2@db/relay")
    assert_not_told(keys, "b")  # made it ask again
    assert_not_told(keys, "c")
    assert keys.find(digest("a")).name == "a"
    assert keys.has("a")
    assert keys.failures >= 2
    assert "revoked ones may still work: StoreError: no such host" in keys.warning
    store.error = None
    store.add("b")
    assert keys.find(digest("b")).name == "b"
    assert keys.warning is None
    said = [r.getMessage() for r in caplog.records if r.name.endswith("stored_keys")]
    assert len(said) == 2
    assert "cannot be read from the store: " in said[0]
    assert "again" in said[1]
    assert "hunter2" not in f"{said}{keys.warning}"


def test_nobody_is_called_unknown_before_the_store_was_read_once(store, keys):
    store.error = StoreError("down")
    assert_not_told(keys, "a")
    assert "none is known" in keys.warning


def test_what_follows_a_reading_may_fail_and_nothing_else_does(store, caplog):
    def fail() -> None:
        raise KeyError("a bug")

    keys = StoredKeys(store, on_read=fail)
    store.add("a")
    try:
        assert keys.find(digest("a")).name == "a"
        store.add("b")
        assert keys.find(digest("b")).name == "b"
    finally:
        keys.stop()
    assert "what follows a reading of the keys failed" in caplog.text


def test_there_is_room_for_so_many_keys_and_the_rest_is_told(store, keys, monkeypatch):
    monkeypatch.setattr(stored_keys, "MAX_KEYS", 2)
    for name in ("a", "b", "c"):
        store.add(name)
    store.add("revoked", revoked_at=2.0)
    assert keys.find(digest("b")).name == "b"
    assert keys.find(digest("c")) is None
    assert "1 keys more than the 2" in keys.warning


def test_reading_takes_a_small_part_of_the_time(store):
    keys = StoredKeys(store)
    keys._took_seconds = 0.5
    assert keys._spacing(1.0) == 0.5 * stored_keys.SHARE
    keys._took_seconds = 60.0
    assert keys._spacing(1.0) == stored_keys.MOST_SECONDS


def test_changed_limits_are_found(store, keys):
    store.add("a", max_sessions=1)
    assert keys.find(digest("a")).max_sessions == 1
    store.add("a", max_sessions=2)
    keys.find(digest("none"))
    assert keys.find(digest("a")).max_sessions == 2
