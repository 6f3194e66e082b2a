"""Skim: what is skimmed counts as if it had been looked at."""

import gc
import json
import random
import sys
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
from fuzz import messages_of, sessions_of
from fuzz.skims_of import TWINS, skimming_with
from hypothesis import given, settings
from hypothesis import strategies as st
from meter_fakes import TRANSCRIPTS, Clock, new_meter

from relay_app.meter import skim
from relay_app.meter.kinds import CLIENT_KINDS, PLAIN, SERVER_KINDS, TOLD
from relay_app.meter.meter import Meter
from relay_app.meter.names import AUDIO, CLIENT, SERVER, TEXT_DELTAS
from relay_app.meter.notes import PythonNotes
from relay_app.meter.skim import PythonSkim
from relay_app.meter.usage import UsageRecord
from relay_app.wire.frames import encode
from relay_app.wire.messages import Assembler
from relay_app.wire.scanner import Scanner

RESPONSE = "resp_001"
KEY = b"\x00\x7f\x80\xff"
each_twin = pytest.mark.parametrize("twin", TWINS)


def test_the_compiled_one_is_in_use_where_it_is_built() -> None:
    built = pytest.importorskip("relay_app.meter._skim", reason="the compiled parts are not built")
    assert skim.Skim is built.Skim


def through(
    meter: Meter,
    direction: str,
    payloads: Sequence[bytes],
    *,
    skims: bool,
    records: list[UsageRecord] | None = None,
) -> int:
    """Puts messages through ``meter`` as a pump does: how many of them were looked at. What it
    answers is added to ``records``."""
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
        answer = look(message)
        if records is not None and not up:
            records += answer or ()
        at += 1
        looked += 1
    return looked


def counts(meter: Meter) -> tuple[Any, ...]:
    kept = [record.as_dict() for record in meter.checkpoint()]
    return meter.opaque_sent, meter.opaque_received, meter.running(), meter.usage, kept


def both(*steps: tuple[str, Sequence[bytes]], looks: int = 1) -> dict[str, int]:
    """Plays to a meter that looks at everything, to one that skims, and to one that notes down as
    well and is asked for something after every ``looks`` steps: how many messages the second one
    has looked at, by each twin."""
    return {twin: _both(twin, steps, looks) for twin in TWINS}


def _both(twin: str, steps: Sequence[tuple[str, Sequence[bytes]]], looks: int) -> int:
    clock = Clock()
    with skimming_with(twin):
        looking, skimming, noting = (new_meter(clock=clock) for _ in range(3))
    noting.note_down(lambda: None)
    looked = 0
    records: list[list[UsageRecord]] = [[], [], []]
    for number, (direction, payloads) in enumerate(steps):
        clock.now += 1.0
        through(looking, direction, payloads, skims=False, records=records[0])
        looked += through(skimming, direction, payloads, skims=True, records=records[1])
        through(noting, direction, payloads, skims=True, records=records[2])
        expected = counts(looking)
        assert counts(skimming) == expected
        if number % looks == 0:
            assert counts(noting) == expected
    for meter, answered in zip((looking, skimming, noting), records, strict=True):
        answered += meter.close()
    assert records[0] == records[1] == records[2]
    assert counts(looking) == counts(skimming) == counts(noting)
    return looked


def said(kind: str, **fields: Any) -> bytes:
    return json.dumps({"type": kind, **fields}, separators=(",", ":")).encode()


CREATED = said("response.created", response={"id": RESPONSE})


@each_twin
def test_each_direction_looks_its_types_up_among_its_own(twin: str) -> None:
    new_skim, new_notes = TWINS[twin]
    kinds = [{b"error": PLAIN}, {b"error": TOLD}, {b"ping": 0}]
    notes = [new_notes(lambda: 0.0) for _ in kinds]
    for each in notes:
        each.on_message = lambda: None
    skims = [new_skim(k, b"delta", n, sent=True) for k, n in zip(kinds, notes, strict=True)]
    scanner = Scanner(masked=False, max_message_bytes=1 << 20)
    run = scanner.feed(encode(1, said("error"), b""))
    for _ in range(3):
        assert [each.over(run.data, run.frames, 0) for each in skims] == [1, 1, 0]
    assert [len(each.take()) for each in notes] == [0, 3, 0]


