"""How usage records lie in a journal file: bytes in, records out, and nothing is invented.

The rule: an entry counts only if its length and checksum agree. Reading goes on behind what is
damaged, at the next entry that is whole, and says how many bytes it had to leave out; it never
raises for what a file holds.

A file is a header and then entries::

    header   "relay_journal" · version (1 byte) · CRC-32 of both
    entry    mark FF "ent" · length (4) · CRC-32 (4) · payload: one record as JSON in UTF-8

Numbers are little-endian. The mark begins with a byte that UTF-8 does not have, so no payload
contains one.
"""

import re
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from decimal import Decimal
from operator import attrgetter
from typing import Any

from relay_app import codec
from relay_app.ledger.stores.base import check_record
from relay_app.meter.usage import Usage, UsageRecord

__all__ = [
    "FILE_HEADER",
    "MAX_READ_BYTES",
    "Found",
    "UnknownVersion",
    "best_of_each",
    "decode",
    "encode",
    "header_length",
    "scan",
]

VERSION = 1
MARK = b"\xffent"
MAX_PAYLOAD_BYTES = 262_144
"""A record is about 1 kB, and 6 kB at its largest; a length beyond this is damage."""

_LIMIT = 1 << 63
_ENTRY = struct.Struct("<4sII")
_MAGIC = b"relay_journal"
_HEADER_BYTES = len(_MAGIC) + 1 + 4
MAX_READ_BYTES = _ENTRY.size + MAX_PAYLOAD_BYTES
"""A read of this many bytes from where an entry begins holds the whole of it."""

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_USAGE = tuple(f.name for f in fields(Usage))
_PLAIN = tuple(f.name for f in fields(UsageRecord) if f.name not in ("usage", "cost_usd"))
_usage = attrgetter(*_USAGE)
_plain = attrgetter(*_PLAIN)


def _header(version: int) -> bytes:
    head = _MAGIC + bytes([version])
    return head + struct.pack("<I", zlib.crc32(head))


FILE_HEADER = _header(VERSION)


class UnknownVersion(Exception):
    """The file was written, undamaged, by a relay_app that knows more than this one."""


def header_length(data: bytes) -> int:
    """Where the entries of a file that begins with ``data`` begin; 0 if its header is damaged,
    for entries are found without. Raises UnknownVersion."""
    head = data[:_HEADER_BYTES]
    if len(head) < _HEADER_BYTES or head != _header(head[len(_MAGIC)]):
        return 0
    if head[len(_MAGIC)] != VERSION:
        raise UnknownVersion(f"its format is version {head[len(_MAGIC)]}, we read {VERSION}")
    return _HEADER_BYTES


def encode(record: UsageRecord) -> bytes:
    """The entry of ``record``. Raises TypeError, ValueError or OverflowError for a record that
    no store and no JSON can hold."""
    numbers = _checked(record)
    # The fields of as_dict(), without the deep copies it makes on the way.
    values: dict[str, Any] = dict(zip(_PLAIN, _plain(record), strict=True))
    values.update(zip(_USAGE, numbers, strict=True))
    values["cost_usd"] = None if record.cost_usd is None else format(record.cost_usd, "f")
    payload = codec.dumps(values).encode()
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"a record of {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES}")
    return _ENTRY.pack(MARK, len(payload), _checksum(payload)) + payload


def decode(payload: bytes) -> UsageRecord:
    """The record of an entry. Raises ValueError for what is none."""
    try:
        values = codec.loads_object(payload)
        # What an older relay_app did not know yet is as it would have been: the default.
        usage = Usage(**{name: values.pop(name) for name in _USAGE if name in values})
        cost = values.pop("cost_usd")
        cost_usd = None if cost is None else Decimal(cost)
        record = UsageRecord(usage=usage, cost_usd=cost_usd, **values)
        _checked(record)
        if _HALF.search(payload):
            encode(record)  # which fails for half of a surrogate pair
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a usage record: {type(error).__name__}: {error}") from None
    return record


def _checked(record: UsageRecord) -> tuple[float, ...]:
    """The counts of a record that any store can hold. Raises as :func:`encode` does."""
    check_record(record)
    numbers: tuple[float, ...] = _usage(record.usage)
    if not all(-_LIMIT < number < _LIMIT for number in (*numbers, record.started_at)):
        raise OverflowError("a number beyond 64 bits, or none at all")
    return numbers


def best_of_each(records: Iterable[UsageRecord]) -> list[UsageRecord]:
    """One record an id: the newest of those that rank highest, in their order.

    What a store would be left with anyway, so that the many checkpoints of one long response
    cost it one row of a write.
    """
    best: dict[str, UsageRecord] = {}
    for record in records:
        old = best.get(record.id)
        if old is not None:
            if record.rank < old.rank:
                continue
            del best[record.id]
        best[record.id] = record
    return list(best.values())


@dataclass(slots=True)
class Found:
    """What ``scan`` made of some bytes: payloads, how far it came, what it had to leave out."""

    payloads: list[bytes]
    consumed: int = 0
    damaged: int = 0


def scan(data: bytes, *, final: bool) -> Found:
    """The entries in ``data``. Unless it is the ``final`` part of a file, an entry cut off by
    its end is left for the next part, which begins at ``consumed``."""
    found = Found([])
    position = 0
    while position < len(data):
        if len(data) - position < _ENTRY.size:
            if not final:
                break
        else:
            mark, length, checksum = _ENTRY.unpack_from(data, position)
            start, end = position + _ENTRY.size, position + _ENTRY.size + length
            if mark == MARK and length <= MAX_PAYLOAD_BYTES:
                if end > len(data) and not final:
                    break
                payload = data[start:end]
                if end <= len(data) and _checksum(payload) == checksum:
                    found.payloads.append(payload)
                    position = end
                    continue
        next_mark = data.find(MARK, position + 1)
        if next_mark < 0:
            # The last bytes may be the beginning of a mark that goes on in the next part.
            next_mark = len(data) if final else len(data) - len(MARK) + 1
        found.damaged += next_mark - position
        position = next_mark
    found.consumed = position
    return found


def _checksum(payload: bytes) -> int:
    return zlib.crc32(payload, len(payload))
