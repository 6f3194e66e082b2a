"""Frames: what RFC 6455 section 5 allows goes through as it came, and nothing else does."""

import struct
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.frames import Frame as OtherFrame
from websockets.frames import Opcode
from websockets.streams import StreamReader
from wire_support import compiled, those_there

from relay_app.wire.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Close,
    FrameError,
    Scanner,
    encode,
    encode_close,
    parse_close,
    remask,
    xor,
)

KEY = b"\x11\x22\x33\x44"
LIMIT = 1_000_000
TWINS = {"python": Scanner, "compiled": compiled("Scanner")}


@pytest.fixture(autouse=True, scope="module", params=those_there(TWINS))
def _twin(request: pytest.FixtureRequest) -> Iterator[None]:
    TWINS["tested"] = TWINS[request.param]
    yield
    del TWINS["tested"]


def scanner(*, masked: bool = True, limit: int = LIMIT) -> Scanner:
    return TWINS["tested"](masked=masked, max_message_bytes=limit)


def slowly(key: bytes, payload: bytes) -> bytes:
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def seen(scan: Scanner, chunks: list[bytes]) -> tuple[list[tuple[int, bool, bytes]], str | None]:
    """All frames with their payloads unmasked, and the fault if there was one."""
    out = []
    for chunk in chunks:
        run = scan.feed(chunk)
        for frame in run.frames:
            payload = xor(bytes(run.data[frame.payload : frame.end]), frame.key)
            out.append((frame.opcode, frame.fin, payload))
        if run.fault:
            return out, run.fault.message
    return out, None


def header(first: int, second: int, rest: bytes = b"") -> bytes:
    return bytes((first, second)) + rest