@pytest.mark.skipif("compiled" not in TWINS, reason="the compiled parts are not built")
@pytest.mark.parametrize("length", [*range(1, 12), *range(50, 62)])
def test_types_may_be_as_long_as_they_like(length: int) -> None:
    new_skim, new_notes = TWINS["compiled"]
    names = [letter * length for letter in "abc"]
    over = new_skim({names[0].encode(): PLAIN}, b"delta", new_notes(lambda: 0.0), sent=True).over
    scanner = Scanner(masked=False, max_message_bytes=1 << 20)
    for name in names * 2:
        run = scanner.feed(encode(1, said(name), b""))
        assert over(run.data, run.frames, 0) == (name == names[0])


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")], ids=["compact", "spaced"])
def test_recorded_sessions_come_to_the_same(path: Any, separators: tuple[str, str]) -> None:
    steps = []
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry.get("frame"):
            payload = json.dumps(entry["frame"], separators=separators).encode()
            steps.append((entry["dir"], [payload]))
    if not all(looked < len(steps) for looked in both(*steps).values()):
        assert separators != (",", ":")  # the twin in Python only sees what is compact


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
    assert set(both(("c2s", appended)).values()) == {0}
    looked = both(("s2c", reply))
    assert looked.pop("python") == 2  # created and done
    assert set(looked.values()) <= {2 + 2}  # and audio of less than two letters


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


@settings(max_examples=500)
@given(payloads(), st.booleans())
def test_any_event_is_what_a_full_parse_makes_of_it(payload: bytes, sent: bool) -> None:
    messages_of.check((b"\x00" if sent else b"\xff") + payload)


def one_of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


responses, items = one_of("resp_1", "resp_2", "resp_3"), one_of("item_1", "item_2", None)
ended_as = one_of("completed", "failed")
AUDIO_DELTAS = "A" * 400, "A" * 900
usages = one_of(None, {"total_tokens": 9, "input_tokens": 5, "output_tokens": 4})


def told(way: str, kind: str, **fields: Any) -> st.SearchStrategy[tuple[str, bytes]]:
    given_fields = {name: v if isinstance(v, st.SearchStrategy) else st.just(v)
                    for name, v in fields.items()}  # fmt: skip
    return st.fixed_dictionaries(given_fields).map(lambda values: (way, said(kind, **values)))


def response(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"id": responses, **fields})


item = st.fixed_dictionaries(
    {
        "id": items,
        "type": st.just("message"),
        "role": one_of("user", "assistant"),
        "status": one_of("completed", "in_progress"),
        "content": one_of(
            [], [{"type": "input_text", "text": "Hello there."}], [{"type": "input_audio"}]
        ),
    }
)
conversation = st.one_of(
    told("c2s", "input_audio_buffer.append", audio=one_of("A" * 400, "A" * 6_400)),
    told("c2s", "response.create", response=one_of({}, {"instructions": "Short!"}, {"input": []})),
    told("c2s", "conversation.item.create", item=item),
    told("s2c", "input_audio_buffer.speech_started", item_id=items, audio_start_ms=one_of(0, 50)),
    told("s2c", "input_audio_buffer.speech_stopped", item_id=items, audio_end_ms=one_of(90, 200)),
    told("s2c", "input_audio_buffer.committed", item_id=items),
    told("s2c", "input_audio_buffer.cleared"),
    told("s2c", "conversation.item.added", item=item),
    told("s2c", "conversation.item.deleted", item_id=items),
    told("s2c", "conversation.item.truncated", item_id=items, audio_end_ms=one_of(10, 100)),
    told("s2c", "response.created", response=response()),
    told("s2c", "response.output_text.delta", response_id=responses, delta="Hello"),
    told("s2c", "response.output_audio.delta", response_id=responses, delta=one_of(*AUDIO_DELTAS)),
    told("s2c", "response.output_audio.delta", delta="A" * 400),
    told("s2c", "response.done", response=response(status=ended_as, usage=usages)),
)  # fmt: skip


@settings(max_examples=500)
@given(st.lists(conversation, max_size=60), st.integers(1, 20))
def test_what_is_noted_down_and_looked_at_later_comes_to_the_same(
    events: list[tuple[str, bytes]], looks: int
) -> None:
    both(*((way, [payload]) for way, payload in events), looks=looks)


