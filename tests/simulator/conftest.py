from collections.abc import Iterator
from typing import Any

import openai
import pytest
from simulator_support import Talk

from relay_app.simulator import Simulator, background


@pytest.fixture
def talk() -> Talk:
    return Talk()


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with background(speed=0) as running:
        yield running


@pytest.fixture
def client(simulator: Simulator) -> Iterator[Any]:
    with openai.OpenAI(
        api_key="sk-test", base_url="http://unused.invalid/v1", websocket_base_url=simulator.url
    ) as made:
        yield made
