"""Hours of it."""

import asyncio
import contextlib
import sqlite3
import time

from bench.load import Load, Upstream
from bench.peers import PEERS, Running
from bench.progress import seconds_bar
from bench.rounds import Measured, Options, resident, running
from bench.scenarios.measures import scenario
from bench.workload import Turn


@scenario
async def soak(options: Options) -> Measured:
    """500 paced sessions for --hours: memory, every byte compared, every turn on the ledger."""
    sessions, every, title = 500, 10.0, f"soak, {options.hours:g} h"
    measured = Measured(title)
    async with Upstream(Turn()).serving() as upstream:
        upstream.paced = upstream.check = True
        async with running(PEERS["relay"], upstream, sessions=sessions) as started:
            load = Load(started.url, upstream, started.headers)
            load.check = True
            await load.open(sessions)
            load.talk_paced(every)
            samples: list[dict[str, float]] = []
            begun = time.monotonic()
            for _ in seconds_bar(title, 3600 * options.hours, step=10.0):
                await asyncio.sleep(10.0)
                samples.append(
                    {
                        "seconds": round(time.monotonic() - begun, 1),
                        "rss_kb": resident(started) / 1000,
                        "turns": load.turns,
                        "mismatched": load.mismatched + upstream.mismatched,
                    }
                )
            load.fall_silent()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):
                    while load.turns < load.asked:
                        await asyncio.sleep(0.1)
            await load.leave()
            await asyncio.sleep(1.0)
            recorded = _recorded(started)
    warm = samples[min(len(samples) - 1, max(1, len(samples) // 10))]
    measured.details = {"sessions": sessions, "samples": samples}
    measured.add(
        "relay",
        {
            "turns": load.turns,
            "rss_growth_kb": samples[-1]["rss_kb"] - warm["rss_kb"],
            "rss_kb": samples[-1]["rss_kb"],
            "lost": (load.asked - load.turns) + upstream.lost,
            "mismatched": load.mismatched + upstream.mismatched,
            "dropped": load.dropped,
            "unrecorded": load.turns - recorded,
        },
    )
    return measured


def _recorded(peer: Running) -> int:
    """Responses on the relay's ledger."""
    with contextlib.closing(sqlite3.connect(peer.folder / "relay.db")) as database:
        tables = [row[0] for row in database.execute("select name from sqlite_master "
                  "where type = 'table'")]  # fmt: skip
        table = next(name for name in tables if "record" in name)
        query = f"select count(*) from {table} where kind = 'response' and source = 'reported'"
        count: int = database.execute(query).fetchone()[0]
        return count
