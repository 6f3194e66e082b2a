"""The stores that the contract is held against: a new store is one param and no new test."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from ledger_support import OnThread
from store_support import POSTGRES, REDIS
from support.servers import Postgres, Valkey, running_server

from relay_app.ledger.accountant import Accountant
from relay_app.ledger.stores import Store, open_store


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def store_url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def store(store_url: str) -> Iterator[OnThread]:
    opened = OnThread(open_store(store_url))
    yield opened
    opened.close()


@pytest.fixture
def relays(store: OnThread, store_url: str) -> Iterator[list[Store]]:
    """Four relays' stores of the same content; of what is in memory there is but one."""
    if store_url == "memory://":
        yield [store.direct] * 4
        return
    opened = [open_store(store_url) for _ in range(4)]
    yield opened
    for each in opened:
        OnThread(each).close()


@pytest.fixture
def memory_url() -> str:
    return "memory://"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/var/relay.db"


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A schema that is empty, and gone afterwards."""
    schema = f"relay_test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        yield _with(postgres_server, f"options=-csearch_path%3D{schema}")
        connection.execute(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture
def redis_url(redis_server: str) -> Iterator[str]:
    """A prefix that nobody uses, and nobody after us."""
    prefix = f"relay_test_{uuid.uuid4().hex}"
    yield _with(redis_server, f"prefix={prefix}")
    with redis.Redis.from_url(redis_server) as client:
        if keys := client.keys(f"*{prefix}*"):
            client.delete(*keys)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The server to test against: yours, or one that lives as long as this run."""
    if url := os.environ.get(POSTGRES):
        yield url
    else:
        with running_server(Postgres) as server:
            yield server.url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The server to test against: yours, or one that lives as long as this run."""
    if url := os.environ.get(REDIS):
        yield url
    else:
        with running_server(Valkey) as server:
            yield server.url


@pytest.fixture
def accountant() -> Iterator[Callable[..., Accountant]]:
    """A maker of accountants that retry at once and are closed when the test is over."""
    made: list[Accountant] = []

    def make(store: Store, **options: object) -> Accountant:
        options.setdefault("backoff", lambda failures: 0.0)
        made.append(Accountant(store, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close(1.0)


def _with(url: str, parameter: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{parameter}"
