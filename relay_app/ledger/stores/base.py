"""The contract of a store: where usage records live once the session that made them is gone.

The rule: a method that returns has done what it says. There is no quiet success: an abstract
method raises, and a store that is not sure raises :class:`StoreError`.
"""

import abc
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from math import isfinite

from relay_app.ledger.stores.keys import StoredKey
from relay_app.ledger.stores.leases import Ask, Lease
from relay_app.ledger.stores.totals import By, Total, day_of
from relay_app.meter.usage import SOURCE_RANK, UsageRecord

__all__ = ["KeyChanged", "Store", "StoreError", "check_record", "microusd", "redact"]

_SECRETS = re.compile(r"(?<=://)\S*(?=@)|(?<=password=)[^\s&;]+", re.IGNORECASE)


def redact(text: str) -> str:
    """``text`` with the user and password of every URL in it replaced by ``***``."""
    return _SECRETS.sub("***", text)


def microusd(cost: Decimal) -> int:
    """``cost``, in USD, in whole micro-dollars, which every store can add up exactly.

    Raises ValueError for one that is finer, or beyond 1e12 USD: no price list makes such.
    """
    if cost.adjusted() > 12 or (micro := cost.scaleb(6)) != micro.to_integral_value():
        raise ValueError(f"cost_usd must be in micro-dollars and below 1e12, not {cost}")
    return int(micro)


def check_record(record: UsageRecord) -> None:
    """Raise TypeError, ValueError or OverflowError for what no store can add up or order."""
    if record.source not in SOURCE_RANK:
        raise ValueError(f"source must be one of {', '.join(SOURCE_RANK)}, not {record.source!r}")
    cost = record.cost_usd
    if cost is not None and not (isinstance(cost, Decimal) and cost.is_finite()):
        raise TypeError(f"cost_usd must be a finite Decimal, not {cost!r}")
    if cost is not None:
        microusd(cost)
    for name in ("id", "session_id", "key", "model"):
        if not isinstance(getattr(record, name), str):
            raise TypeError(f"{name} must be text, not {getattr(record, name)!r}")
    if not (isfinite(record.started_at) and isfinite(record.usage.transcription_seconds)):
        raise ValueError("started_at and transcription_seconds must be finite")
    day_of(record.ended_at)


class StoreError(Exception):
    """The store could not do what it was asked, and says why in one redacted line.

    ``rejected`` decides what a failed write means:

    * empty: nothing may be assumed durable. The same records are to be written again, and
      writing twice what did arrive does no harm.
    * ids and causes: those records can never be stored (a value no column takes), and every
      other record of the call **is** durable. Writing them again would fail again.

    There is no flag for transient failures on purpose: a full disk, a locked file and a newer
    schema are all cured by someone else, so the answer to each is to keep and retry.
    """

    def __init__(self, message: str, *, rejected: Mapping[str, str] | None = None) -> None:
        super().__init__(redact(message))
        self.rejected = {key: redact(cause) for key, cause in (rejected or {}).items()}


class KeyChanged(ValueError):
    """The store has another key of that name than the caller thought, or none."""

    def __init__(self) -> None:
        super().__init__("the key of that name was changed meanwhile")


class Store(abc.ABC):
    """A durable, idempotent set of usage records.

    Every method may block on disk or network and is called on a native thread, never on the
    hub; any thread may call any method, at the same time as another. Building a store is free:
    it opens, creates and reads nothing until first used, and it may be built before a fork and
    used on either side of it. One that was already writing when its process forked may refuse
    to work in the child.

    ``local`` says that ``write`` needs no more than this host's own disk. In front of any other
    store records are first kept in a journal, so that sessions never wait for a network.

    Methods raise :class:`StoreError` when the store behind them does not do its part, and
    ValueError for arguments that make no sense.
    """

    local: bool = False

    @classmethod
    @abc.abstractmethod
    def from_url(cls, url: str) -> "Store":
        """The store that ``url`` names, unopened.

        Raises ValueError, saying what would be accepted and repeating no password.
        """

    @abc.abstractmethod
    def write(self, records: Sequence[UsageRecord]) -> None:
        """Make ``records`` durable. When this returns, they survive the death of this process
        and, for a store on disk, the loss of power.

        Idempotent by ``id``: any number of replays leaves one record. A record takes the place
        of one with the same id only if it ranks at least as high (``UsageRecord.rank``), so
        what the provider reported is never lost to an estimate, whatever the order of arrival.

        What the record costs counts against the budget of its key, and against the lease of its
        session, in the same moment in which it can be read.

        One bad record never costs the others: see :attr:`StoreError.rejected`. Text is what
        UTF-8 can say, and a store may refuse NUL in it.
        """

    @abc.abstractmethod
    def records(
        self,
        *,
        session_id: str | None = None,
        key: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Iterator[UsageRecord]:
        """The records of one session, of one key, or of all, with ``since <= ended_at < until``,
        in order of ``ended_at`` and then ``id``.

        They come from one consistent view and are streamed: memory does not grow with their
        number. Close the iterator (or exhaust it) to let go of that view.
        """

    @abc.abstractmethod
    def totals(
        self,
        by: By,
        *,
        key: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> list[Total]:
        """What was used and what it cost, by group, in order of the group's name.

        Takes the records of ``key`` or of all, with ``since <= ended_at < until``. Money is
        added exactly.
        """

    @abc.abstractmethod
    def lease(self, asks: Sequence[Ask], *, seconds: float) -> list[Lease]:
        """What each of ``asks`` is given, in their order; made in one moment, or not at all.

        A lease lapses ``seconds`` after its last ask, by the store's own clock: then its slot is
        free, and what it held is no longer kept from the others. One that ended frees its slot
        at once, and what it spent is kept from the others until the ledger shows it or, for
        records that never come, ``seconds`` have passed.

        Whoever asks at the same time, from whatever host, never holds more together than the
        budget. Survives no more than it must: a store that loses leases in a crash does no harm.
        """

    @abc.abstractmethod
    def keys(self) -> list[StoredKey]:
        """All keys, revoked ones too, by name."""

    @abc.abstractmethod
    def put_key(self, key: StoredKey, *, instead_of: StoredKey | None) -> None:
        """Keep ``key`` in place of the one of its name, which must equal ``instead_of``; None
        is for a name that the store does not have. Durable as a record.

        Of many who change what they have all read, the first succeeds. The others, and whoever
        comes with what stands no more, get :class:`KeyChanged` and have changed nothing; except
        with the very ``key`` that stands, for a call may be made again when its answer was lost.

        Raises ValueError if another name has its SHA-256.
        """

    @abc.abstractmethod
    def forget(self, day: str) -> int:
        """Delete the records that ended before the UTC day ``day``, and say how many they were.

        Done in steps, so that no writer waits long. What budgets count is not touched: a total
        budget stays spent. Raises ValueError for what is no day: see
        :func:`~relay_app.ledger.stores.totals.check_day`.
        """

    @abc.abstractmethod
    def ping(self) -> None:
        """Return if the store can be reached and read; for readiness. Proves no free disk."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of files and connections. Idempotent; every other method then raises."""
