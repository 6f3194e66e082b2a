"""The meter of one session: its events go in, a record comes out for each unit that ends.

The rules:
1. A unit is counted once, by its response or item id, however often and in whatever order its
   events come. A record is returned again only if it became better.
2. No unit is lost: without an id it gets one, without an end it is "dropped", without figures
   it gets an estimate, and where there is nothing to estimate from its source is "unknown".
3. The price of a message is a look at its first bytes. Only the few types that begin, end or
   name something are parsed; audio never is.
4. Nothing raises, whatever comes.

It may be called from the greenlets of both directions: no call of it yields.
"""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

from relay_app.meter.completed import complete_response, complete_transcription
from relay_app.meter.drift import Drift
from relay_app.meter.estimate import Estimator
from relay_app.meter.events import HEAD_BYTES
from relay_app.meter.facts import SessionFacts
from relay_app.meter.message import Message, WholeText
from relay_app.meter.names import ASKED, CLIENT, COUNTED, SERVER
from relay_app.meter.reading import CLIENT_VALUES, MAX_PARSED_BYTES, NEAR_BYTES, read, read_noted
from relay_app.meter.recorder import Recorder
from relay_app.meter.reported import (
    Reported,
    response_usage,
    status,
    transcription_usage,
    usual_report,
)
from relay_app.meter.skim import Notes
from relay_app.meter.transcription import estimate_transcription
from relay_app.meter.units import UNNAMED, Units, made_ended
from relay_app.meter.untrusted import identifier, mapping, name
from relay_app.meter.usage import SOURCE_RANK, Kind, Status, Usage, UsageRecord
from relay_app.meter.usual import DONE_BEGINS, MAX_USUAL_BYTES, read_usual

__all__ = ["Meter"]

NOTHING: Final[Sequence[UsageRecord]] = ()

ANSWER_SECONDS: Final = 2.0
"""A provider begins a response or takes in a commit well within that, or refuses it."""


