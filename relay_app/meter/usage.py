"""What was used: the record of one billable unit.

The rule: a record is a value. It is built once, never changed, and says where its figures come
from, so that zero tokens and unknown tokens are never confused.
"""

import uuid
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from itertools import compress
from operator import add, attrgetter, sub
from typing import Any, Literal

from relay_app.meter.value import quickly_made

try:
    # OpenSSL's, made for megabytes, takes several times as long to set out.
    from _sha1 import sha1  # type: ignore[import-not-found]
except ImportError:  # a Python that was built without its own
    from hashlib import sha1

__all__ = ["Kind", "Source", "Status", "Usage", "UsageRecord", "record_id"]

Kind = Literal["response", "transcription", "residual"]
Source = Literal["reported", "estimated", "unknown"]
Status = Literal["completed", "cancelled", "incomplete", "failed", "dropped"]

SOURCE_RANK: dict[str, int] = {"unknown": 0, "estimated": 1, "reported": 2}
"""A record may replace another of the same id only if it ranks at least as high. A ``residual``,
which was written while its unit was still running, ranks below every end of it: see
:attr:`UsageRecord.rank`."""

_NAMESPACE = uuid.UUID("7c1a6f0e-6f2b-5b0c-9d53-2f4c8f0a9e11").bytes


def record_id(session_id: str, unit_id: str) -> str:
    """The idempotency key of a unit: the same session and unit give the same id, anywhere.

    Kind and source are left out on purpose: an estimate and the report that replaces it are
    the same unit. Ids come from the provider, so they are hashed (uuid5) rather than trusted.
    """
    name = f"{session_id}/{unit_id}".encode("utf-8", "surrogatepass").decode("latin-1")
    # What uuid.uuid5() does, without its objects: a third of the time.
    digest = sha1(_NAMESPACE + name.encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    head, middle, tail = digest[:8], digest[8:12], digest[20:32]
    return f"{head}-{middle}-5{digest[13:16]}-{variant}{digest[17:20]}-{tail}"


@quickly_made
@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts by modality, as a provider reports them for one unit.

    Cached counts are a part of the input counts and ``reasoning_tokens`` is a part of
    ``output_text_tokens``: nothing here is to be added on top.
    """

    input_text_tokens: int = 0
    input_audio_tokens: int = 0
    input_image_tokens: int = 0
    cached_text_tokens: int = 0
    cached_audio_tokens: int = 0
    cached_image_tokens: int = 0
    output_text_tokens: int = 0
    output_audio_tokens: int = 0
    reasoning_tokens: int = 0
    transcription_seconds: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*map(add, _counts(self), _counts(other)))

    def __sub__(self, other: "Usage") -> "Usage":
        """What remains without ``other``, which must be a part of this."""
        return Usage(*map(sub, _counts(self), _counts(other)))

    def __bool__(self) -> bool:
        """Whether anything at all was used."""
        return any(_counts(self))

    def by_kind(self) -> dict[str, float]:
        """The counts that are not zero, by their names."""
        counts = _counts(self)
        return dict(compress(zip(_COUNTS, counts, strict=True), counts))

    @property
    def tokens(self) -> int:
        """Input and output tokens together; cached and reasoning tokens are inside them."""
        return (
            self.input_text_tokens
            + self.input_audio_tokens
            + self.input_image_tokens
            + self.output_text_tokens
            + self.output_audio_tokens
        )


_COUNTS = tuple(f.name for f in fields(Usage))
_counts = attrgetter(*_COUNTS)


@quickly_made
@dataclass(frozen=True, slots=True)
class UsageRecord:
    """One billable unit of one session: a model response or an input transcription.

    Times are seconds since the epoch (UTC). ``cost_usd`` and ``price``, the row it was computed
    by, are None while the unit is unpriced or its usage unknown. ``usage_raw`` is the provider's
    usage object as received, cut to 4 kB of JSON text. ``estimate`` is what the relay would have
    said without the provider, by kind (the names of :class:`Usage`), for reported units too; None
    if it saw nothing to go by.
    """

    id: str
    session_id: str
    kind: Kind
    source: Source
    status: Status
    key: str
    upstream: str
    model: str
    upstream_model: str
    unit_id: str
    started_at: float
    ended_at: float
    usage: Usage = Usage()
    cost_usd: Decimal | None = None
    price: dict[str, Any] | None = None
    usage_raw: str | None = None
    estimate: dict[str, float] | None = None

    def priced(self, cost_usd: Decimal, price: dict[str, Any]) -> "UsageRecord":
        """This record with what it costs."""
        values = list(_values(self))  # dataclasses.replace() takes twice the time
        values[_COST : _COST + 2] = cost_usd, price
        return UsageRecord(*values)

    @property
    def rank(self) -> int:
        """What this record yields to: one of the same id that ranks as high or higher."""
        return -1 if self.kind == "residual" else SOURCE_RANK[self.source]

    def as_dict(self) -> dict[str, Any]:
        """A flat dict of JSON values: the field names of the public record."""
        flat = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "usage"}
        head = list(flat.items())
        position = [name for name, _ in head].index("ended_at") + 1
        values = dict(head[:position]) | asdict(self.usage) | dict(head[position:])
        values["cost_usd"] = None if self.cost_usd is None else format(self.cost_usd, "f")
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "UsageRecord":
        """The record that :meth:`as_dict` wrote. Raises KeyError or TypeError for any other."""
        values = dict(values)
        usage = Usage(**{f.name: values.pop(f.name) for f in fields(Usage)})
        cost = values.pop("cost_usd")
        return cls(**values, usage=usage, cost_usd=None if cost is None else Decimal(cost))


_FIELDS = [f.name for f in fields(UsageRecord)]
_COST = _FIELDS.index("cost_usd")
_values = attrgetter(*_FIELDS)
