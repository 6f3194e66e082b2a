"""What every store promises, whichever it is."""

import dataclasses
import itertools
from decimal import Decimal

import pytest
from ledger_support import OnThread, make_record

from relay_app.ledger.stores import StoreError
from relay_app.meter.usage import Usage


def test_a_record_comes_back_as_it_was_written(store: OnThread) -> None:
    plain = make_record("plain", ended_at=1.0)
    bare = make_record(
        "bare", ended_at=2.0, cost_usd=None, price=None, usage_raw=None, estimate=None
    )
    exact = make_record("exact", ended_at=3.0, cost_usd=Decimal("999999999999.000001"))
    store.write(plain, bare, exact)
    assert store.records() == [plain, bare, exact]


def test_text_of_any_script_comes_back(store: OnThread) -> None:
    record = make_record(
        model="模型\N{PILE OF POO}'\"; DROP TABLE usage_records; --",
        key="clé\n",
        price={"ключ": "é"},
    )
    store.write(record)
    assert store.records() == [record]


def test_any_number_of_replays_leaves_one_record(store: OnThread) -> None:
    record = make_record()
    store.write(record, record)
    for _ in range(3):
        store.write(record)
    assert store.records() == [record]


@pytest.mark.parametrize(
    "order", list(itertools.permutations(["unknown", "estimated", "reported"]))
)
@pytest.mark.parametrize("together", [True, False])
def test_what_was_reported_wins_in_any_order_of_arrival(
    store: OnThread, order: tuple[str, ...], together: bool
) -> None:
    versions = [make_record(source=source, usage_raw=source) for source in order]
    if together:
        store.write(*versions)
    else:
        for version in versions:
            store.write(version)
    assert [record.usage_raw for record in store.records()] == ["reported"]


@pytest.mark.parametrize("source", ["unknown", "estimated", "reported"])
@pytest.mark.parametrize("residual", ["unknown", "estimated"])
def test_any_end_of_a_unit_replaces_its_residual_and_is_replaced_by_none(
    store: OnThread, source: str, residual: str
) -> None:
    unfinished = make_record(kind="residual", source=residual, usage_raw="unfinished")
    end = make_record(source=source)
    store.write(unfinished)
    assert store.records() == [unfinished]
    store.write(end)
    assert store.records() == [end]
    store.write(unfinished)
    assert store.records() == [end]


def test_among_equals_the_later_one_stands(store: OnThread) -> None:
    store.write(make_record(source="estimated", status="dropped"))
    store.write(make_record(source="estimated", status="cancelled"))
    assert [record.status for record in store.records()] == ["cancelled"]


def test_records_come_in_order_of_their_end_then_id(store: OnThread) -> None:
    records = [make_record(str(n), ended_at=float(n % 7)) for n in range(50)]
    store.write(*records)
    assert store.records() == sorted(records, key=lambda r: (r.ended_at, r.id))


def test_records_are_chosen_by_session_and_by_a_half_open_span(store: OnThread) -> None:
    for session in ("a", "b"):
        store.write(*(make_record(str(n), session, ended_at=float(n)) for n in range(5)))
    chosen = store.records(session_id="b", since=1.0, until=3.0)
    assert [(r.session_id, r.ended_at) for r in chosen] == [("b", 1.0), ("b", 2.0)]


def test_a_view_does_not_change_while_it_is_read(store: OnThread) -> None:
    store.write(*(make_record(str(n), ended_at=float(n)) for n in range(2_000)))
    view = store.direct.records()
    first = next(view)
    store.write(make_record("late", ended_at=5_000.0))
    assert 1 + len(list(view)) == 2_000
    assert first.ended_at == 0.0
    assert len(store.records()) == 2_001


def test_a_view_may_be_left_in_the_middle(store: OnThread) -> None:
    store.write(*(make_record(str(n)) for n in range(1_500)))
    view = store.direct.records()
    next(view)
    view.close()  # type: ignore[attr-defined]
    store.write(make_record("after"))