@st.composite
def streams(draw: st.DrawFn) -> tuple[bool, bytes]:
    """A legal stream of frames as another implementation writes them."""
    masked = draw(st.booleans())
    sizes = st.one_of(st.integers(0, 130), st.sampled_from([65_535, 65_536, 70_000]))
    out = bytearray()

    def put(opcode: int, payload: bytes, fin: bool) -> None:
        out.extend(OtherFrame(Opcode(opcode), payload, fin).serialize(mask=masked))

    for _ in range(draw(st.integers(0, 4))):
        pieces = draw(st.lists(sizes, min_size=1, max_size=3))
        for i, size in enumerate(pieces):
            if draw(st.booleans()):
                put(draw(st.sampled_from([PING, PONG])), draw(st.binary(max_size=125)), True)
            opcode = CONTINUATION if i else draw(st.sampled_from([TEXT, BINARY]))
            put(opcode, draw(st.binary(min_size=4, max_size=4)) * (size // 4), i == len(pieces) - 1)
    return masked, bytes(out)


@settings(deadline=None, max_examples=80)
@given(streams(), st.lists(st.integers(0, 300_000), max_size=12))
def test_however_a_stream_is_split_its_frames_are_those_another_parser_finds(
    stream: tuple[bool, bytes], cuts: list[int]
) -> None:
    masked, data = stream
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    chunks = [data[a:b] for a, b in pairwise(edges)]

    found, fault = seen(scanner(masked=masked), chunks)

    reader = StreamReader()
    reader.feed_data(data)
    expected = []
    while reader.buffer:
        parser = OtherFrame.parse(reader.read_exact, mask=masked)
        with pytest.raises(StopIteration) as done:
            next(parser)
        frame = done.value.value
        expected.append((int(frame.opcode), frame.fin, bytes(frame.data)))
    assert fault is None
    assert found == expected


@pytest.mark.parametrize("masked", [True, False])
def test_a_stream_may_come_byte_by_byte(masked: bool) -> None:
    key = KEY if masked else b""
    data = encode(TEXT, b"a" * 126, key) + encode(PING, b"?", key) + encode(BINARY, b"", key)

    found, fault = seen(scanner(masked=masked), [bytes((byte,)) for byte in data])

    assert fault is None
    assert found == [(TEXT, True, b"a" * 126), (PING, True, b"?"), (BINARY, True, b"")]


def test_whole_frames_are_handed_on_as_they_came() -> None:
    data = encode(TEXT, b"one", KEY) + encode(BINARY, b"two", b"abcd")
    run = scanner().feed(data)
    assert run.data == data
    assert [(f.start, f.end) for f in run.frames] == [(0, 9), (9, 18)]


VIOLATIONS = {
    "reserved bit 1": (header(0xC1, 0x80), "reserved bits"),
    "reserved bit 2": (header(0xA1, 0x80), "reserved bits"),
    "reserved bit 3": (header(0x91, 0x80), "reserved bits"),
    "unknown data opcode": (header(0x83, 0x80), "unknown opcode 0x3"),
    "unknown control opcode": (header(0x8B, 0x80), "unknown opcode 0xb"),
    "not masked": (header(0x81, 0x00), "client frame not masked"),
    "control over 125": (header(0x89, 0xFE), "control frame over 125"),
    "control with a 64-bit length": (header(0x88, 0xFF), "control frame over 125"),
    "fragmented control": (header(0x09, 0x80), "fragmented control frame"),
    "continuation without a start": (header(0x80, 0x80), "continuation without a message"),
    "middle without a start": (header(0x00, 0x80), "continuation without a message"),
    "16-bit length not shortest": (header(0x81, 0xFE, b"\x00\x7d"), "shortest form"),
    "64-bit length not shortest": (
        header(0x81, 0xFF, struct.pack("!Q", 65_535)),
        "shortest form",
    ),
    "64-bit length with the top bit": (header(0x81, 0xFF, struct.pack("!Q", 1 << 63)), "top bit"),
}


@pytest.mark.parametrize(("data", "complaint"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
@pytest.mark.parametrize("bytewise", [False, True])
def test_a_violation_is_refused_from_the_header_alone(
    data: bytes, complaint: str, bytewise: bool
) -> None:
    chunks = [bytes((byte,)) for byte in data] if bytewise else [data]
    found, fault = seen(scanner(), chunks)
    assert found == []
    assert fault is not None
    assert complaint in fault


@pytest.mark.parametrize(("data", "complaint"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_what_stands_before_a_violation_is_still_delivered(data: bytes, complaint: str) -> None:
    run = scanner().feed(encode(TEXT, b"before", KEY) + data + b"\x00" * 9)
    assert [frame.opcode for frame in run.frames] == [TEXT]
    assert run.fault is not None
    assert run.fault.code == 1002
    assert complaint in run.fault.message


def test_a_server_may_not_mask() -> None:
    run = scanner(masked=False).feed(encode(TEXT, b"x", KEY))
    assert run.fault is not None
    assert "server frame masked" in run.fault.message


@pytest.mark.parametrize("first", [0x81, 0x01, 0x82, 0x02])
def test_no_message_begins_inside_another(first: int) -> None:
    run = scanner(masked=False).feed(header(0x01, 0x01, b"a") + header(first, 0x00))
    assert len(run.frames) == 1
    assert run.fault is not None
    assert "new message inside" in run.fault.message


def test_control_frames_may_come_between_fragments() -> None:
    data = header(0x01, 1, b"a") + encode(PING, b"!") + header(0x80, 1, b"b") + encode(TEXT, b"c")
    found, fault = seen(scanner(masked=False), [data])
    assert fault is None
    assert [opcode for opcode, _, _ in found] == [TEXT, PING, CONTINUATION, TEXT]


@pytest.mark.parametrize("size", [11, 200, 70_000, (1 << 63) - 1])
def test_a_message_too_big_is_refused_before_its_payload_is_buffered(size: int) -> None:
    scan = scanner(masked=False, limit=10)
    head = (
        header(0x82, size)
        if size < 126
        else header(0x82, 126, struct.pack("!H", size))
        if size < 65_536
        else header(0x82, 127, struct.pack("!Q", size))
    )
    run = scan.feed(head)
    assert run.fault is not None
    assert run.fault.code == 1009
    assert scan.awaiting == 0


def test_fragments_count_together_against_the_limit_and_control_frames_do_not() -> None:
    scan = scanner(masked=False, limit=10)
    assert scan.feed(header(0x01, 6, b"sixsix")).fault is None
    assert scan.feed(encode(PING, b"p" * 125)).fault is None
    assert scan.feed(header(0x00, 4, b"four")).fault is None
    run = scan.feed(header(0x00, 1))
    assert run.fault is not None
    assert run.fault.code == 1009


def test_the_limit_is_of_one_message_not_of_all() -> None:
    scan = scanner(masked=False, limit=10)
    for _ in range(3):
        assert scan.feed(header(0x01, 5, b"fives") + header(0x80, 5, b"fives")).fault is None


def test_awaiting_is_the_size_of_the_frame_being_received() -> None:
    scan = scanner()
    data = encode(BINARY, bytes(100_000), KEY)
    scan.feed(data[:9])
    assert scan.awaiting == 0
    scan.feed(data[9:10])
    assert scan.awaiting == len(data)
    scan.feed(data[10:-1])
    assert scan.awaiting == len(data)
    assert len(scan.feed(data[-1:]).frames) == 1
    assert scan.awaiting == 0


@settings(deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300), st.sampled_from([bytes(range(256)) * n for n in (256, 515)])
    ),
    st.binary(min_size=4, max_size=4),
    st.integers(0, 9),
)
@example(bytes(65_537), KEY, 3)
@example(b"\xff" * 131_072, b"\x00\x00\x00\x01", 1)
@example(b"", KEY, 0)
def test_xor_is_the_mask_of_section_5_3_at_any_offset(
    payload: bytes, key: bytes, offset: int
) -> None:
    assert xor(payload, key, offset) == slowly(key, bytes(offset) + payload)[offset:]
    assert xor(memoryview(payload), key, offset) == xor(bytearray(payload), key, offset)


def test_no_key_is_no_mask() -> None:
    assert xor(b"as it was", b"") == b"as it was"


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.binary(min_size=4, max_size=4))
@example([bytes(65_535), bytes(65_536), b"x" * 70_001], b"\xff\x00\xff\x00")
def test_remasking_changes_the_masks_and_nothing_else(payloads: list[bytes], key: bytes) -> None:
    data = b"".join(OtherFrame(Opcode.BINARY, p).serialize(mask=True) for p in payloads)
    run = scanner().feed(data)

    out = remask(run.data, run.frames, key)

    assert len(out) == len(data)
    again = scanner().feed(out)
    assert [frame.key for frame in again.frames] == [key] * len(payloads)
    assert seen(scanner(), [out]) == seen(scanner(), [data])


@pytest.mark.parametrize("key", [b"", KEY])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 200_000])
def test_what_is_encoded_is_read_by_another_parser(size: int, key: bytes) -> None:
    reader = StreamReader()
    reader.feed_data(encode(TEXT, b"e" * size, key))
    with pytest.raises(StopIteration) as done:
        next(OtherFrame.parse(reader.read_exact, mask=bool(key)))
    assert done.value.value == OtherFrame(Opcode.TEXT, b"e" * size)


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1013, 1014, 3000, 4999])
def test_a_close_says_its_code_and_reason(code: int) -> None:
    close = Close(code, "à bientôt".encode())
    assert parse_close(encode_close(close)[2:]) == close


