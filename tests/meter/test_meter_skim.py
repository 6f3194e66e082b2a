"""Skim: what is skimmed counts as if it had been looked at."""

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meter_fakes import TRANSCRIPTS, new_meter

from relay_app.meter import skim
from relay_app.meter.meter import Meter
from relay_app.meter.names import AUDIO, CLIENT, SERVER, TEXT_DELTAS
from relay_app.wire.frames import encode
from relay_app.wire.messages import Assembler
from relay_app.wire.scanner import Scanner

_skim = pytest.importorskip("relay_app.meter._skim", reason="the compiled parts are not built")

RESPONSE = "resp_001"
KEY = b"\x00\x7f\x80\xff"


def test_the_compiled_one_is_built_and_in_use() -> None:
    assert skim.Skim is _skim.Skim


def through(meter: Meter, direction: str, payloads: Sequence[bytes], *, skims: bool) -> int:
    """Puts messages through ``meter`` as a pump does: how many of them were looked at."""
    up = direction == "c2s"
    key = KEY if up else b""
    run = Scanner(masked=up, max_message_bytes=1 << 24).feed(
        b"".join(encode(1, payload, key) for payload in payloads)
    )
    over, look = (meter.skim_sent, meter.sent) if up else (meter.skim_received, meter.received)
    assembler = Assembler(1 << 24)
    looked = at = 0
    while at < len(run.frames):
        if skims:
            at = over(run.data, run.frames, at)
            if at == len(run.frames):
                break
        message = assembler.add(run.data, run.frames[at])
        assert message is not None
        look(message)
        at += 1
        looked += 1
    return looked


def counts(meter: Meter) -> tuple[Any, ...]:
    kept = [record.as_dict() | {"started_at": 0, "ended_at": 0} for record in meter.checkpoint()]
    return meter.opaque_sent, meter.opaque_received, meter.running(), meter.usage, kept


def both(*steps: tuple[str, Sequence[bytes]]) -> int:
    """Plays to a meter that skims and to one that does not: how many messages were looked at."""
    skimming, looking = new_meter(), new_meter()
    looked = 0
    for direction, payloads in steps:
        looked += through(skimming, direction, payloads, skims=True)
        through(looking, direction, payloads, skims=False)
        assert counts(skimming) == counts(looking)
    ends = [
        [record.as_dict() | {"started_at": 0, "ended_at": 0} for record in meter.close()]
        for meter in (skimming, looking)
    ]
    assert ends[0] == ends[1]
    return looked


def said(kind: str, **fields: Any) -> bytes:
    return json.dumps({"type": kind, **fields}, separators=(",", ":")).encode()


CREATED = said("response.created", response={"id": RESPONSE})


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")], ids=["compact", "spaced"])
def test_recorded_sessions_come_to_the_same(path: Any, separators: tuple[str, str]) -> None:
    steps = []
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry.get("frame"):
            payload = json.dumps(entry["frame"], separators=separators).encode()
            steps.append((entry["dir"], [payload]))
    assert both(*steps) < len(steps)


def test_of_a_spoken_reply_only_what_tells_something_is_looked_at() -> None:
    audio, text = "response.output_audio.delta", "response.output_audio_transcript.delta"
    where = {"event_id": "event_1", "response_id": RESPONSE, "item_id": "i", "output_index": 0}
    reply = [
        CREATED,
        said("response.output_item.added", response_id=RESPONSE, item={"type": "message"}),
        said(text, **where, delta=' a "word"\n', obfuscation="xyz"),
        *[said(audio, **where, delta="A" * size) for size in (0, 1, 4, 400, 600, 16_000)],
        said("response.output_audio.done", **where),
        said("response.done", response={"id": RESPONSE, "status": "completed"}),
    ]
    appended = [said("input_audio_buffer.append", audio="A" * n + "==") for n in (2, 90, 700)]
    assert both(("c2s", appended)) == 0
    assert both(("s2c", reply)) == 2 + 2  # created, done, and audio of less than two letters


def test_deltas_of_responses_that_take_turns_are_kept_apart() -> None:
    text = "response.output_text.delta"
    others = [said("response.created", response={"id": f"resp_{n}"}) for n in range(3)]
    turns = [said(text, response_id=f"resp_{n % 3}", delta="x" * n) for n in range(20)]
    unknown = [said(text, response_id="resp_9", delta="never begun"), said(text, delta="no id")]
    both(("s2c", others + turns + unknown))


