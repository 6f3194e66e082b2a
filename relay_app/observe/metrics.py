"""Metrics: what the plain counters of a worker are called in Prometheus.

The rule: a metric only ever grows by what its counter grew since the last look, so that with
several workers, where prometheus-client sums over their files, the sum is right.

prometheus-client decides at its import whether it keeps values in the files of
``PROMETHEUS_MULTIPROC_DIR``, so that variable has to be set before; ``relay_app.web.gunicorn``
does.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from relay_app.observe.tally import Tally

__all__ = ["Metrics", "Snapshot"]

HOLD_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A worker's counters at one moment."""

    open: int = 0
    opened: int = 0
    closes: Mapping[tuple[str, int], int] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    records: int = 0
    pending: int = 0
    store_failures: int = 0
    buffered_bytes: int = 0


class Metrics:
    """The metrics of one application, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._last = Snapshot()
        self._open = self._gauge("sessions_open", "Sessions open now")
        self._opened = self._counter("sessions_opened", "Sessions begun")
        self._closed = self._counter(
            "sessions_closed", "Sessions ended, by who ended them and the close code", "by", "code"
        )
        self._refused = self._counter("refused", "Requests refused, by HTTP status", "status")
        self._messages = self._counter("messages", "Messages forwarded", "direction")
        self._bytes = self._counter("bytes", "Bytes read from either side", "direction")
        self._opaque = self._counter(
            "opaque_messages", "Messages forwarded that are no event we know", "direction"
        )
        self._unobserved = self._counter(
            "unobserved_messages", "Messages forwarded although metering them failed"
        )
        self._drops = self._counter("tap_dropped", "Audit entries dropped for want of room")
        self._tokens = self._counter(
            "tokens", "Tokens recorded, reported by upstreams or else estimated, by kind", "kind"
        )
        self._seconds = self._counter("transcription_seconds", "Seconds of audio transcribed")
        self._drift = self._counter(
            "estimate_drift",
            "Reported units by kind, and by how far their estimate was from the report at most",
            "kind",
            "within",
        )
        self._inexact = self._counter(
            "inexact_texts", "Texts estimated without looking all their tokens up"
        )
        self._records = self._counter("records", "Usage records made durable")
        self._pending = self._gauge("records_pending", "Usage records waiting for the store")
        self._failures = self._counter("store_failures", "Writes that the store refused")
        self._buffered = self._gauge("buffered_bytes", "Room taken by large frames")
        self._held = Histogram(
            "relay_hold_seconds",
            "How long a response.done waited for its record",
            buckets=HOLD_BUCKETS,
            registry=self._registry,
        )
        self._late = self._counter("hold_timeouts", "Frames forwarded before their record was safe")

    def refused(self, status: int) -> None:
        """Counts a refusal before the 101."""
        self._refused.labels(str(status)).inc()

    def held(self, seconds: float, kept: bool) -> None:
        """Counts a frame that waited for its record, and whether the record came in time."""
        self._held.observe(seconds)
        if not kept:
            self._late.inc()

    def publish(self, now: Snapshot) -> None:
        """Brings the metrics up to ``now``."""
        last, self._last = self._last, now
        self._open.set(now.open)
        self._pending.set(now.pending)
        self._buffered.set(now.buffered_bytes)
        self._opened.inc(now.opened - last.opened)
        for (by, code), count in now.closes.items():
            grown = count - last.closes.get((by, code), 0)
            if grown:
                self._closed.labels(by, _label(code)).inc(grown)
        self._records.inc(now.records - last.records)
        self._failures.inc(now.store_failures - last.store_failures)
        self._publish_tally(now.tally, last.tally)

    def _publish_tally(self, now: Tally, last: Tally) -> None:
        for direction in ("sent", "received"):
            for metric, name in (
                (self._messages, "messages"), (self._bytes, "bytes"), (self._opaque, "opaque")
            ):  # fmt: skip
                attribute = f"{name}_{direction}"
                grown = getattr(now, attribute) - getattr(last, attribute)
                metric.labels(direction).inc(grown)
        self._unobserved.inc(now.unobserved - last.unobserved)
        self._drops.inc(now.tap_drops - last.tap_drops)
        self._inexact.inc(now.inexact_texts - last.inexact_texts)
        for (of, within), count in now.drift.counts.items():
            self._drift.labels(of, within).inc(count - last.drift.counts.get((of, within), 0))
        for kind in fields(now.usage):
            grown = getattr(now.usage, kind.name) - getattr(last.usage, kind.name)
            if kind.name == "transcription_seconds":
                self._seconds.inc(max(0, grown))
            else:
                self._tokens.labels(kind.name.removesuffix("_tokens")).inc(max(0, grown))

    def exposition(self) -> bytes:
        """All workers' metrics in Prometheus' text format."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"relay_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"relay_{name}", text, registry=self._registry, multiprocess_mode="livesum")


def _label(code: int) -> str:
    """The code itself, or its class where peers may choose freely among thousands."""
    return str(code) if code < 3000 else f"{code // 1000}xxx"
