"""Metrics: what the plain counters of a worker are called in Prometheus.

The rule: a metric only ever grows by what its counter grew since the last look, so that with
several workers, where prometheus-client sums over their files, the sum is right.

prometheus-client decides at its import whether it keeps values in the files of
``PROMETHEUS_MULTIPROC_DIR``, so that variable has to be set before; ``relay_app.web.gunicorn``
does.
"""

import os
from bisect import bisect_left
from collections import Counter as Count
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from relay_app.observe.dead_workers import unchanged
from relay_app.observe.tally import Tally

__all__ = ["Metrics", "Snapshot"]

HOLDS_AT_ONCE = 64
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
    journal_bytes: int = 0
    journal_seconds: float = 0.0
    journal_entries: int = 0
    journal_syncs: int = 0
    journal_failures: int = 0
    journal_damaged_bytes: int = 0
    buffered_bytes: int = 0
    unpriced: Mapping[str, int] = field(default_factory=dict)
    forgotten: int = 0
    key_failures: int = 0
    key_seconds: float = 0.0


class _Histogram(Histogram):
    """One that many values can be added to at once."""

    def observe_all(self, values: Sequence[float]) -> None:
        """What :meth:`observe` would do for each of ``values``, in a few additions for all."""
        if values:
            self._sum.inc(sum(values))
            for bucket, count in Count(bisect_left(self._upper_bounds, v) for v in values).items():
                self._buckets[bucket].inc(count)


