"""Retry-After: how long a provider wants to be left alone. Pure.

The rule: seconds or an HTTP date (RFC 9110 section 10.2.3); anything else says nothing.
"""

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["retry_after_seconds"]

_SECONDS = re.compile(r"[0-9]{1,20}")


def retry_after_seconds(value: str, now: float) -> float | None:
    """The seconds that ``value`` asks for at ``now``, seconds since the epoch; None if it does
    not tell. A date that has passed asks for 0."""
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:  # "-0000", which HTTP does not have
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - now)
    except (OverflowError, ValueError):
        return None
