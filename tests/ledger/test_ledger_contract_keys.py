"""What every store promises of the keys that it keeps."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any, TypeVar

import pytest
from gevent.threadpool import ThreadPool
from ledger_support import OnThread

from relay_app.ledger.stores import Store, StoreError, open_store
from relay_app.ledger.stores.base import KeyChanged
from relay_app.ledger.stores.keys import StoredKey
from relay_app.settings import Key

T = TypeVar("T")


def make_key(name: str = "team-a", digest: str = "a", **changes: Any) -> StoredKey:
    times = {each: changes.pop(each) for each in ("created_at", "revoked_at") if each in changes}
    key = Key(name=name, key_sha256=digest * 64, **changes)
    return StoredKey(key, **({"created_at": 1_700_000_000.25} | times))


def at_once(work: Callable[[int], T], many: int) -> list[T]:
    """What ``work`` returns of each number below ``many``, each on a thread of its own."""
    pool = ThreadPool(many)
    try:
        return [working.get() for working in [pool.spawn(work, n) for n in range(many)]]
    finally:
        pool.kill()


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
    stands = make_key(budget_usd=Decimal(5), models=("x",))
    store.put_key(stands)
    for changed in (make_key(max_sessions=3), make_key(digest="b"), make_key(digest="a")):
        store.put_key(changed, instead_of=stands)
        assert store.keys() == [changed]
        stands = changed


def test_a_key_takes_no_other_place_than_it_was_made_for(store: OnThread) -> None:
    read = make_key(budget_usd=Decimal(5))
    revoked = replace(read, revoked_at=1_700_000_009.0)
    store.put_key(read)
    store.put_key(revoked, instead_of=read)
    for instead_of in (read, make_key(), make_key(digest="b"), None):
        with pytest.raises(KeyChanged):
            store.put_key(make_key(budget_usd=Decimal(6)), instead_of=instead_of)
        with pytest.raises(KeyChanged):
            store.put_key(make_key(digest="b"), instead_of=instead_of)
        assert store.keys() == [revoked]
    store.put_key(make_key("other", "b"))  # nobody has that SHA-256: it was never taken


def test_a_key_that_is_not_there_has_no_place_to_take(store: OnThread) -> None:
    with pytest.raises(KeyChanged):
        store.put_key(make_key(max_sessions=3), instead_of=make_key())
    assert store.keys() == []


def test_a_key_that_stands_may_be_put_again(store: OnThread) -> None:
    read, changed = make_key(), make_key(max_sessions=3)
    for key, instead_of in ((read, None), (changed, read)):
        for _ in range(2):
            store.put_key(key, instead_of=instead_of)
            assert store.keys() == [key]


def test_what_is_equal_is_the_same_key_however_it_is_written(store: OnThread) -> None:
    store.put_key(make_key(budget_usd=Decimal(5)))
    changed = make_key(max_sessions=3)
    store.put_key(changed, instead_of=make_key(budget_usd=Decimal("5.00")))
    assert store.keys() == [changed]


def test_a_key_that_was_revoked_is_kept(store: OnThread) -> None:
    store.put_key(make_key())
    revoked = make_key(revoked_at=1_700_000_009.0)
    store.put_key(revoked, instead_of=make_key())
    assert store.keys() == [revoked]


def test_two_names_never_share_a_key(store: OnThread) -> None:
    first = make_key("first", revoked_at=1_700_000_001.0)
    other = make_key("other", "b")
    store.put_key(first)
    with pytest.raises(ValueError, match="first"):
        store.put_key(make_key("second"))
    store.put_key(other)
    with pytest.raises(ValueError, match="first"):
        store.put_key(make_key("other"), instead_of=other)
    assert store.keys() == [first, other]


def test_of_many_who_put_the_same_key_one_succeeds(relays: list[Store]) -> None:
    def put(relay: int) -> str:
        try:
            relays[relay].put_key(make_key(f"name-{relay}"), instead_of=None)
        except ValueError:
            return "refused"
        return f"name-{relay}"

    answers = at_once(put, len(relays))
    (kept,) = OnThread(relays[0]).keys()
    assert sorted(answers) == [kept.key.name, "refused", "refused", "refused"]


def test_of_many_who_make_a_name_at_once_one_does(relays: list[Store]) -> None:
    def create(relay: int) -> StoredKey | None:
        made = make_key(digest=f"{relay}")
        try:
            relays[relay].put_key(made, instead_of=None)
        except KeyChanged:
            return None
        return made

    made = at_once(create, len(relays))
    assert [each for each in made if each] == OnThread(relays[0]).keys()


def test_no_change_of_many_at_once_is_lost(relays: list[Store]) -> None:
    """Each adds its models one by one, to what it has read."""
    rounds = 10
    OnThread(relays[0]).put_key(make_key(models=("x",)))

    def change(relay: int) -> None:
        store = relays[relay]
        for n in range(rounds):
            while True:
                (read,) = store.keys()
                models = (*read.key.models, f"{relay}-{n}")
                try:
                    store.put_key(
                        replace(read, key=replace(read.key, models=models)), instead_of=read
                    )
                except KeyChanged:
                    continue
                break

    at_once(change, len(relays))
    (kept,) = OnThread(relays[0]).keys()
    expected = [f"{relay}-{n}" for relay in range(len(relays)) for n in range(rounds)]
    assert sorted(kept.key.models) == sorted(["x", *expected])


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