class Metrics:
    """The metrics of one application, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._reached: dict[Counter, float] = {}
        self._open = self._gauge("sessions_open", "Sessions open now")
        self._opened = self._counter("sessions_opened", "Sessions begun")
        self._closed = self._counter(
            "sessions_closed", "Sessions ended, by who ended them and the close code", "by", "code"
        )
        self._refused = self._counter(
            "refused", "Requests refused, by whose fault it was and by HTTP status", "by", "status"
        )
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
        self._unpriced = self._counter(
            "unpriced_records", "Usage records made without a cost, by why", "reason"
        )
        self._limit_refusals = self._counter(
            "limit_refusals",
            "Sessions and connections refused, by the limit that was reached",
            "limit",
        )
        self._limit_stops = self._counter(
            "limit_stops", "Sessions ended and responses refused in them, by why", "limit"
        )
        self._attempts = self._counter(
            "upstream_attempts",
            "Times an upstream was dialled, by what came of it",
            "upstream",
            "result",
        )
        self._spoiled = self._counter(
            "upstream_spoiled",
            "Sessions that an upstream accepted and that it could not begin",
            "upstream",
        )
        self._resting = Gauge(
            "relay_upstream_resting",
            "Keys of an upstream, or the upstream itself, that failed and have not worked since",
            ("upstream",),
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._leased = Histogram(
            "relay_lease_seconds",
            "How long the store took to answer about budgets",
            buckets=HOLD_BUCKETS,
            registry=self._registry,
        )
        self._lease_failures = self._counter(
            "lease_failures", "Times the store did not answer about budgets"
        )
        self._pending = self._gauge("records_pending", "Usage records that are not durable yet")
        self._failures = self._counter("store_failures", "Writes that the store refused")
        self._journal_bytes = self._gauge(
            "journal_bytes", "Bytes of usage records in the journal that the store does not have"
        )
        self._journal_seconds = Gauge(
            "relay_journal_oldest_seconds",
            "How long ago the unit ended whose record has waited longest in the journal",
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        self._journal_counters = {
            name: self._counter(name, text)
            for name, text in (
                ("journal_entries", "Usage records written to the journal"),
                ("journal_syncs", "Times the journal was synced to disk"),
                ("journal_failures", "Writes to the journal that failed"),
                ("journal_damaged_bytes", "Bytes of journal files that could not be read"),
            )
        }
        self._forgotten = self._counter(
            "records_forgotten", "Usage records deleted because they were too old"
        )
        self._key_failures = self._counter(
            "key_read_failures", "Times that keys could not be read from the store"
        )
        self._key_seconds = Gauge(
            "relay_keys_age_seconds",
            "How long ago keys were last read from the store",
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        self._buffered = self._gauge("buffered_bytes", "Room taken by large frames")
        self._held = _Histogram(
            "relay_hold_seconds",
            "How long a response.done waited for its record",
            buckets=HOLD_BUCKETS,
            registry=self._registry,
        )
        self._late = self._counter("hold_timeouts", "Frames forwarded before their record was safe")
        self._holds: list[float] = []
        self._tries: Count[tuple[str, str]] = Count()

    def refused(self, by: str, status: int) -> None:
        """Counts a refusal before the 101, which was the fault of ``client``, ``upstream`` or
        ``relay``."""
        self._refused.labels(by, str(status)).inc()

    def held(self, seconds: float, kept: bool) -> None:
        """Counts a frame that waited for its record, and whether the record came in time."""
        self._holds.append(seconds)
        if len(self._holds) == HOLDS_AT_ONCE:
            self._catch_up()
        if not kept:
            self._late.inc()

    def limit_refused(self, limit: str) -> None:
        """Counts what is refused for a limit: of its key ``budget``, ``sessions`` or ``tokens``, of
        this relay ``handshake``, ``requests`` or ``worker``."""
        self._limit_refusals.labels(limit).inc()

    def limit_stopped(self, why: str) -> None:
        """Counts a session ended, or a response refused in it, for a limit of its key, or for its
        ``messages``."""
        self._limit_stops.labels(why).inc()

    def attempted(self, upstream: str, result: str) -> None:
        """Counts a dial, and what came of it."""
        self._tries[upstream, result] += 1

    def spoiled(self, upstream: str) -> None:
        """Counts a session that an upstream accepted and could not begin."""
        self._spoiled.labels(upstream).inc()

    def resting(self, upstream: str, count: int) -> None:
        """Says how much of an upstream rests."""
        self._resting.labels(upstream).set(count)

    def leased(self, seconds: float | None) -> None:
        """Counts an answer of the store about budgets, None if it did not answer."""
        if seconds is None:
            self._lease_failures.inc()
        else:
            self._leased.observe(seconds)

    def _catch_up(self) -> None:
        # A figure that prometheus-client keeps in a file takes a lock, a question for the process's
        # number and two packed doubles: several times as long amid a session as one after another.
        holds, self._holds = self._holds, []
        self._held.observe_all(holds)
        tries, self._tries = self._tries, Count()
        for (upstream, result), count in tries.items():
            self._attempts.labels(upstream, result).inc(count)

    def publish(self, now: Snapshot) -> None:
        """Brings the metrics up to ``now``."""
        self._catch_up()
        self._open.set(now.open)
        self._pending.set(now.pending)
        self._buffered.set(now.buffered_bytes)
        self._journal_bytes.set(now.journal_bytes)
        self._journal_seconds.set(now.journal_seconds)
        self._key_seconds.set(now.key_seconds)
        self._reach(self._forgotten, now.forgotten)
        self._reach(self._key_failures, now.key_failures)
        for name, counter in self._journal_counters.items():
            self._reach(counter, getattr(now, name))
        self._reach(self._opened, now.opened)
        self._reach(self._records, now.records)
        self._reach(self._failures, now.store_failures)
        for (by, code), count in _summed(now.closes).items():
            self._reach(self._closed.labels(by, code), count)
        for reason, count in now.unpriced.items():
            self._reach(self._unpriced.labels(reason), count)
        tally = now.tally
        for direction in ("sent", "received"):
            for metric, name in (
                (self._messages, "messages"), (self._bytes, "bytes"), (self._opaque, "opaque")
            ):  # fmt: skip
                self._reach(metric.labels(direction), getattr(tally, f"{name}_{direction}"))
        self._reach(self._unobserved, tally.unobserved)
        self._reach(self._drops, tally.tap_drops)
        self._reach(self._inexact, tally.inexact_texts)
        for (of, within), count in tally.drift.counts.items():
            self._reach(self._drift.labels(of, within), count)
        for kind in fields(tally.usage):
            value = getattr(tally.usage, kind.name)
            if kind.name == "transcription_seconds":
                self._reach(self._seconds, value)
            else:
                self._reach(self._tokens.labels(kind.name.removesuffix("_tokens")), value)

    def _reach(self, counter: Counter, value: float) -> None:
        # A figure shrinks when a report takes the place of a larger one. A counter cannot, and
        # rests until the figure has caught up.
        before = self._reached.get(counter, 0)
        if value > before:
            counter.inc(value - before)
            self._reached[counter] = value

    def exposition(self) -> bytes:
        """All workers' metrics in Prometheus' text format."""
        self._catch_up()
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        with unchanged(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])):
            return generate_latest(registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"relay_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"relay_{name}", text, registry=self._registry, multiprocess_mode="livesum")


def _summed(closes: Mapping[tuple[str, int], int]) -> Count[tuple[str, str]]:
    summed: Count[tuple[str, str]] = Count()
    for (by, code), count in closes.items():
        summed[by, _label(code)] += count
    return summed


def _label(code: int) -> str:
    """The code itself, or its class where peers may choose freely among thousands."""
    return str(code) if code < 3000 else f"{code // 1000}xxx"
