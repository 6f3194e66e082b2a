"""A session's events in any order: what its meter records, whoever looks at what, and when.

An input is a line an event. ``<`` is from the server, ``>`` from the client; ``(`` and ``)`` are
the same in two fragments; a digit lets time pass; anything else asks the meter something.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fuzz.parsed import Pairs, fields, is_odd
from fuzz.skims_of import TWINS, skimming_with
from fuzz.target import TRANSCRIPTS, Target
from relay_app.ledger.entries import decode, encode, scan
from relay_app.meter.meter import Meter
from relay_app.meter.units import UNNAMED
from relay_app.meter.untrusted import identifier
from relay_app.meter.usage import Usage, UsageRecord
from relay_app.wire.frames import encode as frame_of
from relay_app.wire.messages import Assembler
from relay_app.wire.scanner import Scanner

__all__ = ["TARGET", "check"]

KEY = b"\x00\x7f\x80\xff"
MOST_LINES = 60
MAX_BYTES = 2_500
BEGUN, ENDED = "response.created", "response.done"
SENDS = b"><)("


class _Player:
    """A meter that gets its messages as a pump gives them to it."""

    def __init__(self, clock: Callable[[], float], *, skims: bool, notes: bool) -> None:
        self.meter = Meter(
            "session-1",
            key="alice",
            upstream="openai",
            model="voice",
            upstream_model="gpt-realtime",
            clock=clock,
            timer=clock,
        )
        self.records: list[UsageRecord] = []
        self._skims = skims
        self._told = False
        if notes:
            self.meter.note_down(self._tell)

    def _tell(self) -> None:
        self._told = True

    def keep_up(self) -> None:
        """Asks something, if a response has begun: a session does so within 0.2 s."""
        if self._told:
            self._told = False
            _ = self.meter.responses_open

    def says(self, sent: bool, payload: bytes, parts: int) -> None:
        meter = self.meter
        key = KEY if sent else b""
        frames = frame_of(1, payload, key)
        if parts > 1:
            first = bytearray(frame_of(1, payload[: len(payload) // 2], key))
            first[0] &= 0x7F
            frames = bytes(first) + frame_of(0, payload[len(payload) // 2 :], key)
        run = Scanner(masked=sent, max_message_bytes=1 << 20).feed(frames)
        assert run.fault is None
        over = meter.skim_sent if sent else meter.skim_received
        begin = over(run.data, run.frames, 0) if self._skims else 0
        assembler = Assembler(1 << 20)
        for frame in run.frames[begin:]:
            message = assembler.add(run.data, frame)
            if message is None:
                continue
            if sent:
                meter.sent(message)
            else:
                self.records += meter.received(message)

    def asked(self, first: int = 0) -> list[Any]:
        """All that a meter can be asked, from the question ``first`` on: that one has to see to it
        that what was noted is looked at."""
        meter = self.meter
        questions: list[Callable[[], Any]] = [
            meter.running,
            meter.responses,
            meter.asked_input,
            meter.checkpoint,
            lambda: meter.responses_open,
            lambda: meter.units_open,
            lambda: meter.expecting,
        ]
        first %= len(questions)
        answers = [ask() for ask in questions[first:] + questions[:first]]
        _storable(meter.checkpoint())
        return [*answers, meter.opaque_sent, meter.opaque_received, meter.usage, meter.records,
                meter.upstream_model, meter.inexact]  # fmt: skip


def check(data: bytes) -> None:
    """Each unit is recorded once, in a way that can be stored, and the same whoever looked."""
    now = 1_700_000_000.0
    looking = _Player(lambda: now, skims=False, notes=False)
    others = []
    for twin in TWINS:
        with skimming_with(twin):
            others += [_Player(lambda: now, skims=True, notes=notes) for notes in (False, True)]
    players = [looking, *others]
    said = []
    for line in data.split(b"\n", MOST_LINES)[:MOST_LINES]:
        first, payload = line[:1], line[1:]
        if first and first in SENDS:
            sent, parts = first in b">)", 2 if first in b"()" else 1
            for player in players:
                player.says(sent, payload, parts)
            if not sent:
                said.append(fields(payload))
        elif first.isdigit():
            now += 0.1  # before that is over, nobody has to
            for player in players:
                player.keep_up()
            now += 10.0 ** (int(first) - 4)
        else:
            _agree(players, sum(first))
    _agree(players)
    for player in players:
        player.records += player.meter.close()
    assert all(player.records == looking.records for player in others)
    _laws(looking, said)


def _agree(players: list[_Player], first: int = 0) -> None:
    expected, *others = (player.asked(first) for player in players)
    assert all(other == expected for other in others)


def _storable(records: Sequence[UsageRecord]) -> None:
    for record in records:
        (payload,) = scan(encode(record), final=True).payloads
        assert decode(payload) == record
        assert all(number >= 0 for number in record.usage.by_kind().values())


def _laws(player: _Player, said: list[Pairs | None]) -> None:
    _storable(player.records)
    best = {record.id: record for record in player.records}
    units = [record.unit_id for record in best.values()]
    assert len(units) == len(set(units)) == player.meter.records
    assert player.meter.close() == []
    assert sum((record.usage for record in best.values()), Usage()) == player.meter.usage
    before: dict[str, Any] = {}
    for record in player.records:
        told = record.usage, record.source, record.status
        assert before.get(record.id) != told, "said again"
        before[record.id] = told
        assert record.rank <= best[record.id].rank
        assert record.started_at <= record.ended_at or record.kind == "transcription"
    named = {unit for unit in units if not unit.startswith(UNNAMED)}
    assert len(units) - len(named) <= sum(map(_may_be_unnamed, said))
    _heard_of(named, said)


def _heard_of(named: set[str], said: list[Pairs | None]) -> None:
    """Who was told of a response by an event that cannot be misread has a record of it; and what
    has a record was named by somebody."""
    texts: set[str | None] = set()
    for event in said:
        if event is None:
            continue
        texts |= {identifier(text) for text in _texts(event)}
        plain = dict(event)
        response = plain.get("response")
        once = len(plain) == len(event) and isinstance(response, Pairs)
        if not once or plain.get("type") not in (BEGUN, ENDED):
            continue
        ids = [identifier(value) for name, value in response if name == "id"]
        if len(ids) == 1 and ids[0] is not None and not is_odd(event):
            assert ids[0] in named or ids[0].startswith(UNNAMED)
    if all(event is not None and not is_odd(event) for event in said):
        assert named <= texts


def _may_be_unnamed(event: Pairs | None) -> bool:
    if event is None or is_odd(event) or len(dict(event)) < len(event):
        return True
    plain = dict(event)
    response = plain.get("response")
    ids = [value for name, value in response if name == "id"] if isinstance(response, Pairs) else []
    ids += [plain.get("response_id"), plain.get("item_id")]
    return not any(ids) or not all(isinstance(value, str | None) for value in ids)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Pairs):
        for _, inner in value:
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _seeds() -> Iterator[bytes]:
    for path in TRANSCRIPTS:
        lines: list[bytes] = []
        for line in path.read_bytes().splitlines():
            at, way = line.find(b'"frame":'), line[:13]
            if at > 0 and len(line) < 700 and len(b"\n".join(lines)) + len(line) < MAX_BYTES:
                lines.append((b">" if b"c2s" in way else b"<") + line[at + 8 : -1].strip())
        yield b"\n".join(lines)
    created = b'<{"type":"response.created","response":{"id":"resp_%d"}}'
    done = b'<{"type":"response.done","response":{"id":"resp_%d","status":"%b","usage":%b}}'
    usage = (b'{"total_tokens":9,"input_tokens":5,"output_tokens":4,"input_token_details":'
             b'{"text_tokens":2,"audio_tokens":3,"cached_tokens":1},"output_token_details":'
             b'{"text_tokens":1,"audio_tokens":3}}')  # fmt: skip
    spoken = b'<{"type":"response.output_audio.delta","response_id":"resp_1","delta":"%b"}' % (
        b"A" * 90
    )
    text = b'<{"type":"response.output_text.delta","response_id":"resp_2","delta":"Hello"}'
    append = b'>{"type":"input_audio_buffer.append","audio":"%b"}' % (b"A" * 300)
    commit = b'<{"type":"input_audio_buffer.committed","item_id":"item_1"}'
    session = (b'<{"type":"session.created","session":{"model":"gpt-realtime-2","audio":{"input":'
               b'{"transcription":{"model":"whisper-1"}}}}}')  # fmt: skip
    transcript = (b'<{"type":"conversation.item.input_audio_transcription.completed",'
                  b'"item_id":"item_1","transcript":"Hi","usage":{"type":"duration",'
                  b'"seconds":2.5}}')  # fmt: skip
    ask = b'>{"type":"response.create","response":{"instructions":"Short!"}}'
    item = (b'>{"type":"conversation.item.create","item":{"id":"item_2","type":"message","role":'
            b'"user","content":[{"type":"input_text","text":"Hello there."}]}}')  # fmt: skip
    ended = done % (1, b"completed", usage)
    yield b"\n".join([session, append, commit, created % 1, spoken, b"4", b"?", ended, transcript])
    yield b"\n".join([item, ask, created % 1, created % 2, text, spoken, b"5",
                      done % (2, b"cancelled", b"null"), ended, ended])  # fmt: skip
    yield b"\n".join([created % 1, done % (1, b"failed", b"{}"), ended, b"?", transcript, commit])
    yield b"\n".join([created % 2, text, done % (2, b"completed", b"null"), b"3",
                      done % (2, b"completed", usage), transcript, transcript])  # fmt: skip
    long = [line.replace(b"AAAA", b"A" * 12) for line in (append, spoken)]
    yield b"\n".join([created % 1, *long, ended])
    yield b"\n".join([b"(" + (created % 1)[1:], b"(" + ended[1:], b")" + append[1:], b"9"])


TARGET = Target(
    check,
    _seeds,
    max_bytes=MAX_BYTES,
    between=b"\n",
    words=(b"\n<", b"\n>", b"\n?\n", b"\n5\n", b"\n(", b'"response.created"', b'"response.done"',
           b'"resp_1"', b'"resp_2"', b'"item_1"', b'"usage":null', b'"usage":{}', b'"status":',
           b'"completed"', b'"in_progress"', b'"failed"', b'"cancelled"', b'"item_id":', b'"id":',
           b'{"type":"response.created","response":{"id":"resp_3"}}',
           b'{"type":"response.done","response":{"id":"resp_3"}}', b'"event_id":"e"',
           b'"input_audio_buffer.speech_started"', b'"input_audio_buffer.speech_stopped"',
           b'"audio_start_ms":0', b'"audio_end_ms":100', b'"conversation.item.truncated"',
           b'"transcription.done"', b'"seconds":1e3', b'"total_tokens":', b'"cached_tokens":',
           b"9007199254740993", b"\\ud800", b"\\u0000", b"\xff", b"A" * 64),
    compiled=True,
)  # fmt: skip
