"""Scripts of whole sessions, each with the upstream's own account of what it billed in it.

The rule: nothing here is the relay's. What a message means for the bill is written down when the
message is made, by the one who bills; prices are read from their file by other code.
"""

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.resources import files
from typing import Any, Literal, NamedTuple

from hypothesis import strategies as st

__all__ = ["Entry", "Said", "Script", "Step", "Unit", "account", "cost", "scripts"]

ASKED = ["gpt-realtime", "our-voice"]
MODELS = [None, "gpt-realtime-2.1", "gpt-4o-realtime-preview-2024-12-17", "nobody-has-a-price"]
TRANSCRIBERS = ["whisper-1", "gpt-realtime-whisper", "gpt-4o-transcribe", "nobody-has-a-price"]
TRANSCRIPTION = "conversation.item.input_audio_transcription."
LIES = [
    '{"type":"response.done","response":{"id":"resp_0","usage":{"total_tokens":9}}}',
    '","type":"response.done","x":"',
    "\\",
    "\u2028 \U0001f4b8",
]
"""What a model may say, and must not be billed for."""


# -- the account ---------------------------------------------------------------------------------


class Entry(NamedTuple):
    """What a message does to the account. ``figures`` of None: it ended, and nobody says how much;
    ``totals`` is what is said of input and output then, if anything is."""

    unit: str
    deed: Literal["begins", "ends", "fails"]
    kind: str
    model: str
    status: str = "dropped"
    figures: Mapping[str, float] | None = None
    totals: tuple[int, int] | None = None


Unit = Entry
"""What is known of a unit in the end: its last entry that counts."""


class Said(NamedTuple):
    """A message of the upstream's."""

    payload: bytes
    entry: Entry | None = None
    text: bool = True


def account(said: Iterable[Said]) -> dict[str, Unit]:
    """What was billed by the time that all of ``said`` was said, by unit.

    Each once: a repeat changes nothing, a report that comes later is what is billed, and a
    transcription that fails costs nothing.
    """
    units: dict[str, Unit] = {}
    failed: set[str] = set()
    for _, entry, _ in said:
        if entry is None:
            continue
        before = units.get(entry.unit)
        ended = before is not None and before.deed == "ends"
        if entry.deed == "fails":
            failed.add(entry.unit)
            if not ended:
                units.pop(entry.unit, None)
        elif entry.deed == "begins":
            if before is None and entry.unit not in failed:
                units[entry.unit] = entry
        elif not ended or entry.figures is not None:
            units[entry.unit] = entry
        elif before is not None and entry.totals != before.totals:
            # It says one thing and then another, and neither is a report.
            units[entry.unit] = before._replace(totals=None)
    return units


def cost(models: Iterable[str], figures: Mapping[str, float]) -> Fraction | None:
    """What ``figures`` cost in USD, to the micro-dollar, by the row of the first of ``models`` that
    has one; None if the list has no price for them."""
    row = next((_rows()[model] for model in models if model in _rows()), None)
    if row is None:
        return None
    micro_dollars = Fraction(0)
    for kind in ("text", "audio", "image"):
        cached, taken = figures[f"cached_{kind}_tokens"], figures[f"input_{kind}_tokens"]
        made = 0 if kind == "image" else figures[f"output_{kind}_tokens"]
        charges = {
            f"cached_{kind}": cached,
            f"input_{kind}": taken - cached,
            f"output_{kind}": made,
        }
        for rate, tokens in charges.items():
            if tokens and rate not in row:
                return None
            micro_dollars += Fraction(row.get(rate, 0)) * tokens if tokens else 0
    seconds = Fraction(repr(figures["transcription_seconds"]))
    if seconds:
        if "transcription_minute" not in row:
            return None
        micro_dollars += Fraction(row["transcription_minute"]) * 1_000_000 * seconds / 60
    return Fraction(round(micro_dollars), 1_000_000)  # Python rounds halves to even


def _rows() -> dict[str, dict[str, str]]:
    if not _ROWS:
        text = files("relay_app").joinpath("data", "prices.toml").read_text("utf-8")
        for row in tomllib.loads(text, parse_float=str)["prices"]:
            _ROWS.update(dict.fromkeys([row["model"], *row.get("names", ())], row))
    return _ROWS


_ROWS: dict[str, dict[str, str]] = {}


# -- the script ----------------------------------------------------------------------------------


Who = Literal["upstream", "client", "leaves", "keeper"]


@dataclass(frozen=True)
class Step:
    """One thing that happens: somebody says something, the client leaves, or the keeper comes by.

    ``cuts`` are where a message is cut into frames, and ``ping`` whether a ping stands in each
    cut; ``turns`` is how often the others run after it.
    """

    who: Who
    said: Said
    cuts: Sequence[int] = ()
    ping: bool = False
    turns: int = 0


