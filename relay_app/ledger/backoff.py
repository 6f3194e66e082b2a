"""How long to wait before a failing store is tried again."""

from relay_app.ledger.jitter import between

__all__ = ["backoff_seconds"]

FIRST_SECONDS = 0.1
MOST_SECONDS = 5.0


def backoff_seconds(failures: int) -> float:
    """Seconds to wait after ``failures`` failures in a row: doubling from 0.1 to 5.

    Shortened by up to a half at random, lest the workers of a host return all at once.
    """
    ceiling = min(MOST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures - 1, 10))
    return ceiling * between(0.5, 1.0)
