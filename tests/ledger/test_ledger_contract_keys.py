"""What every store promises of the keys that it keeps."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from gevent.threadpool import ThreadPool
from ledger_support import OnThread

from relay_app.ledger.stores import Store, StoreError, open_store
from relay_app.ledger.stores.keys import StoredKey
from relay_app.settings import Key


def make_key(name: str = "team-a", digest: str = "a", **changes: Any) -> StoredKey:
    times = {each: changes.pop(each) for each in ("created_at", "revoked_at") if each in changes}
    key = Key(name=name, key_sha256=digest * 64, **changes)
    return StoredKey(key, **({"created_at": 1_700_000_000.25} | times))


def test_a_key_comes_back_as_it_was_put(store: OnThread) -> None:
    plain = make_key("plain", "a")
    full = make_key(
        "full",
        "b",
        models=("gpt-*", "模型\N{PILE OF POO}'\";--"),
        budget_usd=Decimal("999999999.000001"),
        budget_period="month",
        max_sessions=1_000_000,
        max_tokens_per_minute=10**12,
        revoked_at=1_700_000_001.5,
    )
    store.put_key(plain)
    store.put_key(full)
    assert store.keys() == [full, plain]
    assert store.keys()[0].key.models == full.key.models


def test_no_key_is_an_empty_list(store: OnThread) -> None:
    assert store.keys() == []


def test_keys_come_by_name_and_by_the_bytes_of_it(store: OnThread) -> None:
    names = ["b", "B", "a", "A", "a-b", "a.b", "a_b", "0"]
    for name, digest in zip(names, "01234567", strict=True):
        store.put_key(make_key(name, digest))
    found = store.keys()
    assert [each.key.name for each in found] == sorted(names)


def test_a_key_takes_the_place_of_the_one_of_its_name(store: OnThread) -> None:
    store.put_key(make_key(budget_usd=Decimal(5), models=("x",)))
    for changed in (make_key(max_sessions=3), make_key(digest="b"), make_key(digest="a")):
        store.put_key(changed)
        assert store.keys() == [changed]


def test_a_key_that_was_revoked_is_kept(store: OnThread) -> None:
    store.put_key(make_key())
    revoked = make_key(revoked_at=1_700_000_009.0)
    store.put_key(revoked)
    assert store.keys() == [revoked]


def test_two_names_never_share_a_key(store: OnThread) -> None:
    first = make_key("first", revoked_at=1_700_000_001.0)
    other = make_key("other", "b")
    store.put_key(first)
    with pytest.raises(ValueError, match="first"):
        store.put_key(make_key("second"))
    store.put_key(other)
    with pytest.raises(ValueError, match="first"):
        store.put_key(make_key("other"))
    assert store.keys() == [first, other]


def test_of_many_who_put_the_same_key_one_succeeds(relays: list[Store]) -> None:
    def put(relay: int) -> str:
        try:
            relays[relay].put_key(make_key(f"name-{relay}"))
        except ValueError:
            return "refused"
        return f"name-{relay}"

    pool = ThreadPool(len(relays))
    answers = [putting.get() for putting in [pool.spawn(put, n) for n in range(len(relays))]]
    pool.kill()
    (kept,) = OnThread(relays[0]).keys()
    assert sorted(answers) == [kept.key.name, "refused", "refused", "refused"]


@pytest.mark.parametrize("store_url", ["sqlite", "postgres", "redis"], indirect=True)
def test_keys_outlive_their_store(store: OnThread, store_url: str) -> None:
    store.put_key(make_key())
    store.close()
    again = OnThread(open_store(store_url))
    assert again.keys() == [make_key()]
    again.close()


def test_a_digest_is_in_no_message(store: OnThread) -> None:
    store.put_key(make_key("first"))
    with pytest.raises(ValueError) as caught:
        store.put_key(make_key("second"))
    assert "aaaa" not in str(caught.value)


def test_a_closed_store_has_no_keys(store: OnThread) -> None:
    store.close()
    attempts: list[Callable[[], object]] = [store.keys, lambda: store.put_key(make_key())]
    for attempt in attempts:
        with pytest.raises(StoreError, match="closed"):
            attempt()
