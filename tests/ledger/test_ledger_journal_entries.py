"""The journal's format: whatever a file holds, every whole entry is found and none is invented."""

import dataclasses
import random
import struct
import zlib
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_support import make_record

from relay_app.ledger import entries
from relay_app.ledger.entries import MAX_READ_BYTES, best_of_each, decode, encode, scan
from relay_app.meter.usage import Usage, UsageRecord

RECORDS = [make_record(str(n), usage_raw=f"[{n}]") for n in range(5)]
ENTRIES = [encode(record) for record in RECORDS]
FILE = b"".join(ENTRIES)


def read(data: bytes) -> list[UsageRecord]:
    return [decode(payload) for payload in scan(data, final=True).payloads]


def read_in_parts(data: bytes, size: int) -> tuple[list[bytes], int]:
    """As a file is read that is larger than one read."""
    payloads: list[bytes] = []
    damaged = position = 0
    while position < len(data):
        found = scan(data[position : position + size], final=position + size >= len(data))
        assert found.consumed, "no way forward"
        payloads += found.payloads
        damaged += found.damaged
        position += found.consumed
    return payloads, damaged


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cost_usd": None, "price": None, "usage_raw": None, "estimate": None},
        {"cost_usd": Decimal("1E-6"), "ended_at": 1_700_000_000.123456},
        {"key": '\u00fc\u6f22\U0001f600 "\\/\x00\n', "unit_id": "", "usage": Usage()},
        {"usage_raw": "x" * 4096, "source": "unknown", "status": "dropped"},
    ],
)
def test_a_record_comes_back_as_it_went(changes: dict[str, object]) -> None:
    record = make_record(**changes)
    assert read(encode(record)) == [record]
    assert dataclasses.asdict(read(encode(record))[0]) == dataclasses.asdict(record)


def test_an_entry_says_what_the_public_record_says() -> None:
    record = make_record()
    (payload,) = scan(encode(record), final=True).payloads
    assert entries.codec.loads(payload) == record.as_dict()


@pytest.mark.parametrize(
    "flaw",
    [{"key": "\udc80"}, {"started_at": float("nan")}, {"model": object()}, {"source": "guess"},
     {"usage_raw": "x" * 300_000}, {"usage": Usage(input_text_tokens=2**70)}],
)  # fmt: skip
def test_what_no_store_could_hold_is_refused(flaw: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        encode(make_record(**flaw))


def test_version_1_can_be_read_forever() -> None:
    payload = (
        b'{"id":"i","session_id":"s","kind":"response","source":"reported","status":"completed",'
        b'"key":"k","upstream":"u","model":"m","upstream_model":"m","unit_id":"r","started_at":1.0,'
        b'"ended_at":2.5,"price":null,"usage_raw":null,"estimate":null,"input_text_tokens":7,'
        b'"input_audio_tokens":0,"input_image_tokens":0,"cached_text_tokens":0,'
        b'"cached_audio_tokens":0,"cached_image_tokens":0,"output_text_tokens":0,'
        b'"output_audio_tokens":0,"reasoning_tokens":0,"transcription_seconds":0.0,'
        b'"cost_usd":"0.10"}'
    )
    data = b"\xffent" + struct.pack("<II", len(payload), 0x25C56035) + payload
    (record,) = read(data)
    assert (record.id, record.ended_at, record.cost_usd) == ("i", 2.5, Decimal("0.10"))
    assert record.usage == Usage(input_text_tokens=7)


def test_a_count_that_an_older_version_did_not_know_is_zero() -> None:
    values = make_record().as_dict()
    del values["reasoning_tokens"], values["transcription_seconds"]
    record = decode(entries.codec.dumps(values).encode())
    assert record.usage == dataclasses.replace(make_record().usage, transcription_seconds=0.0)


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b"\xff", b'{"id":"x"}', b'{"x":1}'])
def test_what_is_no_record_is_a_value_error(payload: bytes) -> None:
    with pytest.raises(ValueError, match="not"):
        decode(payload)


@pytest.mark.parametrize("count", [[], "7", None, {}, 2**63, float("inf")])
def test_a_record_that_no_store_could_hold_is_none(count: object) -> None:
    values = make_record().as_dict() | {"input_text_tokens": count}
    with pytest.raises(ValueError, match="not a usage record"):
        decode(entries.codec.dumps(values).encode())


@pytest.mark.parametrize("half", [rb"\ud800", rb"\uDFFF", rb"\udc00\ud800"])
def test_a_record_with_a_text_that_utf8_cannot_say_is_none(half: bytes) -> None:
    payload = ENTRIES[0][12:].replace(b'"team-a"', b'"team-' + half + b'"')
    with pytest.raises(ValueError, match="not a usage record"):
        decode(payload)
    whole = payload.replace(half, rb"\uD83D\uDE00 \\ud800")
    assert decode(whole).key == "team-\U0001f600 \\ud800"


def test_a_header_of_a_newer_version_is_told_from_a_damaged_one() -> None:
    assert entries.header_length(entries.FILE_HEADER) == len(entries.FILE_HEADER)
    assert entries.header_length(entries.FILE_HEADER[:-1]) == 0
    damaged = bytearray(entries.FILE_HEADER)
    damaged[-5] = 99  # the version, without its checksum
    assert entries.header_length(bytes(damaged)) == 0
    with pytest.raises(entries.UnknownVersion, match="version 99"):
        entries.header_length(entries._header(99))


