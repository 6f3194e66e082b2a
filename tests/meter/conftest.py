"""Text is counted by the vocabulary in every test of the meter, whatever ran before."""

import pytest

from relay_app.meter import vocabulary


@pytest.fixture(autouse=True, scope="session")
def _loaded() -> None:
    vocabulary.load()