class Meter:
    """Turns the events of one session into usage records.

    ``model`` is what the client asked for, ``upstream_model`` what the upstream was asked for;
    ``clock`` gives seconds since the epoch, ``timer`` is monotonic; ``price`` returns a record with
    its cost, and like the meter neither raises nor yields; ``shown`` are types of the upstream's
    that no skim passes over. Counters: ``opaque_sent`` and ``opaque_received`` (messages we could
    not make out), ``usage`` (all that was reported so far), ``records`` (units that have a record;
    a replacement is not another).
    """

    def __init__(
        self,
        session_id: str,
        *,
        key: str,
        upstream: str,
        model: str,
        upstream_model: str,
        clock: Callable[[], float],
        timer: Callable[[], float] = monotonic,
        price: Callable[[UsageRecord], UsageRecord] = lambda record: record,
        shown: frozenset[str] = frozenset(),
    ) -> None:
        self.opaque_sent = 0
        self.opaque_received = 0
        self.usage = Usage()
        self.records = 0
        self.drift = Drift()
        """How far estimates were from reports; what was estimated alone is in ``usage`` too."""
        self._clock = clock
        self._recorder = Recorder(
            session_id,
            key=key,
            upstream=upstream,
            model=name(model) or "",
            clock=clock,
            price=price,
        )
        self._facts = SessionFacts(name(upstream_model) or "", timer)
        self._units = Units()
        self._notes = Notes(clock)
        self._estimator = Estimator(self._facts.upstream_model, self._notes, shown)
        self.skim_sent = self._estimator.skim_sent
        """``(data, frames, begin) -> int``: notes the messages that need no answer, from the frame
        ``begin`` on, and says at which to go on with :meth:`sent`."""
        self.skim_received = self._estimator.skim_received
        """The same for :meth:`received`."""
        self._asked_at = float("-inf")
        self._commits_asked = 0
        self._unnamed = 0
        self.begun: set[str] = set()
        """The responses that have begun and of which there was no :meth:`checkpoint` yet."""
        self._checkpointed: set[str] = set()
        self._late: list[UsageRecord] = []

    def note_down(self, tell: Callable[[], None] | None) -> None:
        """From now on skims may note what only tells something, to be looked at with what comes
        next, or when the meter is asked for something. ``tell`` is called when a response has
        begun, and is to see to it that this is soon. With None all is looked at when it comes."""
        self._notes.on_message = tell

    def _catch_up(self) -> None:
        """Looks at what skims have noted, as of when it came."""
        if not self._notes.pending:
            return
        unit = self._estimator.skim.unit
        for appended, spoken, pieces, piece_bytes, texts, told in self._notes.take():
            if appended or spoken or pieces:
                self._estimator.add_up(unit, appended, spoken, pieces, piece_bytes, texts)
            if told is not None:
                self._look_at(*told)

    def _look_at(self, sent: bool, at: float, payload: bytes) -> None:
        """Looks at a message that was noted."""
        match read_usual(payload):
            case ("response.create",) if sent:
                self._estimator.ask_usual()
                self._asked_at = at
            case ("response.created", unit_id, outside, form, samples) if not sent:
                if self._units.begin(unit_id, at):
                    self.begun.add(unit_id)
                    self._estimator.begin_usual(unit_id, outside, form, samples)
                if self._units.crowded:
                    self._late += self._drop(self._units.oldest())
            case ("conversation.item.added",) if not sent:
                self._estimator.item_usual()
            case _ if sent:
                event_type, event = read_noted(payload, CLIENT, ASKED)
                if event_type is not None:
                    head = payload[:HEAD_BYTES]
                    self._estimator.sent(event_type, event, WholeText(payload), head)
                self._asked(event_type, at)
            case _:
                event_type, event = read_noted(payload, SERVER, COUNTED)
                if event_type is not None:
                    self._estimator.told(event_type, event)
                self._late += self._told(event_type, event, at)

    @property
    def responses_open(self) -> int:
        """Responses created and not done."""
        self._catch_up()
        return len(self._units.open)

    def responses(self) -> list[str]:
        """The ids of these; with ``UNNAMED`` in front where the provider gave none."""
        self._catch_up()
        return list(self._units.open)

    @property
    def units_open(self) -> int:
        """The same, and transcriptions that are still to be expected: what is worth waiting for."""
        self._catch_up()
        return len(self._units.open) + len(self._facts.expected())

    @property
    def expecting(self) -> bool:
        """Whether something that was asked for a moment ago is still to begin: a response, or the
        item of a commit and with it a transcription."""
        self._catch_up()
        waited = self._clock() - self._asked_at
        asked = self._estimator.unanswered or self._commits_asked > 0
        return asked and 0 <= waited < ANSWER_SECONDS

    def running(self) -> Usage:
        """What the open responses are estimated to have used so far, all together.

        Additions alone: it may be asked at every delta.
        """
        self._catch_up()
        return self._estimator.running()

    def asked_input(self) -> Usage:
        """What the response must read that the last ``response.create`` asks for."""
        self._catch_up()
        return self._estimator.asked_input()

    def withheld(self) -> None:
        """The last ``response.create`` was kept back after all."""
        self._catch_up()
        self._estimator.withheld()

    @property
    def upstream_model(self) -> str:
        """The model that does the work, as far as the upstream has said."""
        return self._facts.upstream_model

    def sent(self, message: Message) -> str | None:
        """A message goes from the client to the upstream: its event type, None if it is opaque.

        It decides nothing about money.
        """
        self._catch_up()
        event_type, event, head = read(
            message,
            CLIENT,
            ASKED,
            near_bytes=NEAR_BYTES,
            parsed_bytes=MAX_PARSED_BYTES,
            parsed_values=CLIENT_VALUES,
        )
        if event_type is not None:
            self._estimator.sent(event_type, event, message, head)
        self._asked(event_type, self._clock())
        return event_type

    def _asked(self, event_type: str | None, at: float) -> None:
        if event_type is None:
            self.opaque_sent += 1
        elif event_type == "response.create":
            self._asked_at = at
        elif event_type == "input_audio_buffer.commit":
            self._asked_at = at
            self._commits_asked += 1

    @property
    def inexact(self) -> int:
        """Texts whose tokens were not all looked up: too long, or no vocabulary loaded yet."""
        return self._estimator.inexact

    def received(self, message: Message) -> Sequence[UsageRecord]:
        """A message came from the upstream: the records of the units that ended with it.

        A ``response.done`` that is not JSON is opaque like any other; its response stays open
        and is dropped at the close.
        """
        self._catch_up()
        records = self._usual_end(message)
        if not records:
            event_type, event, head = read(message, SERVER, COUNTED)
            if event_type is not None:
                self._estimator.received(event_type, event, message, head)
            records = self._told(event_type, event, self._clock())
        if self._late:
            records, self._late = [*self._late, *records], []
        return records

    def _usual_end(self, message: Message) -> Sequence[UsageRecord]:
        """The record of a response that ends as nearly all do; nothing is changed if it does not,
        or if this is something else."""
        usual = message.text and message.length <= MAX_USUAL_BYTES
        if not usual or message.head(len(DONE_BEGINS)) != DONE_BEGINS:
            return NOTHING
        match read_usual(message.payload() or b""):
            case ("response.done", unit_id, ended_as, counts, raw, item_ids):
                usage = Usage(*counts)
                estimate = self._estimator.end_usual(unit_id, item_ids, usage)
            case _:
                return NOTHING
        if estimate is None:
            return NOTHING
        if self._estimator.spoke:
            self._facts.text_only = False
        started_at = self._units.started(unit_id, self._clock())
        reported = usual_report(usage, raw)
        return self._record("response", unit_id, status(ended_as), started_at, reported, estimate)

    def _told(
        self, event_type: str | None, event: dict[str, Any] | None, at: float
    ) -> Sequence[UsageRecord]:
        if event_type is None:
            self.opaque_received += 1
        elif event is not None and event_type in _HANDLERS:
            return _HANDLERS[event_type](self, event, at)
        return NOTHING

    def checkpoint(self, *, begun: bool = False) -> list[UsageRecord]:
        """What every unit that is still to end has used so far, or only what has just ``begun``:
        records of these units in case nobody lives to see their end, which replaces them.

        They count nowhere here. A unit without a name is left out, for it may end under another.
        """
        self._catch_up()
        ids = self.begun if begun else self.responses()
        records = [self._residual_response(i) for i in ids if not i.startswith(UNNAMED)]
        self.begun = set()
        if not begun:
            expected = self._facts.expected()
            self._checkpointed = (self._checkpointed | {*expected}).intersection(
                self._facts.awaited()
            )
            records += map(self._residual_transcription, expected)
        return records

    def close(self) -> list[UsageRecord]:
        """The session ended: a record for each response and each transcription that never did.
        Then there are none."""
        self._catch_up()
        records, self._late = self._late, []
        while self._units.open:
            records += self._drop(self._units.oldest())
        for item_id in self._facts.awaited():
            records += self._drop_transcription(item_id)
        return records

    def _session(self, event: dict[str, Any], at: float) -> Sequence[UsageRecord]:
        self._facts.told(mapping(event.get("session")))
        return NOTHING

    def _committed(self, event: dict[str, Any], at: float) -> Sequence[UsageRecord]:
        # A server that detects speech commits unasked; then it counts as the answer all the same.
        self._commits_asked = max(0, self._commits_asked - 1)
        item_id = identifier(event.get("item_id"))
        awaited = self._units.ended(item_id or "") is None
        milliseconds = self._estimator.heard(item_id)
        self._facts.committed(item_id, at, milliseconds, awaited=awaited)
        return NOTHING

    def _transcription_failed(self, event: dict[str, Any], at: float) -> Sequence[UsageRecord]:
        item_id = identifier(event.get("item_id"))
        started_at, _, model = self._facts.transcription_of(item_id or "", at)
        self._facts.transcribed(item_id, at)
        if item_id is None or item_id not in self._checkpointed:
            return NOTHING
        # It is no unit, but a checkpoint says otherwise, and something has to take its place.
        return self._record(
            "transcription", item_id, "failed", started_at, Reported(), Usage(), model
        )

    def _item(self, event: dict[str, Any], at: float) -> Sequence[UsageRecord]:
        self._facts.saw_item(mapping(event.get("item")))
        return NOTHING

    def _response_created(self, event: dict[str, Any], at: float) -> Sequence[UsageRecord]:
        unit_id = self._response_id(event)
        if self._units.begin(unit_id, at):
            self.begun.add(unit_id)
            self._estimator.begin(unit_id, mapping(event.get("response")))
        return self._drop(self._units.oldest()) if self._units.crowded else NOTHING

    def _response_done(self, event: dict[str, Any], at: float) -> Sequence[UsageRecord]:
        response = mapping(event.get("response"))
        if self._estimator.spoke:
            self._facts.text_only = False
        ended_as = status(response.get("status"))
        reported = response_usage(
            response.get("usage"),
            event.get("usage"),  # xAI
            text_only=self._facts.only_text(response),
            # One that came to an end of its own has at least read its instructions.
            produced=ended_as in ("completed", "incomplete") or bool(response.get("output")),
        )
        unit_id = self._response_id(event)
        before = self._units.ended(unit_id)
        started_at = self._units.started(unit_id, at)
        known = reported.usage if reported.source == "reported" else None
        estimate = before.estimate if before else self._estimator.end(unit_id, response, known)
        made = estimate.output_text_tokens or estimate.output_audio_tokens
        spent = ended_as != "failed" or bool(made or response.get("output"))
        reported = complete_response(reported, estimate, spent=spent)
        if before and SOURCE_RANK[reported.source] <= SOURCE_RANK[before.source]:
            return NOTHING
        return self._record("response", unit_id, ended_as, started_at, reported, estimate)

    def _transcribed(self, event: dict[str, Any], at: float) -> Sequence[UsageRecord]:
        if event.get("status") == "in_progress":  # xAI and Azure: more of the same item follows
            return NOTHING
        ended_as = status(event.get("status") or "completed")
        reported = transcription_usage(event.get("usage"), produced=bool(event.get("transcript")))
        unit_id = identifier(event.get("item_id")) or self._unnamed_id(event)
        before = self._units.ended(unit_id)
        started_at, heard, model = self._facts.transcription_of(unit_id, at)
        transcript = event.get("transcript")
        said = transcript if isinstance(transcript, str) else ""
        # A transcription may come before its item is committed (xAI).
        heard = heard or self._estimator.heard(unit_id)
        estimate = estimate_transcription(model or "", heard, said)
        reported = complete_transcription(reported, estimate)
        self._facts.transcribed(unit_id, started_at)
        if before:
            # A later final replaces an earlier one, unless it knows less or says the same.
            worse = SOURCE_RANK[reported.source] < SOURCE_RANK[before.source]
            same = (reported.usage, reported.source, ended_as) == before[1:4]
            if worse or same:
                return NOTHING
        return self._record(
            "transcription", unit_id, ended_as, started_at, reported, estimate, model
        )

    def _drop(self, unit_id: str) -> Sequence[UsageRecord]:
        started_at = self._units.started(unit_id, self._clock())
        estimate = self._estimator.end(unit_id, {})
        reported = complete_response(Reported(), estimate, spent=True)
        return self._record("response", unit_id, "dropped", started_at, reported, estimate)

    def _drop_transcription(self, item_id: str) -> Sequence[UsageRecord]:
        started_at, heard, model = self._facts.transcription_of(item_id, self._clock())
        self._facts.transcribed(item_id, started_at)
        estimate = estimate_transcription(model or "", heard, None)
        reported = complete_transcription(Reported(), estimate)
        return self._record(
            "transcription", item_id, "dropped", started_at, reported, estimate, model
        )

    def _residual_response(self, unit_id: str) -> UsageRecord:
        started_at = self._units.open[unit_id]
        estimate = self._estimator.so_far(unit_id)
        reported = complete_response(Reported(), estimate, spent=True)
        return self._made("residual", unit_id, "dropped", started_at, reported, estimate)

    def _residual_transcription(self, item_id: str) -> UsageRecord:
        started_at, heard, model = self._facts.transcription_of(item_id, self._clock())
        estimate = estimate_transcription(model or "", heard, None)
        reported = complete_transcription(Reported(), estimate)
        return self._made("residual", item_id, "dropped", started_at, reported, estimate, model)

    def _record(
        self,
        kind: Kind,
        unit_id: str,
        ended_as: Status,
        started_at: float,
        reported: Reported,
        estimate: Usage,
        model: str | None = None,
    ) -> Sequence[UsageRecord]:
        """Record a unit's end, in place of what was recorded of it before.

        ``model`` is the one that did the work if it is not the session's own.
        """
        before = self._units.ended(unit_id)
        if before:
            started_at = before.started_at
            self.usage -= before.usage
        else:
            self.records += 1
        self.usage += reported.usage
        ended = (started_at, reported.usage, reported.source, ended_as, estimate)
        self._units.end(unit_id, made_ended(ended))
        self.begun.discard(unit_id)
        self._checkpointed.discard(unit_id)
        if reported.source == "reported":
            self.drift.add(estimate, reported.usage)
        return [self._made(kind, unit_id, ended_as, started_at, reported, estimate, model)]

    def _made(
        self,
        kind: Kind,
        unit_id: str,
        ended_as: Status,
        started_at: float,
        reported: Reported,
        estimate: Usage,
        model: str | None = None,
    ) -> UsageRecord:
        return self._recorder.record(
            kind,
            unit_id,
            ended_as,
            started_at,
            reported,
            estimate,
            model=model,
            upstream_model=self._facts.upstream_model,
        )

    def _response_id(self, event: dict[str, Any]) -> str:
        return (
            identifier(mapping(event.get("response")).get("id"))
            or identifier(event.get("response_id"))
            or self._unnamed_id(event)
        )

    def _unnamed_id(self, event: dict[str, Any]) -> str:
        """An id for a unit without one: of its event, so that a repeat is known, or a number."""
        event_id = identifier(event.get("event_id"))
        if event_id is None:
            self._unnamed += 1
            event_id = str(self._unnamed)
        return UNNAMED + event_id


_Handler = Callable[[Meter, dict[str, Any], float], Sequence[UsageRecord]]

_HANDLERS: Final[dict[str, _Handler]] = {
    "session.created": Meter._session,
    "session.updated": Meter._session,
    "transcription_session.created": Meter._session,
    "transcription_session.updated": Meter._session,
    "input_audio_buffer.committed": Meter._committed,
    "conversation.item.added": Meter._item,
    "conversation.item.created": Meter._item,
    "conversation.item.input_audio_transcription.completed": Meter._transcribed,
    "conversation.item.input_audio_transcription.failed": Meter._transcription_failed,
    "response.created": Meter._response_created,
    "response.done": Meter._response_done,
    "transcription.done": Meter._transcribed,
}
"""What each counted type does here; some only change estimates."""