@settings(max_examples=300)
@given(st.lists(conversation | st.sampled_from("0459?!#$%&"), max_size=50))
def test_each_unit_of_any_conversation_is_recorded_once_whoever_looks(
    lines: list[tuple[str, bytes] | str],
) -> None:
    sessions_of.check(
        b"\n".join(
            line.encode()
            if isinstance(line, str)
            else {"c2s": b">", "s2c": b"<"}[line[0]] + line[1]
            for line in lines
        )
    )


TURN = [
    ("c2s", said("response.create")),
    ("s2c", CREATED),
    ("s2c", said("conversation.item.added", item={"id": "item_1", "status": "in_progress"})),
    ("s2c", said("response.output_audio.delta", response_id=RESPONSE, delta="A" * 900)),
]


def meter_with(twin: str, **changes: Any) -> Meter:
    with skimming_with(twin):
        return new_meter(**changes)


@each_twin
def test_of_a_turn_that_is_noted_down_only_the_end_is_looked_at(twin: str) -> None:
    clock, calls = Clock(100.0), []
    meter = meter_with(twin, clock=clock)
    meter.note_down(lambda: calls.append("told"))
    for way, payload in TURN:
        clock.now += 1.0
        assert through(meter, way, [payload], skims=True) == 0
    assert calls == ["told"]
    end = said("response.done", response={"id": RESPONSE, "status": "completed"})
    records: list[UsageRecord] = []
    assert through(meter, "s2c", [end], skims=True, records=records) == 1
    (record,) = records
    assert (record.started_at, record.ended_at) == (102.0, 104.0)
    assert record.usage.output_audio_tokens > 0


@pytest.mark.parametrize("ask", ["responses_open", "units_open", "checkpoint", "running", "close"])
@each_twin
def test_whatever_a_meter_is_asked_it_has_looked_at_its_notes(ask: str, twin: str) -> None:
    meter = meter_with(twin)
    meter.note_down(lambda: None)
    for way, payload in TURN:
        through(meter, way, [payload], skims=True)
    found = getattr(meter, ask)
    assert found() if callable(found) else found
    assert not meter._notes.pending


@each_twin
def test_it_says_so_each_time_that_a_response_has_begun_and_of_nothing_else(twin: str) -> None:
    calls: list[str] = []
    meter = meter_with(twin)
    meter.note_down(lambda: calls.append("told"))
    appended = said("input_audio_buffer.append", audio="A" * 40)
    item = said("conversation.item.added", item={"id": "item_1", "status": "in_progress"})
    through(meter, "c2s", [appended, said("response.create")], skims=True)
    through(meter, "s2c", [item], skims=True)
    assert calls == []
    through(meter, "s2c", [CREATED, item], skims=True)
    assert calls == ["told"]
    assert meter.responses_open == 1
    through(meter, "s2c", [item], skims=True)
    through(meter, "s2c", [said("response.created", response={"id": "resp_2"})], skims=True)
    assert calls == ["told"] * 2


@each_twin
def test_sixteen_messages_are_noted_and_only_small_ones(twin: str) -> None:
    meter = meter_with(twin)
    meter.note_down(lambda: None)
    created = [said("response.created", response={"id": f"resp_{n}"}) for n in range(17)]
    assert through(meter, "s2c", created[:16], skims=True) == 0
    assert through(meter, "s2c", created[16:], skims=True) == 1
    assert meter.responses_open == 17
    large = said("response.create", response={"instructions": "x" * 2_048})
    assert through(meter, "c2s", [large], skims=True) == 1


@each_twin
def test_too_many_responses_that_were_noted_down_are_dropped_like_others(twin: str) -> None:
    meter = meter_with(twin)
    meter.note_down(lambda: None)
    records: list[UsageRecord] = []
    for n in range(1026):
        created = said("response.created", response={"id": f"resp_{n}"})
        through(meter, "s2c", [created], skims=True, records=records)
    assert meter.responses_open == 1024
    through(meter, "s2c", [said("error")], skims=False, records=records)
    assert [record.unit_id for record in records] == ["resp_0", "resp_1"]


@each_twin
def test_who_cannot_be_told_costs_no_message(monkeypatch: pytest.MonkeyPatch, twin: str) -> None:
    def fail() -> None:
        raise RuntimeError("told")

    errors: list[BaseException | None] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda failed: errors.append(failed.exc_value))
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: errors.append(error))
    meter = meter_with(twin)
    meter.note_down(fail)
    assert through(meter, "s2c", [CREATED], skims=True) == 0
    assert [str(error) for error in errors] == ["told"]
    assert meter.responses_open == 1


