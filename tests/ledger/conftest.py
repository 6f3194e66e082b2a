"""The stores that the contract is held against: a new store is one param and no new test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ledger_support import OnThread

from relay_app.ledger.accountant import Accountant
from relay_app.ledger.stores import Store, open_store


@pytest.fixture(params=["memory://", "sqlite:///{folder}/var/relay.db"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnThread]:
    opened = OnThread(open_store(request.param.format(folder=tmp_path)))
    yield opened
    opened.close()


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