def test_nothing_written_is_nothing_found(store: OnThread) -> None:
    store.write()
    assert store.records() == []
    assert store.totals("key") == []


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("key", {"k1": 2, "k2": 1}),
        ("model", {"m1": 1, "m2": 2}),
        ("day", {"1970-01-01": 2, "1970-01-02": 1}),
        ("session", {"s1": 1, "s2": 2}),
    ],
)
def test_totals_are_grouped(store: OnThread, by: str, groups: dict[str, int]) -> None:
    store.write(
        make_record("1", "s1", key="k1", model="m1", ended_at=0.0),
        make_record("2", "s2", key="k1", model="m2", ended_at=86_399.9),
        make_record("3", "s2", key="k2", model="m2", ended_at=86_400.0),
    )
    totals = store.totals(by)  # type: ignore[arg-type]
    assert [(t.group, t.records) for t in totals] == list(groups.items())


def test_totals_add_money_exactly_and_count_what_they_leave_out(store: OnThread) -> None:
    tiny = Decimal("0.000001")
    store.write(
        *(make_record(str(n), f"s{n % 2}", cost_usd=Decimal("0.1")) for n in range(10)),
        make_record("tiny", "s0", cost_usd=tiny, usage=Usage(1, 2, 3, 4, 5, 6, 7, 8, 9, 0.5)),
        make_record("unpriced", "s0", cost_usd=None, usage=Usage()),
        make_record("unknown", "s0", cost_usd=None, source="unknown"),
    )
    (total,) = store.totals("key")
    assert total.records == 13
    assert total.sessions == 2
    assert str(total.cost_usd) == "1.000001"
    assert (total.unpriced, total.unknown) == (2, 1)
    assert total.usage == Usage(101, 202, 3, 4, 55, 6, 7, 408, 9, 15.5)


def test_a_group_without_a_price_costs_none_rather_than_nothing(store: OnThread) -> None:
    store.write(make_record(cost_usd=None))
    assert store.totals("model")[0].cost_usd is None


def test_totals_take_the_same_span_as_records(store: OnThread) -> None:
    store.write(*(make_record(str(n), ended_at=float(n)) for n in range(5)))
    (total,) = store.totals("key", since=1.0, until=4.0)
    assert (total.records, total.cost_usd) == (3, Decimal("0.0369"))


def test_an_unknown_grouping_is_refused(store: OnThread) -> None:
    with pytest.raises(ValueError, match="accepted: key, model, day, session"):
        store.totals("colour")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "flaw",
    [
        {"source": "guessed"},
        {"cost_usd": Decimal("NaN")},
        {"cost_usd": 0.1},
        {"ended_at": float("nan")},
        {"ended_at": 1e300},
    ],
)
def test_one_bad_record_never_costs_the_others(store: OnThread, flaw: dict[str, object]) -> None:
    good = [make_record(str(n), ended_at=float(n)) for n in range(20)]
    bad = make_record("bad", **flaw)
    with pytest.raises(StoreError) as caught:
        store.write(*good[:7], bad, *good[7:])
    assert list(caught.value.rejected) == [bad.id]
    assert store.records() == good


def test_a_record_may_be_written_again_with_fewer_tokens(store: OnThread) -> None:
    store.write(make_record())
    less = dataclasses.replace(make_record(), usage=Usage(), cost_usd=None, estimate=None)
    store.write(less)
    assert store.records() == [less]


def test_ping_returns_while_open(store: OnThread) -> None:
    store.ping()


def test_a_closed_store_does_nothing_quietly(store: OnThread) -> None:
    store.write(make_record())
    store.close()
    store.close()
    for attempt in (
        store.ping,
        store.records,
        lambda: store.write(make_record()),
        lambda: store.totals("key"),
    ):
        with pytest.raises(StoreError, match="closed"):
            attempt()


def test_a_key_sees_its_own_records_and_totals_alone(store: OnThread) -> None:
    for key in ("ada", "bob"):
        store.write(*(make_record(str(n), key, key=key) for n in range(3)))
    assert {record.key for record in store.records(key="bob")} == {"bob"}
    (total,) = store.totals("session", key="ada")
    assert (total.group, total.records) == ("ada", 3)