ODD = [
    b'{"type":"response.output_text.delta","response_id":"resp_001","delta":"x"',
    b'{"type":"response.output_text.delta","response_id":"resp_001","delta":"x"}  \n',
    b'{"type":"response.output_text.delta","response_id":"resp_001","delta":"x"}' + b" " * 20,
    b' {"type" : "response.output_text.delta" , "response_id":"resp_001","delta" : "x"}',
    b'{"response_id":"resp_001","delta":"x","type":"response.output_text.delta"}',
    b'{"type":"response.output_text.delta","response_id":"resp_001","delta":"\\u00e9 \\" x"}',
    b'{"type":"response.output_text.delta","response_id":"resp\\u005f001","delta":"x"}',
    b'{"type":"response.output_text.delta","delta":"x","response_id":"resp_001"}',
    b'{"type":"response.output_text.delta","delta":1,"response_id":"resp_001"}',
    b'{"type":"response.output_text.delta","response_id":"resp_001","delta":"a","delta":"bc"}',
    b'{"type":"response.output_text.delta","type":"error","response_id":"resp_001","delta":"x"}',
    b'{"type":"response.output_text.delta","ty\\u0070e":"error","response_id":"resp_001"}',
    b'{"n":[1],"type":"response.output_text.delta","response_id":"resp_001","delta":"x"}',
    b'{"type":"response.output_text.delta","n":[1],"response_id":"resp_001","delta":"x"}',
    b'{"n":-1.5e+3,"t":true,"f":false,"z":null,"type":"response.output_item.done"}',
    b'{"n":01,"type":"response.output_item.done"}',
    b'{"n":tru,"type":"response.output_item.done"}',
    b'{"n":1.,"type":"response.output_item.done"}',
    b'{"n":1e,"type":"response.output_item.done"}',
    b'{"type":"response.output_item.done","n":nope}',
    b'{"type":"response.output_item.done"} trailing }',
    b'{"type":"response.output_item.done";}',
    b'["type","response.output_item.done"]',
    b'{"type":["response.output_item.done"]}',
    b'{"type":"unheard.of"}',
    b'{"type":"\xff\xfe"}',
    b"{}",
    b"",
    b"{",
    b'{"',
    b'{"type"',
    b'{"type":',
    b'{"type":"resp',
    b'{"a":"' + b"x" * 600 + b'","type":"response.output_item.done"}',
    b'{"type":"response.output_audio.delta","response_id":"resp_001","delta":"AAAA","z":"'
    + b"x" * 600
    + b'"}',
    b'{"type":"response.output_audio.delta","response_id":"resp_001","delta":"'
    + b"A" * 600
    + b'","z":"1"}',
    b'{"type":"response.output_audio.delta","response_id":"resp_001","delta":"'
    + b"A" * 600
    + b'","z":"'
    + b"B" * 300
    + b'"}',
    b'{"type":"response.output_audio.delta","response_id":"resp_001","delta":"' + b"A" * 600,
    b'{"type":"response.output_audio.delta","response_id":"resp_001","delta":"' + b"A" * 400,
    b'{"delta":"'
    + b"A" * 900
    + b'","response_id":"resp_001","type":"response.output_audio.delta"}',
    b'{"type":"response.output_audio.delta","delta":"'
    + b"A" * 900
    + b'","response_id":"resp_001"}',
]


@pytest.mark.parametrize("payload", ODD, ids=range(len(ODD)))
def test_whatever_is_odd_counts_the_same(payload: bytes) -> None:
    both(("s2c", [CREATED, payload, payload]))
    up = payload.replace(b"response.output_audio.delta", b"input_audio_buffer.append")
    up = up.replace(b"response.output_item.done", b"input_audio_buffer.commit")
    both(("c2s", [up.replace(b'"delta"', b'"audio"')] * 2))


@pytest.mark.parametrize("size", [*range(380, 700, 3), 5_000])
def test_audio_of_any_length_counts_the_same(size: int) -> None:
    for field, padding in ((b"audio", b""), (b"audio", b"="), (b"audio", b"==")):
        append = b'{"type":"input_audio_buffer.append","%b":"%b%b"}'
        both(("c2s", [append % (field, b"A" * size, padding)]))
        near = b'{"type":"input_audio_buffer.append","pad":"%b","%b":"%b%b"}'
        both(("c2s", [near % (b"x" * (size % 110), field, b"A" * size, padding)]))


