"""Recorder: makes the records of one session, each with what all of them share, and its price.

The rule: it only writes down. What a unit used, and whether it counts, is decided elsewhere.
"""

from collections.abc import Callable

from relay_app.meter.reported import Reported
from relay_app.meter.usage import Kind, Status, Usage, UsageRecord, record_id

__all__ = ["Recorder"]


class Recorder:
    """``clock`` gives seconds since the epoch; ``price`` returns a record with its cost."""

    def __init__(
        self,
        session_id: str,
        *,
        key: str,
        upstream: str,
        model: str,
        clock: Callable[[], float],
        price: Callable[[UsageRecord], UsageRecord],
    ) -> None:
        self._session_id = session_id
        self._key = key
        self._upstream = upstream
        self._model = model
        self._clock = clock
        self._price = price

    def record(
        self,
        kind: Kind,
        unit_id: str,
        ended_as: Status,
        started_at: float,
        reported: Reported,
        estimate: Usage,
        *,
        model: str | None,
        upstream_model: str,
    ) -> UsageRecord:
        """The record of a unit that ended now. ``model`` is the one that did the work if it is
        not the session's own, which runs as ``upstream_model``."""
        record = UsageRecord(
            id=record_id(self._session_id, unit_id),
            session_id=self._session_id,
            kind=kind,
            source=reported.source,
            status=ended_as,
            key=self._key,
            upstream=self._upstream,
            model=model or self._model,
            upstream_model=model or upstream_model,
            unit_id=unit_id,
            started_at=started_at,
            ended_at=self._clock(),
            estimate=estimate.by_kind() or None,
            usage=reported.usage,
            usage_raw=reported.raw,
        )
        return self._price(record)
