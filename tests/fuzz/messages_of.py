"""One message: what its two ends tell, what a skim makes of it, against a full parse.

An input is a byte that says who sends it, and the payload.
"""

import re
from collections.abc import Iterator
from typing import Any

from fuzz.parsed import Pairs, count, fields, parsed
from fuzz.skims_of import TWINS
from fuzz.target import TRANSCRIPTS, Target
from relay_app import codec
from relay_app.meter.events import BRACE_BYTES, HEAD_BYTES, looks_whole, peek, peek_usual
from relay_app.meter.fields import AudioField, response_id, text_bytes
from relay_app.meter.kinds import (
    AUDIO_BYTES,
    CLIENT_KINDS,
    FIRST_TEXT,
    SERVER_KINDS,
    TEXTS,
    TOLD,
    TOLD_SOON,
)
from relay_app.meter.message import WholeText
from relay_app.meter.names import ASKED, AUDIO, CLIENT, COUNTED, SERVER, TEXT_DELTAS
from relay_app.meter.notes import Line
from relay_app.meter.reading import CLIENT_VALUES, MAX_PARSED_BYTES, NEAR_BYTES, read
from relay_app.meter.usual import python_read_usual, read_usual
from relay_app.wire.frames import encode
from relay_app.wire.messages import Message
from relay_app.wire.scanner import Scanner

__all__ = ["TARGET", "check"]

UNIT = b"resp_1"
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]*={0,2}")
MASKS = [b"", b"\x00\x7f\x80\xff"]
AT = 7.5


def check(data: bytes) -> None:
    """Nothing says of a message what a full parse would not say."""
    sent, payload = data[:1] < b"\x80", data[1:]
    told = fields(payload)
    _density(payload)
    _ends(payload, told)
    _same_by_any_mask(payload, sent)
    _reading(payload, told, sent)
    _usual(payload)
    _sizes(payload, told)
    for key in MASKS:
        for twin in TWINS:
            _skimmed(twin, payload, told, sent, key)


def _density(payload: bytes) -> None:
    try:
        values = count(parsed(payload))
    except ValueError:
        return
    for most in (2, 8, 32):
        assert codec.is_dense(payload, most) or values <= most + 1


def _types(told: Pairs) -> list[Any]:
    return [value for name, value in told if name == "type"]


def _flat(told: Pairs) -> bool:
    return not any(isinstance(value, list) for _, value in told)


def _ends(payload: bytes, told: Pairs | None) -> None:
    head = payload[:HEAD_BYTES]
    name, usual = peek(head), peek_usual(head)
    assert usual in (None, name)
    if told is None:
        return
    assert looks_whole(head, payload[-BRACE_BYTES:])
    if name is not None:
        assert name in _types(told)
        if _flat(told) and len(payload) <= HEAD_BYTES:
            assert name == _types(told)[-1]


def _message(payload: bytes, key: bytes) -> Message:
    frame = encode(1, payload, key)
    run = Scanner(masked=bool(key), max_message_bytes=1 << 20).feed(frame)
    (whole,) = run.frames
    return Message(True, run.data, whole.payload, whole.end, whole.key)


def _read(message: Any, sent: bool) -> Any:
    if sent:
        return read(
            message,
            CLIENT,
            ASKED,
            near_bytes=NEAR_BYTES,
            parsed_bytes=MAX_PARSED_BYTES,
            parsed_values=CLIENT_VALUES,
        )
    return read(message, SERVER, COUNTED)


def _same_by_any_mask(payload: bytes, sent: bool) -> None:
    found = [_read(_message(payload, key), sent) for key in MASKS]
    assert repr(found[0]) == repr(found[1]) == repr(_read(WholeText(payload), sent))


def _reading(payload: bytes, told: Pairs | None, sent: bool) -> None:
    known = CLIENT if sent else SERVER
    name, event, _ = _read(WholeText(payload), sent)
    assert name is None or name in known
    end = payload.rstrip(b" \t\n\r")
    if name is not None and name not in AUDIO and len(payload) - len(end) < BRACE_BYTES:
        assert end.endswith(b"}")
    if told is None or len(_types(told)) > 1:
        return
    (said,) = _types(told) or [None]
    if name is not None:
        assert name == said
    elif isinstance(said, str) and said in known:
        # Opaque, though it is of a known type: then it was one to be parsed, and could not be.
        assert _beyond_us(payload)
    if event is not None:
        assert event["type"] == said
        assert list(event) == list(dict(_known_text(told)))


def _known_text(told: Pairs) -> Pairs:
    """With names as they are read where they are no UTF-8."""
    return Pairs(
        (name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), value)
        if any("\udc80" <= letter <= "\udcff" for letter in name) else (name, value)
        for name, value in told
    )  # fmt: skip


def _beyond_us(payload: bytes) -> bool:
    """Whether the library that we parse with cannot hold it."""
    try:
        codec.loads_object(payload.decode("utf-8", "replace"))
    except ValueError:
        return True
    return False


def _value(told: Pairs | None, name: str, payload: bytes) -> bytes | None:
    """The string that is said once, plainly, and at the first level."""
    if told is None or b"\\" in payload or payload.count(b'"%b"' % name.encode()) != 1:
        return None
    value = dict(told).get(name)
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else None


