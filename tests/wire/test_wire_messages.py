"""Messages: looked at only as far as one asks, kept only as far as was agreed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame as OtherFrame
from websockets.frames import Opcode

from relay_app.wire.frames import Scanner
from relay_app.wire.messages import Assembler, Message


def messages(
    pieces: list[bytes], *, keep: int = 1_000_000, masked: bool = True, text: bool = True
) -> list[Message]:
    data = b""
    for i, piece in enumerate(pieces):
        first = Opcode.TEXT if text else Opcode.BINARY
        frame = OtherFrame(Opcode.CONT if i else first, piece, i == len(pieces) - 1)
        data += frame.serialize(mask=masked)
    run = Scanner(masked=masked, max_message_bytes=10_000_000).feed(data)
    assert run.fault is None
    assembler = Assembler(keep)
    return [m for f in run.frames if (m := assembler.add(run.data, f)) is not None]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=700), min_size=1, max_size=5), st.booleans(), st.booleans())
def test_head_tail_and_payload_are_those_of_the_joined_message(
    pieces: list[bytes], masked: bool, text: bool
) -> None:
    whole = b"".join(pieces)
    (message,) = messages(pieces, masked=masked, text=text)
    assert message.text is text
    assert message.length == len(whole)
    assert message.payload() == whole
    assert message.head(512) == whole[:512]
    assert message.head(7) == whole[:7]
    assert message.tail(16) == whole[-16:]
    assert message.tail(3) == whole[-3:]


def test_a_head_may_be_longer_than_512_bytes_of_one_frame_and_of_many() -> None:
    assert messages([b"a" * 9_000])[0].head(4_096) == b"a" * 4_096
    assert messages([b"a" * 3_000] * 3)[0].head(4_096) == b"a" * 4_096


def test_of_a_fragmented_message_no_more_is_kept_than_agreed() -> None:
    (message,) = messages([b"h" * 700, b"m" * 5_000, b"t" * 20], keep=600)
    assert message.payload() is None
    assert message.length == 5_720
    assert message.head(512) == b"h" * 512
    assert message.tail(16) == b"t" * 16
    assert len(message.head(1_000_000)) == 600


def test_the_head_is_there_even_if_less_was_agreed() -> None:
    (message,) = messages([b"h" * 300, b"m" * 300], keep=0)
    assert message.payload() is None
    assert message.head(512) == b"h" * 300 + b"m" * 212


@pytest.mark.parametrize("size", [600, 601])
def test_the_limit_itself_is_still_kept(size: int) -> None:
    (message,) = messages([b"x" * (size - 1), b"y"], keep=600)
    assert (message.payload() is None) == (size > 600)


def test_empty_fragments_are_part_of_a_message() -> None:
    (message,) = messages([b"", b"", b"{}", b""])
    assert message.payload() == b"{}"
    assert message.tail(16) == b"{}"


def test_a_whole_message_after_a_fragmented_one_stands_alone() -> None:
    frames = [
        OtherFrame(Opcode.BINARY, b"a", False),
        OtherFrame(Opcode.CONT, b"b", True),
        OtherFrame(Opcode.TEXT, b"c", True),
    ]
    run = Scanner(masked=False, max_message_bytes=100).feed(
        b"".join(frame.serialize(mask=False) for frame in frames)
    )
    assembler = Assembler(100)
    found = [m for f in run.frames if (m := assembler.add(run.data, f)) is not None]
    assert [(m.text, m.payload()) for m in found] == [(False, b"ab"), (True, b"c")]


def test_a_message_in_one_frame_copies_nothing_until_asked() -> None:
    data = OtherFrame(Opcode.TEXT, b"z" * 100).serialize(mask=False)
    run = Scanner(masked=False, max_message_bytes=100).feed(data)
    message = Assembler(0).add(run.data, run.frames[0])
    assert message is not None
    # Also beyond what is kept of fragments: it lies in the run.
    assert message.payload() == b"z" * 100
