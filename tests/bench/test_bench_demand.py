"""Demand: the arithmetic from what one session costs to what a million take."""

from dataclasses import replace

import pytest

from bench.demand import (
    Assumptions,
    Costs,
    Traffic,
    checkpoints_per_turn,
    fleet,
    questions,
    store,
)
from bench.workload import Turn

COSTS = Costs(
    turn_ms=1.0, append_ms=0.01, second_ms=0.02, open_ms=6.0, session_kb=18.0, worker_mb=100.0
)
GIVEN = Assumptions(
    turn_seconds=10, chunk_ms=100, session_seconds=600, core_busy=0.5, kernel_share=0.25,
    tls_factor=2.0, spare=0.5, max_sessions=5_000, kernel_kb=32.0, ports=1_000,
    provider_addresses=2, store_ms=5.0, fsync_ms=2.0, budget_share=0.5,
)  # fmt: skip


def test_a_session_costs_its_turns_its_appends_its_seconds_and_its_opening() -> None:
    # An open microphone: 100 appends in the 10 s of a turn, of which 20 are in what was measured.
    talk = (1.0 + 80 * 0.01) / 10 + 0.02
    assert COSTS.session_ms(GIVEN) == pytest.approx(2 * talk + 6 / 600)
    assert COSTS.sessions_a_core(GIVEN) == int(500 / (2 * talk + 0.01))


def test_who_pushes_to_talk_sends_two_seconds_a_turn() -> None:
    pushing = replace(GIVEN, open_microphone=False)
    assert Traffic.of(pushing).appends == 20
    assert COSTS.session_ms(pushing) == pytest.approx(2 * (0.1 + 0.02) + 0.01)
    assert Traffic.of(replace(pushing, chunk_ms=20)).appends == 100


def test_without_a_turns_cost_nothing_is_known() -> None:
    assert Costs(session_kb=1.0).session_ms(GIVEN) is None
    assert fleet(1_000, 8, Costs(session_kb=1.0), GIVEN) is None


def test_bytes_are_those_of_the_workload() -> None:
    turn, pushing = Turn(), replace(GIVEN, open_microphone=False, wire_overhead=1.0, turn_seconds=1)
    traffic = Traffic.of(pushing)
    headers = 8 * turn.up_messages + 4 * turn.down_messages
    assert traffic.up + traffic.down == pytest.approx(turn.bytes + headers)
    assert traffic.megabits == pytest.approx(8e-6 * (turn.bytes + headers))
    assert Traffic.of(replace(pushing, wire_overhead=2.0)).up == pytest.approx(2 * traffic.up)


def test_a_fleet_is_as_many_machines_as_carry_them_and_some_to_spare() -> None:
    on_core = COSTS.sessions_a_core(GIVEN)
    assert on_core == 1_219
    one = fleet(100_000, 8, COSTS, GIVEN)
    assert one is not None
    assert (one.workers, one.machines, one.limited_by) == (6, 21, "CPU")  # 13.7 and half of it
    assert one.sessions_a_machine == 4_762  # 100,000 / 21
    assert one.sessions_a_worker == 794
    assert one.open_files == 2 * 794 + 512
    assert one.source_addresses == 3  # 4,762 / (1,000 ports * 2 addresses of the provider)
    assert one.balancer_addresses == 5
    assert one.memory_gb == pytest.approx(6 * 0.1 + 4_762 * 50e-6)
    assert one.gigabits == pytest.approx(4_762 * Traffic.of(GIVEN).megabits / 1000)
    assert one.all_workers == 21 * 6


def test_a_dead_machines_sessions_are_opened_on_what_the_others_have_free() -> None:
    one = fleet(100_000, 8, COSTS, GIVEN)
    assert one is not None
    assert one.reopen_seconds == pytest.approx(4_762 * 0.006 / (20 * 6 - 100 * 0.41))
    alone = fleet(10, 8, COSTS, GIVEN)
    assert alone is not None
    assert (alone.machines, alone.reopen_seconds) == (1, None)


def test_a_workers_limit_counts_where_it_is_below_what_a_core_carries() -> None:
    one = fleet(100_000, 8, COSTS, replace(GIVEN, max_sessions=1_000, spare=0.0))
    assert one is not None
    assert (one.machines, one.limited_by) == (17, "max_sessions")


@pytest.mark.parametrize(
    ("seconds", "checkpoints"), [(0.1, 0), (0.2, 0), (0.3, 1), (3.9, 1), (4.0, 2), (9.0, 3)]
)
def test_a_response_is_checkpointed_soon_and_then_every_four_seconds(
    seconds: float, checkpoints: int
) -> None:
    assert checkpoints_per_turn(seconds) == checkpoints


def test_the_store_is_written_a_record_and_its_checkpoints_a_turn() -> None:
    one = store(100_000, 100, replace(GIVEN, records_per_turn=2.0, record_bytes=1_000))
    assert (one.records, one.checkpoints, one.rows) == (20_000, 10_000, 30_000)
    assert one.megabytes == 30
    # 300 rows a second of a worker, but one transaction at a time, of 5 ms.
    assert (one.transactions, one.saturated) == (100 * 200, True)
    assert one.syncs == 300
    assert one.connections == 300
    assert store(1_000_000, 100, GIVEN).syncs == 500  # at 2 ms each there are no more


def test_leases_are_asked_about_by_renewals_turns_beginnings_and_ends() -> None:
    given = replace(GIVEN, renew_seconds=10, asks_per_turn=2, session_seconds=1_000)
    assert questions(10_000, given) == pytest.approx(5_000 * (0.1 + 0.2 + 0.002))
    assert questions(10_000, replace(given, budget_share=0.0)) == 0


def test_calls_carry_a_hundred_questions_at_most() -> None:
    few = store(10_000, 100, GIVEN)
    assert few.calls == few.asks  # each at once
    many = store(1_000_000, 100, GIVEN)
    assert many.asks > 20_000
    assert (many.calls, many.keeps_up) == (20_000, True)  # 200 a second of each worker
    lost = store(1_000_000, 1, replace(GIVEN, store_ms=100.0))
    assert (lost.calls, lost.keeps_up) == (lost.asks / 100, False)


@pytest.mark.parametrize(
    "wrong", [{"turn_seconds": 0}, {"ports": -1}, {"core_busy": 1.5}, {"kernel_share": 1.0}]
)
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"above 0|parts of 1"):
        Assumptions(**wrong)  # type: ignore[arg-type]
