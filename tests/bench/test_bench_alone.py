"""What a message costs alone is measured on messages that went through."""

import pytest

from bench.alone import WAYS, each


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pause", [0.0, 0.0005])
def test_every_way_is_measured(way: str, pause: float) -> None:
    user, system = each(way, 160, pause)
    assert 0 < user + system < 1e6
