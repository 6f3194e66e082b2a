"""``python -m tests.ledger.measure_stores [NAME…]`` prints what the networked stores take.

On servers of its own: PostgreSQL without fsync, Valkey with ``appendfsync always``.
"""

import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from ledger_support import make_ask, make_record  # noqa: E402
from support.servers import Postgres, Valkey, running_server  # noqa: E402

from relay_app.ledger.stores import Store, open_store  # noqa: E402

NAMES = ["Postgres", "Valkey"]
RECORDS = 50_000
BATCH = 1_000
CROWDS = [(1_000, 10), (5_000, 1)]


def main() -> None:
    kinds = [kind for kind in (Postgres, Valkey) if kind.__name__ in (sys.argv[1:] or NAMES)]
    print("| | one record, p50 / p99 | 50,000 in batches of 1,000 | reading them | totals by key |")
    print("|---|---|---|---|---|")
    leases = []
    for kind in kinds:
        with running_server(kind) as server:
            store = open_store(server.url)
            print(f"| {kind.__name__} | {' | '.join(measured(store))} |")
            for crowd in CROWDS:
                leases.append(f"| {kind.__name__} | {' | '.join(measured_leases(store, *crowd))} |")
            store.close()
    print()
    print("| | sessions, keys | one ask, p50 / p99 | 100 asks, p50 / p99 | asks a second |")
    print("|---|---|---|---|---|")
    print("\n".join(leases))


def measured(store: Store) -> list[str]:
    store.ping()
    single = sorted(seconds(lambda n=n: write(store, n, 1)) for n in range(300))
    p50, p99 = (1_000 * single[int(len(single) * part)] for part in (0.5, 0.99))
    filling = sum(seconds(lambda n=n: write(store, n, BATCH)) for n in range(0, RECORDS, BATCH))
    reading = [
        f"{seconds(work):.1f} s, {peak(work):.1f} MB"
        for work in (lambda: sum(1 for _ in store.records()), lambda: len(store.totals("key")))
    ]
    return [f"{p50:.1f} / {p99:.1f} ms", f"{filling:.1f} s", *reading]


def measured_leases(store: Store, sessions: int, keys: int) -> list[str]:
    """What a renewal takes while so many sessions, of so many keys, have a lease."""
    asks = [
        make_ask(f"s{n}", 1_000, key=f"{keys}-{n % keys}", budget=10**12, tokens=5)
        for n in range(sessions)
    ]

    def renew(first: int, count: int) -> float:
        return seconds(lambda: store.lease(asks[first : first + count], seconds=600))

    for first in range(0, sessions, 500):
        renew(first, 500)
    single = sorted(renew(n, 1) for n in range(300))
    hundred = sorted(renew(n % 10 * 100, 100) for n in range(50))
    shown = [
        f"{1_000 * each[len(each) // 2]:.1f} / {1_000 * each[int(len(each) * 0.99)]:.1f} ms"
        for each in (single, hundred)
    ]
    return [f"{sessions:,}, {keys}", *shown, f"{100 * len(hundred) / sum(hundred):,.0f}"]


def write(store: Store, first: int, count: int) -> None:
    store.write(
        [
            make_record(str(n), f"s{n % 500}", ended_at=float(n), usage_raw="x" * 600)
            for n in range(first, first + count)
        ]
    )


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak(work: Callable[[], object]) -> float:
    """Megabytes of Python objects that ``work`` held at once. It runs slower for being watched."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


if __name__ == "__main__":
    main()