names = st.sampled_from([*sorted(CLIENT | SERVER | AUDIO | TEXT_DELTAS), "new.type", "type", ""])
ids = st.sampled_from([RESPONSE, "resp_002", "", None, 3])
texts = st.one_of(
    st.text(max_size=20),
    st.text("ABCDabcd0189+/=", max_size=1_200),
    st.sampled_from(["AAAA" * 150, 'say "hi"\\', "\u2028\u00e9", '"type":"error"']),
)
values = st.one_of(texts, ids, st.integers(), st.floats(), st.booleans(), st.none(),
                   st.lists(st.none(), max_size=2), st.just({"type": "nested"}))  # fmt: skip
pairs = st.lists(
    st.tuples(
        st.sampled_from(
            ["type", "delta", "audio", "response_id", "event_id", "x", 'a"b', "\u00e9"]
        ),
        values,
    ),
    max_size=6,
)


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """Events as strange as a peer may write them, most of them nearly right."""
    fields = [("type", draw(names)), ("response_id", draw(ids)), ("delta", draw(texts)),
              ("audio", draw(texts)), *draw(pairs)]  # fmt: skip
    source = random.Random(draw(st.integers(0)))
    if draw(st.booleans()):
        source.shuffle(fields)
    kept = [field for field in fields if source.random() < 0.8]
    space = draw(st.sampled_from(["", " ", "\n\t"]))
    ascii_only = draw(st.booleans())
    written = f"{space},{space}".join(
        f"{json.dumps(name, ensure_ascii=ascii_only)}{space}:{space}"
        f"{json.dumps(value, ensure_ascii=ascii_only)}"
        for name, value in kept
    )
    payload = bytearray(f"{space}{{{space}{written}{space}}}{space}".encode("utf-8", "replace"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        payload[source.randrange(len(payload))] = source.choice(b'"\\,:{}[]x\x00\xff ')
    cut = draw(st.sampled_from([None, None, None, source.randrange(len(payload) + 1)]))
    return bytes(payload[:cut])


@settings(max_examples=500)
@given(st.lists(st.tuples(st.sampled_from(["c2s", "s2c"]), payloads()), max_size=8))
def test_any_events_come_to_the_same(events: list[tuple[str, bytes]]) -> None:
    other = said("response.created", response={"id": "resp_002"})
    both(("s2c", [CREATED, other]), *((way, [payload, payload]) for way, payload in events))


def test_fragments_and_binary_messages_are_left_to_be_looked_at() -> None:
    whole = said("input_audio_buffer.append", audio="A" * 40)
    for first in (0x01, 0x02, 0x82):
        frame = bytearray(encode(1, whole))
        frame[0] = first
        run = Scanner(masked=False, max_message_bytes=1_000).feed(bytes(frame))
        assert new_meter().skim_sent(run.data, run.frames, 0) == 0


def test_frames_that_are_python_objects_are_left_to_be_looked_at() -> None:
    whole = said("input_audio_buffer.append", audio="A" * 40)
    run = Scanner(masked=False, max_message_bytes=1_000).feed(encode(1, whole))
    meter = new_meter()
    assert meter.skim_sent(run.data, [*run.frames], 0) == 0
    assert meter.skim_sent(run.data, run.frames, 0) == 1


def test_the_twin_in_python_sees_nothing() -> None:
    twin = skim.PythonSkim({}, b"audio")
    run = Scanner(masked=False, max_message_bytes=1_000).feed(encode(1, b"{}"))
    assert twin.over(run.data, run.frames, 0) == 0
    assert twin.take() == (0, 0, 0, 0)
    assert not twin.seen


def test_a_unit_is_bytes_and_no_longer_than_an_id() -> None:
    seen = _skim.Skim({}, b"delta", of_units=True)
    seen.unit = b"resp_1"
    assert seen.unit == b"resp_1"
    seen.unit = b"x" * 257
    assert seen.unit is None
    with pytest.raises(TypeError):
        seen.unit = "resp_1"  # type: ignore[assignment]
