from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from session_support import SECONDS, Stage


@pytest.fixture(autouse=True)
def _no_test_waits_for_ever() -> Iterator[None]:
    with gevent.Timeout(SECONDS * 2):
        yield


@pytest.fixture
def stage() -> Iterator[Callable[..., Stage]]:
    """Sets a stage; clears it away afterwards."""
    stages: list[Stage] = []

    def set_(**options: Any) -> Stage:
        stages.append(Stage(**options))
        return stages[-1]

    yield set_
    for each in stages:
        each.leave()
