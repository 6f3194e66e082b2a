"""Waiting longer, never too long, and not in step with others."""

from relay_app.ledger.backoff import backoff_seconds


def test_it_doubles_from_a_tenth_to_five_seconds() -> None:
    for failures, ceiling in [(1, 0.1), (2, 0.2), (3, 0.4), (6, 3.2), (7, 5.0), (10**6, 5.0)]:
        waits = [backoff_seconds(failures) for _ in range(200)]
        assert ceiling / 2 <= min(waits)
        assert max(waits) <= ceiling
        assert len(set(waits)) > 1