Leaving = Literal["close", "fin", "reset", "cancel", "kill"]
Ending = Literal["close", "fin", "cut", "reset", "silent"]


@dataclass
class Script:
    """A session from its beginning. ``leaving`` is how it ends for the client in the step
    ``leaves``, ``ending`` how the upstream ends it after the last step; of a last message that is
    ``cut``, the upstream sends all but so many bytes. ``chunks`` are the sizes of TCP segments,
    ``asked`` is the model that the client asked for."""

    asked: str
    steps: list[Step] = field(default_factory=list)
    leaving: Leaving = "close"
    ending: Ending = "close"
    cut: int = 1
    chunks: Sequence[int] = (65_536,)
    before_forward: bool = True

    @property
    def said(self) -> list[Said]:
        return [step.said for step in self.steps if step.who == "upstream"]


COUNTS = st.integers(0, 5_000)
ZEROS = {
    f"{way}_{kind}_tokens": 0
    for way in ("input", "cached", "output")
    for kind in ("text", "audio", "image")
    if (way, kind) != ("output", "image")
} | {"reasoning_tokens": 0, "transcription_seconds": 0}


@st.composite
def reports(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, float]]:
    """A usage object of a response that says all, and the figures that were meant by it."""
    shape = draw(st.sampled_from(["ga", "beta", "chat"]))
    taken = {kind: draw(COUNTS) for kind in ("text", "audio")}
    taken["image"] = draw(COUNTS) if shape == "ga" else 0
    made = {"text": draw(st.integers(1, 5_000)), "audio": draw(COUNTS)}
    # Cached tokens without their kinds can be no other than text, where this provider says so.
    cached = {kind: draw(st.integers(0, taken[kind])) for kind in taken} if shape == "ga" else {}
    cached = cached or {"text": draw(st.integers(0, taken["text"])), "audio": 0, "image": 0}
    reasoning = draw(st.integers(0, made["text"]))
    into: dict[str, Any] = {f"{kind}_tokens": taken[kind] for kind in taken if shape == "ga"}
    into |= {"audio_tokens": taken["audio"], "cached_tokens": sum(cached.values())}
    out: dict[str, Any] = {"audio_tokens": made["audio"], "reasoning_tokens": reasoning}
    if shape == "ga":
        into["cached_tokens_details"] = {f"{kind}_tokens": cached[kind] for kind in cached}
    if shape != "chat":
        into["text_tokens"], out["text_tokens"] = taken["text"], made["text"]
    elif not taken["audio"]:
        into["text_tokens"] = taken["text"]
    if shape == "chat" and not made["audio"]:
        out["text_tokens"] = made["text"]
    names = ("prompt", "completion") if shape == "chat" else ("input", "output")
    plural = "tokens_details" if shape == "chat" else "token_details"
    sums = [sum(taken.values()), sum(made.values())]
    usage = {
        "total_tokens": sum(sums),
        f"{names[0]}_tokens": sums[0],
        f"{names[1]}_tokens": sums[1],
        f"{names[0]}_{plural}": into,
        f"{names[1]}_{plural}": out,
    }
    figures = ZEROS | {f"input_{kind}_tokens": count for kind, count in taken.items()}
    figures |= {f"cached_{kind}_tokens": count for kind, count in cached.items()}
    figures |= {f"output_{kind}_tokens": count for kind, count in made.items()}
    return usage, figures | {"reasoning_tokens": reasoning}


