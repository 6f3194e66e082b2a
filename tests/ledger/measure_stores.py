"""``python -m tests.ledger.measure_stores`` prints what the networked stores take.

On servers of its own: PostgreSQL without fsync, Valkey with ``appendfsync always``.
"""

import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from ledger_support import make_record  # noqa: E402
from support.servers import Postgres, Valkey, running_server  # noqa: E402

from relay_app.ledger.stores import Store, open_store  # noqa: E402

RECORDS = 50_000
BATCH = 1_000


def main() -> None:
    print("| | one record, p50 / p99 | 50,000 in batches of 1,000 | reading them | totals by key |")
    print("|---|---|---|---|---|")
    for kind in (Postgres, Valkey):
        with running_server(kind) as server:
            store = open_store(server.url)
            print(f"| {kind.__name__} | {' | '.join(measured(store))} |")
            store.close()


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
