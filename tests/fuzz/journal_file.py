"""A journal file that somebody left behind: what is whole in it is shipped, the rest is kept.

An input is a byte that says what stands around it, and entries: as they are, or sealed, with
lengths and checksums made right.
"""

import json
import struct
import tempfile
import zlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from fuzz.target import Target
from relay_app.ledger.entries import FILE_HEADER, MAX_READ_BYTES, decode, encode
from relay_app.ledger.journal import Journal
from relay_app.meter.usage import Usage, UsageRecord

__all__ = ["TARGET", "adopted", "check"]

MARK = b"\xffent"
HEAD = struct.Struct("<4sII")
MOST_BYTES = 262_144
HEADER_BYTES = len(b"relay_journal") + 1 + 4
BARE, SEALED, CUT = 1, 2, 0xE0

RECORD = UsageRecord(
    id="i", session_id="s", kind="response", source="reported", status="completed", key="k",
    upstream="u", model="m", upstream_model="m", unit_id="r", started_at=1.0, ended_at=2.5,
    usage=Usage(input_text_tokens=7), cost_usd=Decimal("0.10"),
)  # fmt: skip


def check(data: bytes) -> None:
    """The file that ``data`` stands for is read as somebody reads it who knows the format."""
    if not data:
        return
    how, body = data[0], data[1:]
    if how & SEALED:
        body = sealed(body)
    if how & CUT == CUT:
        body = _cut(body, how >> 2 & 7)
    with tempfile.TemporaryDirectory(prefix="relay-fuzz-") as folder:
        adopted(body if how & BARE else FILE_HEADER + body, Path(folder))


def _cut(body: bytes, eighths: int) -> bytes:
    """``body`` twice, so far apart that the second is cut by the end of a read."""
    between = bytes(MOST_BYTES - len(body) - len(body) * eighths // 8)
    return body + sealed(MARK + bytes(8) + between) + body


def adopted(content: bytes, folder: Path) -> list[UsageRecord]:
    """The records of a file of ``content``, adopted in ``folder``; fails if a law is broken."""
    path = folder / "00000000000000000001-1-000001.journal"
    path.write_bytes(content)
    payloads, damaged = _entries(content)
    journal = Journal(folder)
    try:
        journal.backlog.adopt()
        records = []
        while (batch := journal.backlog.read()) is not None:
            assert 0 < batch.length <= MAX_READ_BYTES
            records += batch.records
            journal.backlog.shipped(batch)
        assert journal.backlog.unshipped_bytes == 0
    finally:
        journal.close()
    known = {payload: _record(payload) for payload in payloads}
    expected = [record for payload in payloads if (record := known[payload]) is not None]
    damaged += sum(len(payload) for payload in payloads if known[payload] is None)
    if _is_newer(content):
        assert records == []
        assert [(path, content)] == [(p, p.read_bytes()) for p in folder.iterdir()]
        return records
    assert repr(records) == repr(expected)  # with NaN in them they would not be equal
    assert journal.backlog.damaged_bytes == damaged
    for record in known.values():
        assert record is None or repr(decode(encode(record)[HEAD.size :])) == repr(record)
    kept = [(path.with_suffix(".bad"), content)] if damaged else []
    assert kept == [(p, p.read_bytes()) for p in folder.iterdir()]
    return records


def _is_newer(content: bytes) -> bool:
    """Whether a header says, undamaged, that somebody wrote it who knows more."""
    head = content[: HEADER_BYTES - 4]
    checksum = struct.pack("<I", zlib.crc32(head))
    return head[:-1] == b"relay_journal" and head[-1:] != b"\x01" and (
        content[HEADER_BYTES - 4 : HEADER_BYTES] == checksum
    )  # fmt: skip


def _entries(content: bytes) -> tuple[list[bytes], int]:
    """The payloads of whole entries, and how many bytes belong to none."""
    at = HEADER_BYTES if content.startswith(FILE_HEADER) else 0
    payloads, whole = [], at
    while (at := content.find(MARK, at)) >= 0:
        _, length, checksum = HEAD.unpack(content[at : at + HEAD.size].ljust(HEAD.size, b"\0"))
        payload = content[at + HEAD.size : at + HEAD.size + length]
        cut = len(payload) < length or len(content) < at + HEAD.size
        if cut or length > MOST_BYTES or zlib.crc32(payload, length) != checksum:
            at += 1
            continue
        payloads.append(payload)
        at += HEAD.size + length
        whole += HEAD.size + length
    return payloads, len(content) - whole


def _record(payload: bytes) -> UsageRecord | None:
    """What ``decode`` says, held against the standard library's reading of it."""
    try:
        record = decode(payload)
    except ValueError:
        return None
    try:
        told = json.loads(payload)
    except ValueError:
        return record  # more lenient, about numbers and halves of surrogate pairs
    said = record.as_dict()
    assert said.keys() >= told.keys()
    for name in told.keys() - {"cost_usd"}:
        assert said[name] == told[name] or said[name] != said[name]
    return record


def sealed(body: bytes) -> bytes:
    """``body`` with the length and checksum of each entry made right, up to the next mark."""
    first, *pieces = body.split(MARK)
    payloads = [piece[8:] for piece in pieces]
    heads = [HEAD.pack(MARK, len(p), zlib.crc32(p, len(p))) for p in payloads]
    return first + b"".join(head + payload for head, payload in zip(heads, payloads, strict=True))


def _seeds() -> Iterator[bytes]:
    entry = encode(RECORD)
    for how in (0, BARE, SEALED, CUT, CUT | 12, CUT | 28 | SEALED):
        head = bytes([how])
        yield head
        yield head + (FILE_HEADER if how & BARE else b"") + entry * 2
        yield head + entry + entry[:-3] + entry
        yield head + entry[:40] + entry + bytes(30)
        yield head + entry + MARK + b"\xff\xff\x03\x00" + entry + entry[:7]
    newer = b"relay_journal\x02"
    yield bytes([BARE]) + newer + struct.pack("<I", zlib.crc32(newer)) + entry
    for flaw in (b"null", b"[]", b'{"id":"i"}', b"\xff", b'"x"', b'{"id":"i","cost_usd":"NaN"}'):
        yield bytes([SEALED]) + entry + MARK + bytes(8) + flaw + entry
    head, payload = entry[: HEAD.size], entry[HEAD.size :]
    for old, new in ((b'"0.1', b'"1e999999'), (b"2.5", b"1e400"), (b":7", b":-7"), (b":7", b":[]"),
                     (b'"id":"i"', b'"id":5'), (b"null", b'{"a":1}'), (b":7", b":9" + b"9" * 19),
                     (b"2.5", b'"x"'), (b'"source":"reported"', b'"source":[]')):  # fmt: skip
        yield bytes([SEALED]) + head + payload.replace(old, new) + entry


TARGET = Target(
    check,
    _seeds,
    max_bytes=2_500,
    between=MARK,
    words=(MARK, b"\xff", FILE_HEADER, b'"cost_usd":', b'"usage_raw":', b"null", b"NaN", b"1e309",
           b'"ended_at":', b'"started_at":', b'"source":"estimated"', b'"kind":"residual"', b"{}",
           b"[]", b"Infinity", b"-", b"\\ud800"),
)  # fmt: skip