class Author:
    """Writes one script. Each method is one thing that an upstream or a client may do."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.steps: list[Step] = []
        self.told_model = draw(st.sampled_from(MODELS))
        self.asked = draw(st.sampled_from(ASKED))
        self.model = self.told_model or self.asked
        self.transcriber: str | None = None
        self.responses: dict[str, Literal["open", "silent", "billed"]] = {}
        self.statuses: dict[str, str] = {}
        self.items: dict[str, str] = {}
        self.client_is_here = True
        self.named = draw(st.sampled_from(["resp_", "r\u00e9p/", 'q"\\']))

    # -- responses

    def begin(self) -> None:
        unit = f"{self.named}{len(self.responses)}"
        self.responses[unit] = "open"
        if self.draw(st.integers(0, 9)):
            response = {"id": unit, "status": "in_progress", "output": [], "usage": None}
            entry = Entry(unit, "begins", "response", self.model)
            self.event("response.created", entry, response=response)

    def speak(self) -> None:
        unit = self.one_of(self.responses)
        if unit is None:
            return
        kind = self.draw(st.sampled_from(["audio", "audio_transcript", "text"]))
        said = "UklGRg==" * self.draw(st.sampled_from([1, 90]))
        delta = said if kind == "audio" else self.draw(st.sampled_from(LIES))
        fields = {"response_id": unit, "item_id": "i", "output_index": 0, "delta": delta}
        self.event(f"response.output_{kind}.delta", None, **fields)

    def end(self) -> None:
        unbilled = {unit: how for unit, how in self.responses.items() if how != "billed"}
        unit = self.one_of(unbilled if self.draw(st.booleans()) else self.responses)
        if unit is None:
            return
        said = self.draw(st.sampled_from([*["all"] * 5, "frame", "null", "none", "{}", "totals"]))
        status = self.statuses.setdefault(
            unit, self.draw(st.sampled_from(["completed", "cancelled", "incomplete", "failed"]))
        )
        entry = Entry(unit, "ends", "response", self.model, status)
        response: dict[str, Any] = {"id": unit, "object": "realtime.response", "status": status}
        response["output"] = [{"id": "i", "type": "message", "content": []}]
        beside: dict[str, Any] = {}
        if said in ("all", "frame"):
            if self.responses[unit] == "billed":
                return  # it bills once; what it may do is say the same again
            usage, figures = self.draw(reports())
            entry = entry._replace(figures=figures)
            self.responses[unit] = "billed"
            if status in ("failed", "cancelled") and self.draw(st.booleans()):
                usage, response["output"] = _nothing(usage), []
                entry = entry._replace(figures=ZEROS)
            if said == "frame":  # as xAI does
                response["usage"], beside = {}, {"usage": usage}
            else:
                response["usage"] = usage
        else:
            if self.responses[unit] == "open":
                self.responses[unit] = "silent"
            totals = (self.draw(st.integers(1, 999)), self.draw(st.integers(1, 999)))
            if said == "totals":
                entry = entry._replace(totals=totals)
                names = ("input_tokens", "output_tokens")
                response["usage"] = dict(zip(names, totals, strict=True))
            elif said != "none":
                response["usage"] = json.loads(said)
        self.event("response.done", entry, response=response, **beside)

    def repeat(self) -> None:
        told = [step for step in self.steps if step.said.entry is not None]
        if told:
            self.upstream(self.draw(st.sampled_from(told)).said)

    # -- transcriptions

    def transcribe(self) -> None:
        """The upstream says by which model it transcribes from now on, or that it does not."""
        self.transcriber = self.draw(st.sampled_from([*TRANSCRIBERS, None]))
        given = None if self.transcriber is None else {"model": self.transcriber}
        session = {"type": "realtime", "audio": {"input": {"transcription": given}}}
        self.event("session.updated", None, session=session)

    def commit(self) -> None:
        item = f"item_{len(self.steps)}"
        entry = None
        if self.transcriber is not None:
            self.items[item] = self.transcriber
            entry = Entry(item, "begins", "transcription", self.transcriber)
        if self.draw(st.booleans()):
            start = self.draw(st.integers(0, 9_000))
            kind = "input_audio_buffer.speech_"
            self.event(f"{kind}started", None, item_id=item, audio_start_ms=start)
            self.event(f"{kind}stopped", None, item_id=item, audio_end_ms=start + 700)
        self.event("input_audio_buffer.committed", entry, item_id=item, previous_item_id=None)

    def transcript(self) -> None:
        item = self.one_of(self.items)
        if item is None:
            return
        entry = Entry(item, "ends", "transcription", self.items[item], "completed")
        transcript = self.draw(st.sampled_from(["Good morning.", *LIES]))
        fields: dict[str, Any] = {"item_id": item, "content_index": 0, "transcript": transcript}
        said = self.draw(st.sampled_from(["tokens", "seconds", "none", "in_progress", "failed"]))
        if said == "failed":
            error = {"type": "transcription_error", "code": "audio_unintelligible"}
            entry = entry._replace(deed="fails")
            self.event(f"{TRANSCRIPTION}failed", entry, item_id=item, error=error)
            return
        if said == "in_progress":
            fields["status"] = "in_progress"
        elif said == "tokens":
            text, audio, out = (self.draw(st.integers(1, 999)) for _ in range(3))
            fields["usage"] = {
                "type": "tokens",
                "total_tokens": text + audio + out,
                "input_tokens": text + audio,
                "input_token_details": {"text_tokens": text, "audio_tokens": audio},
                "output_tokens": out,
            }
            told = {"input_text_tokens": text, "input_audio_tokens": audio}
            entry = entry._replace(figures=ZEROS | told | {"output_text_tokens": out})
        elif said == "seconds":
            seconds = self.draw(st.one_of(st.integers(1, 99), st.sampled_from([0.1, 2.667])))
            fields["usage"] = {"type": "duration", "seconds": seconds}
            entry = entry._replace(figures=ZEROS | {"transcription_seconds": seconds})
        final = None if said == "in_progress" else entry
        self.event(f"{TRANSCRIPTION}completed", final, **fields)

    # -- what is not billed

    def noise(self) -> None:
        self.upstream(
            self.draw(
                st.sampled_from(
                    [
                        Said(b'{"type":"rate_limits.updated","rate_limits":[]}'),
                        Said(b'{"type":"error","error":{"message":"' + b"x" * 700 + b'"}}'),
                        Said(b'{"type":"something.new","usage":{"total_tokens":7}}'),
                        Said(b'{"type":"response.done","response":'),
                        Said(b"response.done"),
                        Said(b'{"type":"response.done"}', text=False),
                    ]
                )
            )
        )

    def ask(self) -> None:
        """The client says something, which decides nothing."""
        if self.client_is_here:
            events: list[dict[str, Any]] = [
                {"type": "input_audio_buffer.append", "audio": "AAAA" * 400},
                {"type": "response.create", "response": {"instructions": "Be brief."}},
                {"type": "response.cancel"},
                {"type": "response.done", "response": {"id": "mine", "status": "completed"}},
            ]
            payload = json.dumps(self.draw(st.sampled_from(events))).encode()
            self.step("client", Said(payload))

    def leave(self) -> None:
        if self.client_is_here:
            self.client_is_here = False
            self.step("leaves", Said(b""))

    def look(self) -> None:
        """The keeper comes by, after so long that what runs is due for a checkpoint."""
        self.step("keeper", Said(b""))

    # -- how it is said

    def event(self, kind: str, entry: Entry | None, **fields: Any) -> None:
        """An event, its keys in any order and JSON in any style."""
        named: dict[str, Any] = {"type": kind, "event_id": f"event_{len(self.steps)}"}
        style = self.draw(st.integers(0, 3))
        event = {**fields, **named} if style & 1 else {**named, **fields}
        separators = (" ,\n", " : ") if style & 2 else (",", ":")
        text = json.dumps(event, separators=separators, ensure_ascii=bool(style & 1))
        self.upstream(Said(text.encode(), entry))

    def upstream(self, said: Said) -> None:
        self.step("upstream", said)

    def step(self, who: Who, said: Said) -> None:
        cuts: list[int] = []
        if said.payload and not self.draw(st.integers(0, 3)):
            inside = st.integers(0, len(said.payload))
            cuts = sorted(self.draw(st.lists(inside, min_size=1, max_size=3)))
        ping = bool(cuts) and self.draw(st.booleans())
        self.steps.append(Step(who, said, cuts, ping, self.draw(st.integers(0, 2))))

    def one_of(self, units: Mapping[str, object]) -> str | None:
        return self.draw(st.sampled_from(list(units))) if units else None


DEEDS: dict[str, Callable[[Author], None]] = {
    "begin": Author.begin,
    "speak": Author.speak,
    "end": Author.end,
    "repeat": Author.repeat,
    "transcribe": Author.transcribe,
    "commit": Author.commit,
    "transcript": Author.transcript,
    "noise": Author.noise,
    "ask": Author.ask,
    "leave": Author.leave,
    "look": Author.look,
}
OFTEN = ["begin", "end", "end", "begin", "end", "commit", "transcript", "transcript"]


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """Any session."""
    author = Author(draw)
    session: dict[str, Any] = {"id": "sess", "object": "realtime.session", "expires_at": 0}
    if author.told_model:
        session["model"] = author.told_model
    author.event("session.created", None, session=session)
    if draw(st.booleans()):
        author.transcribe()
    many = draw(st.integers(0, 16))  # a list alone would be of five, most of the time
    for deed in draw(st.lists(st.sampled_from([*OFTEN, *DEEDS]), min_size=many, max_size=24)):
        DEEDS[deed](author)
    ending: Ending = draw(st.sampled_from(["close", "fin", "cut", "reset", "silent"]))
    if ending == "silent":
        author.leave()  # or nobody ever would
    last = next(step for step in reversed(author.steps) if step.who == "upstream")
    return Script(
        author.asked,
        author.steps,
        draw(st.sampled_from(["close", "fin", "reset", "cancel", "kill"])),
        ending,
        draw(st.integers(1, len(last.said.payload))),
        draw(st.sampled_from([[65_536], [1_000], [126, 1], [1, 2, 7, 300], [17]])),
        draw(st.booleans()),
    )


def _nothing(usage: Any) -> Any:
    """The same object with zeros in it."""
    if isinstance(usage, dict):
        return {key: _nothing(value) for key, value in usage.items()}
    return 0
