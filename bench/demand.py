"""Demand: what so many concurrent sessions take, by arithmetic on what one was measured to cost.

The rule: no figure of a machine stands here. What was measured comes in as :class:`Costs`, what
nobody measured as :class:`Assumptions`, and each of those has a name, a unit and a default that can
be changed. Times are in the unit of their name; sizes in bytes unless they say otherwise.
"""

from dataclasses import dataclass, field, fields
from functools import cache
from math import ceil, floor
from typing import Any, NamedTuple

from bench.workload import Turn

__all__ = ["Assumptions", "Costs", "Fleet", "Store", "Traffic", "fleet", "questions", "store"]

CHECKPOINT_FIRST_SECONDS = 0.2
CHECKPOINT_SECONDS = 4.0
ASKS_A_CALL = 100
"""These are the relay's own: ``docs/design.md``, ``relay_app/ledger/budgets.py``."""
SPARE_FILES = 512
TURN_APPENDS = 20
TURN_SPEECH_SECONDS = 2.0
_FRAME_HEADER = 8
"""Of a message of 126 bytes to 64 kB, masked: four less from the provider."""


def _assumed(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Assumptions:
    """What was not measured. Each is an option of ``python -m bench.capacity``."""

    turn_seconds: float = _assumed(10.0, "a voice turn of each session every so many seconds")
    chunk_ms: int = _assumed(100, "audio in one append")
    open_microphone: bool = _assumed(
        True, "clients send audio all the time, as with server VAD; if not, 2 s a turn"
    )
    session_seconds: float = _assumed(600.0, "length of a session")
    response_seconds: float = _assumed(2.0, "from response.created to response.done")
    records_per_turn: float = _assumed(1.0, "2 with input transcription")
    record_bytes: int = _assumed(1_500, "a record in the store (docs/stores.md)")
    tokens_per_turn: int = _assumed(1_000, "input and output, as the provider's limits count")
    core_busy: float = _assumed(0.6, "share of a worker's core that is planned to be used")
    kernel_share: float = _assumed(
        0.15, "share of the cores left to interrupts, the journal's threads and the system"
    )
    tls_factor: float = _assumed(1.25, "CPU with TLS to the provider, as a part of without")
    wire_overhead: float = _assumed(1.1, "bytes with TCP, IP and TLS, as a part of without")
    spare: float = _assumed(0.2, "machines beyond need, for failures and for draining")
    max_sessions: int = _assumed(5_000, "[server] max_sessions, a worker")
    kernel_kb: float = _assumed(32.0, "the kernel's memory for a session's two sockets, kB")
    ports: int = _assumed(28_232, "local ports of an address: Linux's 32768 to 60999")
    provider_addresses: int = _assumed(2, "addresses that the provider's name resolves to")
    nat_connections: int = _assumed(55_000, "of a NAT address to one destination (AWS's)")
    fsync_ms: float = _assumed(
        1.0, "a commit of the journal, its fdatasync included (bench/journal.py)"
    )
    store_ms: float = _assumed(5.0, "a transaction of the store, the way there and back included")
    store_connections: int = _assumed(3, "connections of a worker to the store")
    budget_share: float = _assumed(0.5, "sessions whose key has limits")
    asks_per_turn: float = _assumed(2.0, "a larger slice for a response, and a smaller one after")
    renew_seconds: float = _assumed(9.0, "between two renewals of a lease")

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            zero = each.name in ("spare", "kernel_share", "budget_share", "asks_per_turn")
            if value < 0 or (value == 0 and not zero and each.name != "open_microphone"):
                raise ValueError(f"{each.name} is {value}: it has to be above 0")
        if not (self.core_busy <= 1 and self.kernel_share < 1 and self.budget_share <= 1):
            raise ValueError("shares are parts of 1")


@dataclass(frozen=True)
class Costs:
    """What was measured, None for what was not: CPU in milliseconds of a core."""

    turn_ms: float | None = None
    """A turn of 63 messages, with 20 appends of 100 ms."""
    append_ms: float | None = None
    """One append more, or less."""
    second_ms: float | None = None
    """A second of a session in which nothing is said."""
    open_ms: float | None = None
    """A session opened and closed."""
    session_kb: float | None = None
    worker_mb: float | None = None
    """A worker's memory before its first session."""

    def session_ms(self, given: Assumptions) -> float | None:
        """CPU of one session for each second of it."""
        if self.turn_ms is None:
            return None
        traffic = Traffic.of(given)
        turn = self.turn_ms + (traffic.appends - TURN_APPENDS) * (self.append_ms or 0.0)
        talk = max(turn, 0.0) / given.turn_seconds + (self.second_ms or 0.0)
        return given.tls_factor * talk + (self.open_ms or 0.0) / given.session_seconds

    def sessions_a_core(self, given: Assumptions) -> int | None:
        """What a worker carries, whatever limit it has."""
        used = self.session_ms(given)
        return None if not used else floor(1000 * given.core_busy / used)


class Traffic(NamedTuple):
    """One session: appends in a turn, and bytes a second that come in from either side."""

    appends: float
    up: float
    down: float

    @property
    def megabits(self) -> float:
        """Of a network card, each way: what comes in from one side goes out to the other."""
        return 8 * (self.up + self.down) / 1e6

    @classmethod
    def of(cls, given: Assumptions) -> "Traffic":
        speech = given.turn_seconds if given.open_microphone else TURN_SPEECH_SECONDS
        appends = 1000 * speech / given.chunk_ms
        append, rest_up, down = _turn_bytes(given.chunk_ms)
        scale = given.wire_overhead / given.turn_seconds
        return cls(appends, scale * (appends * append + rest_up), scale * down)


@cache
def _turn_bytes(chunk_ms: int) -> tuple[int, int, int]:
    """An append, the rest that goes up, and all that comes down, framed."""
    turn = Turn(append_seconds=chunk_ms / 1000)
    down = sum(len(each.payload) + _FRAME_HEADER - 4 for each in turn.down)
    return len(turn.append) + _FRAME_HEADER, len(turn.create) + _FRAME_HEADER, down


@dataclass(frozen=True)
class Fleet:
    """Machines of one size that carry so many sessions."""

    sessions: int
    cores: int
    machines: int
    workers: int
    """Of one machine."""
    sessions_a_machine: int
    sessions_a_worker: int
    """With every machine up."""
    limited_by: str
    memory_gb: float | None
    gigabits: float
    """Of one machine's network card, each way."""
    open_files: int
    """Of one worker."""
    source_addresses: int
    """That one machine needs towards the provider."""
    balancer_addresses: int
    """From which a balancer has to connect to one machine."""
    reopen_seconds: float | None
    """Until the rest has taken over the sessions of a machine that died."""

    @property
    def all_workers(self) -> int:
        return self.machines * self.workers


def fleet(sessions: int, cores: int, costs: Costs, given: Assumptions) -> Fleet | None:
    """None if nobody measured what a turn costs."""
    by_cpu = costs.sessions_a_core(given)
    if by_cpu is None:
        return None
    workers = max(1, floor(cores * (1 - given.kernel_share)))
    a_worker = max(1, min(by_cpu, given.max_sessions))
    machines = ceil(sessions / (workers * a_worker) * (1 + given.spare))
    on_each = ceil(sessions / machines)
    on_worker = ceil(on_each / workers)
    memory = None
    if costs.session_kb is not None and costs.worker_mb is not None:
        own = on_each * (costs.session_kb + given.kernel_kb) / 1e6
        memory = workers * costs.worker_mb / 1e3 + own
    reopen = None
    if costs.open_ms is not None and machines > 1:
        used = sessions * (costs.session_ms(given) or 0.0) / 1000
        free = (machines - 1) * workers - used
        reopen = on_each * costs.open_ms / 1000 / free if free > 0 else None
    return Fleet(
        sessions, cores, machines, workers, on_each, on_worker,
        "CPU" if by_cpu <= given.max_sessions else "max_sessions",
        memory,
        on_each * Traffic.of(given).megabits / 1e3,
        2 * on_worker + SPARE_FILES,
        ceil(on_each / (given.ports * given.provider_addresses)),
        ceil(on_each / given.ports),
        reopen,
    )  # fmt: skip


@dataclass(frozen=True)
class Store:
    """What the ledger of so many sessions is asked for, a second."""

    records: float
    checkpoints: float
    syncs: float
    """Of one worker's journal."""
    transactions: float
    """Of the store, all workers together: each has one at a time."""
    saturated: bool
    """Whether workers write so often that what comes meanwhile shares a transaction."""
    connections: int
    megabytes: float
    asks: float
    calls: float
    """Of leases: at least as many as a hundred questions fit in, one at a time a worker."""
    keeps_up: bool

    @property
    def rows(self) -> float:
        return self.records + self.checkpoints


def checkpoints_per_turn(response_seconds: float) -> int:
    """The first is made soon after a response began, the others while it runs."""
    if response_seconds <= CHECKPOINT_FIRST_SECONDS:
        return 0
    return 1 + floor(response_seconds / CHECKPOINT_SECONDS)


def questions(sessions: int, given: Assumptions) -> float:
    """Asks of leases a second: renewals, slices, the first and the last of each session."""
    each = 1 / given.renew_seconds + given.asks_per_turn / given.turn_seconds
    return sessions * given.budget_share * (each + 2 / given.session_seconds)


def store(sessions: int, workers: int, given: Assumptions) -> Store:
    """For ``sessions`` on ``workers``, all of which share one store."""
    turns = sessions / given.turn_seconds
    records = turns * given.records_per_turn
    checkpoints = turns * checkpoints_per_turn(given.response_seconds)
    rows = records + checkpoints
    syncs = min(rows / workers, 1000 / given.fsync_ms)
    at_most = workers * 1000 / given.store_ms
    asks = questions(sessions, given)
    return Store(
        records,
        checkpoints,
        syncs,
        min(rows, at_most),
        rows > at_most,
        workers * given.store_connections,
        rows * given.record_bytes / 1e6,
        asks,
        max(min(asks, at_most), asks / ASKS_A_CALL),
        asks / ASKS_A_CALL <= at_most,
    )