def test_a_close_without_a_code_is_an_empty_frame_both_ways() -> None:
    assert parse_close(b"") == Close(1005)
    assert encode_close(Close(1005)) == b"\x88\x00"


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535])
def test_codes_that_may_not_be_on_the_wire_are_violations(code: int) -> None:
    with pytest.raises(FrameError) as error:
        parse_close(struct.pack("!H", code))
    assert error.value.code == 1002


def test_a_close_of_one_byte_is_a_violation() -> None:
    with pytest.raises(FrameError) as error:
        parse_close(b"\x03")
    assert error.value.code == 1002


@pytest.mark.parametrize("reason", [b"\xff", b"\xc3", "é".encode("latin-1"), b"\xed\xa0\x80"])
def test_a_close_reason_that_is_not_utf8_is_1007(reason: bytes) -> None:
    with pytest.raises(FrameError) as error:
        parse_close(struct.pack("!H", 1000) + reason)
    assert error.value.code == 1007


@settings(deadline=None, max_examples=300)
@given(st.lists(st.binary(max_size=40), max_size=6), st.booleans())
def test_no_bytes_whatever_make_it_raise_or_keep_more_than_it_was_given(
    chunks: list[bytes], masked: bool
) -> None:
    scan = scanner(masked=masked, limit=1_000)
    for chunk in chunks:
        run = scan.feed(chunk)
        assert all(f.start < f.payload <= f.end <= len(run.data) for f in run.frames)
        if run.fault:
            assert run.fault.code in (1002, 1009)
            break


def test_close_is_a_control_frame_like_the_others() -> None:
    run = scanner(masked=False).feed(encode_close(Close(1000)))
    assert run.has_control
    assert run.frames[0].opcode == CLOSE