def _audio_bytes(value: bytes | None) -> int | None:
    """The bytes that so much base64 stands for; None if it is none."""
    if value is None or not _BASE64.fullmatch(value):
        return None
    return len(value.rstrip(b"=")) * 3 // 4


def _usual(payload: bytes) -> None:
    """The compiled reader says what the other says, or nothing."""
    answer = read_usual(payload)
    assert answer is None or answer == python_read_usual(payload)


def _sizes(payload: bytes, told: Pairs | None) -> None:
    message, head = WholeText(payload), payload[:HEAD_BYTES]
    unit = response_id(message, head)
    assert unit is None or len(unit) > 0
    for name in ("audio", "delta"):
        field = AudioField(name.encode())
        size = field.bytes_in(message, head)
        assert size == field.bytes_in(message, head) >= 0
        exact = _audio_bytes(_value(told, name, payload))
        if exact is None or size == 0:
            continue
        assert size == exact or (size > exact and len(payload) > HEAD_BYTES)
    assert text_bytes(message, head) >= 0
    value = _value(told, "delta", payload)
    if value is not None and len(payload) <= HEAD_BYTES and text_bytes(message, head):
        assert text_bytes(message, head) == len(value)


def _skimmed(twin: str, payload: bytes, told: Pairs | None, sent: bool, key: bytes) -> None:
    new_skim, new_notes = TWINS[twin]
    notes = new_notes(lambda: AT)
    notes.on_message = lambda: None
    kinds, field = (CLIENT_KINDS, b"audio") if sent else (SERVER_KINDS, b"delta")
    skim = new_skim(kinds, field, notes, sent=sent)
    skim.unit = UNIT
    run = Scanner(masked=bool(key), max_message_bytes=1 << 20).feed(encode(1, payload, key))
    passed = skim.over(run.data, run.frames, 0)
    lines = notes.take()
    if not passed:
        assert lines == []
    elif told is not None and len(_types(told)) == 1:
        (said,) = _types(told)
        kind = kinds[said.encode()]
        assert lines == _expected(kind, payload, told, sent, lines)
        if lines and kind not in (TOLD, TOLD_SOON) and not sent:
            assert dict(told)["response_id"] == UNIT.decode()


def _expected(kind: int, payload: bytes, told: Pairs, sent: bool, lines: list[Line]) -> list[Line]:
    """What should have been noted; ``lines``, where a parse does not tell it exactly."""
    if kind in (TOLD, TOLD_SOON):
        return [(0, 0, 0, 0, 0, (sent, AT, payload))]
    value = _value(told, "audio" if sent else "delta", payload)
    if kind == AUDIO_BYTES:
        size = _audio_bytes(value)
        if size is None:
            return lines
        return [(size, 0, 0, 0, 0, None) if sent else (0, size, 0, 0, 0, None)]
    if kind >= FIRST_TEXT:
        if value is None:
            return lines
        return [(0, 0, 1, len(value), 1 << kind - FIRST_TEXT, None)]
    return []


def _seeds() -> Iterator[bytes]:
    plain = b'{"type":"%b","event_id":"e_1","response_id":"resp_1","delta":"%b"}'
    for name in (*TEXTS, *sorted(AUDIO - CLIENT)):
        yield b"\xff" + plain % (name.encode(), b"QUJD" * 3)
        yield b"\xff" + plain % (name.encode(), b"QUJD" * 160 + b"QQ==")
    append = b'{"type":"input_audio_buffer.append","audio":"%b"}'
    yield b"\x00" + append % b"AAA="
    yield b"\x00" + append % (b"A" * 700)
    yield b'\x00{"audio":"' + b"A" * 600 + b'","event_id":"x","type":"input_audio_buffer.append"}'
    yield b'\x00 { "n" : -1.5e+3 , "t":true,"z":null,"x":"\\u00e9", "type" : "response.create" }'
    yield b'\xff{"response":{"id":"resp_1","usage":null},"type":"response.done"}'
    yield b'\xff{"type":"response.created","response":{"id":"resp_1","n":[1,2,[3]]}}\r\n'
    yield b'\xff{"type":"response.output_item.done","type":"response.done","response":{}}'
    yield b'\xff{"type":"response.output_item.done","ty\\u0070e":"error"}'
    yield b'\xff{"type":"response.output_item.done","n":1'
    yield b"\xff" + b'{"type":"error","n":[' + b"[]," * 40 + b"0]}"
    for path in TRANSCRIPTS[:6]:
        for line in path.read_bytes().splitlines()[:40:4]:
            at = line.find(b'"frame":')
            if at > 0 and len(line) < 1_000:
                yield b"\xff" + line[at + 8 : -1].strip()


TARGET = Target(
    check,
    _seeds,
    max_bytes=1_200,
    words=(b'"type":', b'"delta":"', b'"audio":"', b'"response_id":"resp_1"', b'"ty\\u0070e":',
           b'"}', b"\\u", b"\\\\", b'\\"', b"[]", b"{}", b"-1.5e+3", b"true", b"null", b"==",
           *(b'"%b"' % name.encode() for name in sorted(CLIENT | COUNTED | AUDIO | TEXT_DELTAS))),
    compiled=True,
)  # fmt: skip