def test_a_clock_that_fails_costs_no_message_and_none_is_counted_twice() -> None:
    def fail() -> float:
        raise RuntimeError("no time")

    notes = PythonNotes(fail)
    notes.on_message = lambda: None
    over = PythonSkim(SERVER_KINDS, b"delta", notes, sent=False)
    over.unit = RESPONSE.encode()
    text = said("response.output_text.delta", response_id=RESPONSE, delta="Hello")
    run = Scanner(masked=False, max_message_bytes=1_000).feed(
        b"".join(encode(1, payload) for payload in (text, CREATED, text))
    )
    assert over.over(run.data, run.frames, 0) == 1
    assert [line[2:4] for line in notes.take()] == [(1, 5)]
    assert not notes.pending


@each_twin
def test_notes_that_lead_back_to_themselves_are_collected(twin: str) -> None:
    class Owner:
        def __init__(self) -> None:
            self.meter = meter_with(twin)
            self.meter.note_down(self.told)

        def told(self) -> None: ...

    owner = weakref.ref(Owner())
    gc.collect()
    assert owner() is None


@each_twin
def test_fragments_and_binary_messages_are_left_to_be_looked_at(twin: str) -> None:
    whole = said("input_audio_buffer.append", audio="A" * 40)
    for first in (0x01, 0x02, 0x82):
        frame = bytearray(encode(1, whole))
        frame[0] = first
        run = Scanner(masked=False, max_message_bytes=1_000).feed(bytes(frame))
        assert meter_with(twin).skim_sent(run.data, run.frames, 0) == 0


def test_frames_that_are_python_objects_are_left_by_the_compiled_one() -> None:
    whole = said("input_audio_buffer.append", audio="A" * 40)
    run = Scanner(masked=False, max_message_bytes=1_000).feed(encode(1, whole))
    for twin, passed in (("python", 1), ("compiled", 0)):
        if twin in TWINS:
            meter = meter_with(twin)
            assert meter.skim_sent(run.data, [*run.frames], 0) == passed
            assert meter.skim_sent(run.data, run.frames, 0) == 1


@pytest.mark.parametrize("sent", [True, False])
def test_what_is_written_alike_counts_by_its_own_length(sent: bool) -> None:
    """The twin in Python remembers how the message before was written."""
    kinds, field = (CLIENT_KINDS, "audio") if sent else (SERVER_KINDS, "delta")
    kind = "input_audio_buffer.append" if sent else "response.output_audio.delta"
    notes = PythonNotes(Clock())
    over = PythonSkim(kinds, field.encode(), notes, sent=sent)
    over.unit = RESPONSE.encode()
    sizes = [8, 8, 12, 900, 900, 904, 900, 8, 1_200, 1_200]
    messages = [
        said(kind, event_id=f"e{number % 3}", response_id=RESPONSE, **{field: "A" * size})
        for number, size in enumerate(sizes)
    ]
    for key in (b"", KEY):
        run = Scanner(masked=bool(key), max_message_bytes=1 << 20).feed(
            b"".join(encode(1, message, key) for message in messages)
        )
        assert over.over(run.data, run.frames, 0) == len(messages)
        (line,) = notes.take()
        assert line[not sent] == sum(sizes) * 3 // 4


def test_an_escape_in_the_id_of_an_event_is_left_to_be_looked_at() -> None:
    over = PythonSkim(SERVER_KINDS, b"delta", PythonNotes(Clock()), sent=False)
    over.unit = RESPONSE.encode()
    plain = b'{"type":"response.output_text.delta","event_id":"%b","response_id":"resp_001",%b}'
    for event_id, passed in ((b"ab", 1), (b"cd", 1), (b"\\u", 0), (b'",', 0), (b"ef", 1)):
        run = Scanner(masked=False, max_message_bytes=1_000).feed(
            encode(1, plain % (event_id, b'"delta":"x"'))
        )
        assert over.over(run.data, run.frames, 0) == passed


def test_a_unit_is_bytes_and_no_longer_than_an_id() -> None:
    built = pytest.importorskip("relay_app.meter._skim", reason="the compiled parts are not built")
    seen = built.Skim({}, b"delta", built.Notes(Clock()), sent=False)
    seen.unit = b"resp_1"
    assert seen.unit == b"resp_1"
    seen.unit = b"x" * 257
    assert seen.unit is None
    with pytest.raises(TypeError):
        seen.unit = "resp_1"  # type: ignore[assignment]
