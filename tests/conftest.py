"""What every test gets: the profiles of hypothesis, ``pytest --hypothesis-profile=thorough``, and
a watch over what is logged.

None of them is about time: a machine that is busy makes no test fail.
"""

import logging
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from support.secrets import Watch

settings.register_profile("usual", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", settings.get_profile("usual"), max_examples=2_000)
settings.load_profile("usual")

# With it a command never has anything left to write when it ends, as it does for most users.
os.environ.pop("PYTHONUNBUFFERED", None)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell leaves it to what runs in the background, and so would the servers of tests get it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_secret_is_logged() -> Iterator[None]:
    watch = Watch()
    logging.getLogger().addHandler(watch)
    yield
    logging.getLogger().removeHandler(watch)
    assert watch.caught == []
