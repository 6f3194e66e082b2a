"""One key on two relays that share nothing but a store: its limits hold for both together."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from urllib.request import urlopen

import pytest
from support.clients import eventually
from support.processes import simulator
from support.relays import RelayProcess, relay
from support.servers import Postgres, Valkey, running_server
from support.spenders import AUDIO_SECOND_USD, billed, spend
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection

from relay_app.ledger.stores import open_store

CLIENTS = 8
BUDGET = Decimal("0.060000")
"""47 s of audio: less than a second of the clients' time."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with running_server(Postgres) as server:
        yield server.url


@pytest.fixture(scope="module")
def valkey() -> Iterator[str]:
    with running_server(Valkey) as server:
        yield server.url


@contextmanager
def relays(folder: Path, store: str, **options: object) -> Iterator[list[RelayProcess]]:
    """Two gunicorns, each with a folder and a journal of its own, as on two machines."""
    with ExitStack() as stack:
        up = stack.enter_context(simulator())
        started = []
        for name in ("one", "two"):
            (folder / name).mkdir()
            started.append(stack.enter_context(relay(folder / name, up, store=store, **options)))
        yield started


def all_spend(started: list[RelayProcess], url: str) -> None:
    """Many clients on one key, on all of ``started``, until its budget is spent."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        where = [started[number % len(started)] for number in range(CLIENTS)]
        spent = list(pool.map(spend, where))
    talked = [one for one in spent if one.status == 101]
    assert len(talked) >= CLIENTS / 2
    assert {one.status for one in spent} <= {101, 402}
    assert {(one.error, one.close_code) for one in talked} == {("insufficient_quota", 1008)}
    responses = sum(one.responses for one in talked)
    store = open_store(url)
    eventually(lambda: len(list(store.records())) >= responses, "all records have arrived")
    cost = billed([record.as_dict() for record in store.records()])
    store.close()
    assert BUDGET * 9 / 10 <= cost <= BUDGET + len(talked) * AUDIO_SECOND_USD
    for running in started:
        assert spend(running).status == 402


@pytest.mark.parametrize("store", ["postgres", "valkey"])
def test_a_budget_holds_across_two_relays(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
):
    url = request.getfixturevalue(store)
    with relays(tmp_path, url, keys=f'budget_usd = "{BUDGET}"') as started:
        all_spend(started, url)


def test_a_budget_holds_across_the_workers_of_one_relay(tmp_path: Path):
    with (
        simulator() as up,
        relay(tmp_path, up, workers=2, keys=f'budget_usd = "{BUDGET}"') as running,
    ):
        all_spend([running], f"sqlite:///{tmp_path}/relay.db")
        with urlopen(f"{running.url}/metrics") as answer:
            metrics = answer.read().decode()
    assert 'relay_limit_stops_total{limit="budget"}' in metrics
    assert 'relay_limit_refusals_total{limit="budget"} 1.0' in metrics
    assert "reason=insufficient_quota" in running.output


def knock(running: RelayProcess) -> ClientConnection | int:
    """A session that stays open, or the status of its refusal."""
    try:
        return running.connect(open_timeout=30)
    except InvalidStatus as refused:
        asked_back = int(refused.response.headers.get("Retry-After", 0)) > 0
        return refused.response.status_code if asked_back else 0


def admitted(answers: list[ClientConnection | int]) -> list[ClientConnection]:
    assert {answer for answer in answers if isinstance(answer, int)} <= {429}
    return [answer for answer in answers if not isinstance(answer, int)]


def test_slots_are_shared_by_two_relays(valkey: str, tmp_path: Path):
    with relays(tmp_path, f"{valkey}?prefix=slots", keys="max_sessions = 3") as started:
        with ThreadPoolExecutor(8) as pool:
            open_ = admitted(list(pool.map(knock, started * 4)))
        assert len(open_) == 3
        open_.pop().close()
        eventually(lambda: admitted([knock(started[0])]), "a slot is free").pop().close()
        for client in open_:
            client.close()


def test_a_worker_that_is_killed_keeps_no_slots(valkey: str, tmp_path: Path):
    with relays(
        tmp_path, f"{valkey}?prefix=killed", keys="max_sessions = 2", server="short-leases"
    ) as (one, two):
        lost = admitted([knock(one), knock(one)])
        assert knock(two) == 429
        time.sleep(3)  # longer than a lease lasts: a worker that lives keeps it
        assert knock(two) == 429
        children = Path(f"/proc/{one.process.pid}/task/{one.process.pid}/children")
        for worker in children.read_text().split():
            os.kill(int(worker), signal.SIGKILL)
        killed_at = time.monotonic()
        found = eventually(lambda: admitted([knock(two)]), "a slot is free", seconds=10)
        assert time.monotonic() - killed_at < 6
        for client in [*found, *lost]:
            client.close()
