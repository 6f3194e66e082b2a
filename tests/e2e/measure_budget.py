"""``python -m tests.e2e.measure_budget`` prints how far a session goes beyond its budget.

One session at a time on a relay of its own with SQLite, cut in the middle of a long answer that
comes as fast as it is heard, as fast as the simulator of the provider speaks (10 times faster),
and 13 times faster. What is beyond is what was billed and is more than the budget.
"""

import sys
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path[:0] = [str(Path(__file__).parents[1])]

from support.processes import simulator  # noqa: E402
from support.relays import relay  # noqa: E402
from support.spenders import AUDIO_SECOND_USD, billed, spend  # noqa: E402

BUDGET = Decimal("0.015000")
SIMULATOR_SPEEDUP = 10
ROUNDS = 5


def main() -> None:
    print("| audio comes | answers cut | beyond the budget, worst | in audio, worst | mean |")
    print("|---|---|---|---|---|")
    for speed in (1, 10, 13):
        beyond = [overshoot(speed) for _ in range(ROUNDS)]
        seconds = [float(usd / AUDIO_SECOND_USD) for usd in beyond]
        mean = sum(seconds) / len(seconds)
        print(
            f"| {speed} x as fast as heard | {ROUNDS} | {max(beyond):.6f} USD "
            f"| {max(seconds):.2f} s | {mean:.2f} s |",
            flush=True,
        )


def overshoot(speed: int) -> Decimal:
    """What one session costs beyond its budget, negative if it was cut before."""
    with (
        TemporaryDirectory() as folder,
        simulator("--speed", str(speed / SIMULATOR_SPEEDUP)) as up,
        relay(Path(folder), up, keys=f'budget_usd = "{BUDGET}"') as running,
    ):
        spent = spend(running)
        assert (spent.error, spent.close_code) == ("insufficient_quota", 1008), spent
        return billed(running.records()) - BUDGET


if __name__ == "__main__":
    main()