def test_the_last_entry_torn_anywhere_costs_no_other() -> None:
    whole = len(FILE) - len(ENTRIES[-1])
    for end in range(whole, len(FILE)):
        found = scan(FILE[:end], final=True)
        assert [decode(p) for p in found.payloads] == RECORDS[:-1]
        assert (found.consumed, found.damaged) == (end, end - whole)
        unfinished = scan(FILE[:end], final=False)
        assert (unfinished.consumed, unfinished.damaged) == (whole, 0)


@pytest.mark.parametrize("zeros", [1, 11, 12, 13, 4096])
def test_a_tail_of_zeros_is_damage_and_no_more(zeros: int) -> None:
    found = scan(FILE + bytes(zeros), final=True)
    assert [decode(p) for p in found.payloads] == RECORDS
    assert found.damaged == zeros


def test_any_one_byte_changed_costs_its_own_entry_alone() -> None:
    middle = len(ENTRIES[0]) + len(ENTRIES[1])
    for offset in range(len(ENTRIES[2])):
        data = bytearray(FILE)
        data[middle + offset] ^= 0x41
        found = scan(bytes(data), final=True)
        assert [decode(p) for p in found.payloads] == [*RECORDS[:2], *RECORDS[3:]]
        assert found.damaged == len(ENTRIES[2])


def test_a_length_that_points_far_away_hides_nothing() -> None:
    bad = bytearray(ENTRIES[0])
    for length in (0, 1, len(FILE) - 12, 262_144, 262_145, 2**32 - 1):
        bad[4:8] = struct.pack("<I", length)
        assert read(bytes(bad) + FILE) == RECORDS


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damage_anywhere_never_raises_never_invents_and_keeps_what_is_whole(data) -> None:
    order = data.draw(st.lists(st.integers(0, 4), max_size=8))
    pieces = [ENTRIES[n] for n in order]
    damaged = set(data.draw(st.lists(st.integers(0, 7), max_size=3)))
    out = bytearray()
    intact: list[bytes] = []
    for index, piece in enumerate(pieces):
        if index in damaged:
            how = data.draw(st.sampled_from(["flip", "cut", "noise", "zero"]))
            at = data.draw(st.integers(0, len(piece) - 1))
            if how == "flip":
                broken = bytearray(piece)
                broken[at] ^= data.draw(st.integers(1, 255))
                piece = bytes(broken)
            elif how == "cut":
                piece = piece[:at]
            elif how == "noise":
                piece = piece[:at] + data.draw(st.binary(max_size=64)) + piece[at + 1 :]
                piece = piece if piece not in ENTRIES else b""
            else:
                piece = bytes(len(piece))
        else:
            intact.append(piece[12:])
        out += piece
    out += data.draw(st.binary(max_size=64))
    found = scan(bytes(out), final=True)
    assert found.payloads == intact
    assert found.consumed == len(out)
    assert found.damaged == len(out) - sum(12 + len(payload) for payload in intact)
    size = data.draw(st.integers(max(map(len, ENTRIES)), 3_000))
    # With parts as small as that, a damaged length may reach beyond a part; see MAX_READ_BYTES.
    if not damaged:
        assert read_in_parts(bytes(out), size)[0] == intact


@given(st.binary(max_size=2_000), st.booleans())
def test_noise_is_no_entry(noise: bytes, final: bool) -> None:
    found = scan(noise, final=final)
    assert found.payloads == []
    assert found.consumed <= len(noise)


def test_a_file_of_many_reads_is_read_whole_though_damaged_at_random() -> None:
    dice = random.Random(7)
    records = [make_record(str(n), usage_raw="x" * dice.randrange(4096)) for n in range(600)]
    pieces = [encode(record) for record in records]
    bad = set(dice.sample(range(600), 40))
    for index in bad:
        piece = bytearray(pieces[index])
        piece[dice.randrange(len(piece))] ^= 0x55
        pieces[index] = bytes(piece[: dice.randrange(1, len(piece) + 1)])
    data = b"".join(pieces)
    assert len(data) > 3 * MAX_READ_BYTES
    payloads, damaged = read_in_parts(data, MAX_READ_BYTES)
    expected = [record for n, record in enumerate(records) if n not in bad]
    assert [decode(payload) for payload in payloads] == expected
    assert damaged == sum(len(pieces[index]) for index in bad)


def test_a_checksum_covers_the_length() -> None:
    payload = b"{}" + b"\x00" * 8
    assert entries._checksum(payload) != zlib.crc32(payload)


def test_of_one_id_the_best_and_newest_is_shipped_in_its_order() -> None:
    guess = {"source": "estimated", "status": "dropped"}
    stream = [
        make_record("a", ended_at=1.0, **guess),
        make_record("b", ended_at=2.0),
        make_record("a", ended_at=3.0, **guess),
        make_record("c", ended_at=4.0),
        make_record("a", ended_at=5.0),
        make_record("b", ended_at=6.0, **guess),
        make_record("c", ended_at=7.0),
    ]
    best = best_of_each(stream)
    assert [(record.unit_id, record.ended_at) for record in best] == [
        ("b", 2.0),
        ("a", 5.0),
        ("c", 7.0),
    ]
