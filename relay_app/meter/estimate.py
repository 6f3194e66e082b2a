"""An estimate of what every unit used, from what was seen of it.

The rules:
1. It is fed by the messages the meter sees, and asked when a unit ends: reported or not, each
   unit has an estimate, so that the two can be held against each other.
2. Servers are believed before clients, and what a provider reported before what was added up
   here: it corrects the context of every later estimate.
3. Cached tokens and reasoning cannot be seen. Estimates have none of either.
4. Nothing raises, and no text is kept. Memory is bounded by the parts: some 2 MB if a peer
   drives every one to its limit, a few kB in life.

What a message costs here: audio and deltas a look at their ends and an addition, most of them not
even a call; four parses of small events a spoken turn. Text is tokenised once, when its item is
whole, or its response is and nobody reported what that used.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from relay_app.meter.audio import (
    PCM16,
    audio_rate,
    format_bytes_per_ms,
    input_format,
    output_format,
)
from relay_app.meter.claims import PLAINLY, UNTAGGED, Asked, Claims, is_outside, tag_of
from relay_app.meter.context import Context
from relay_app.meter.fields import AudioField, response_id, text_bytes
from relay_app.meter.input_audio import InputAudio
from relay_app.meter.items import ITEM_TOKENS, count_instructions, count_item, count_tools
from relay_app.meter.kinds import CLIENT_KINDS, SERVER_KINDS, kinds_without
from relay_app.meter.message import Message
from relay_app.meter.names import AUDIO, TEXT_DELTAS
from relay_app.meter.output import Output
from relay_app.meter.skim import Notes, Skim
from relay_app.meter.split import Split, made_split
from relay_app.meter.tokens import Counted
from relay_app.meter.units import UNNAMED
from relay_app.meter.untrusted import identifier, mapping, name, seconds
from relay_app.meter.usage import Usage

__all__ = ["Estimator"]


class Estimator:
    """The estimates of one session. ``inexact`` counts texts that were not fully looked up;
    ``spoke`` says whether the upstream has sent audio.

    ``skim_sent`` and ``skim_received`` run over the frames of a direction, as
    :meth:`relay_app.meter.skim.PythonSkim.over` does, and leave what they find in ``notes``. These
    are to be gone through, with :meth:`add_up` for the sums in them, before anything else is done.
    """

    def __init__(self, model: str, notes: Notes, shown: frozenset[str] = frozenset()) -> None:
        self.inexact = 0
        self.spoke = False
        self._rate = audio_rate(model)
        self._claims = Claims()
        self._context = Context()
        self._input = InputAudio()
        self._output_bytes_per_ms = PCM16
        self._open: dict[str, Output] = {}
        self._sent_audio = AudioField(b"audio")
        self._received_audio = AudioField(b"delta")
        self._told = False
        self.skim_sent = Skim(CLIENT_KINDS, b"audio", notes, sent=True).over
        kinds = kinds_without(shown) if shown else SERVER_KINDS
        self.skim = Skim(kinds, b"delta", notes, sent=False)
        """Of what is received: its ``unit`` is the response that the sums in the notes are of."""
        self._skimmed: str | None = None
        self.skim_received = self.skim.over

    # -- what passes -------------------------------------------------------------------------

    def sent(
        self, event_type: str, event: dict[str, Any] | None, message: Message, head: bytes
    ) -> None:
        """A known message went to the upstream; ``event`` if it was parsed."""
        if event_type in AUDIO:
            self._input.append(self._sent_audio.bytes_in(message, head))
        elif event is not None and event_type in _ASKED:
            _ASKED[event_type](self, event)

    def received(
        self, event_type: str, event: dict[str, Any] | None, message: Message, head: bytes
    ) -> None:
        """A known message came from the upstream. Ends of units are told by the methods below."""
        if event is None and event_type in AUDIO:
            self.spoke = True
            output = self._of(response_id(message, head))
            if output is not None:
                output.audio_bytes += self._received_audio.bytes_in(message, head)
        elif event is None and event_type in TEXT_DELTAS:
            output = self._of(response_id(message, head))
            if output is not None:
                output.add_text(event_type, text_bytes(message, head))
        else:
            self.told(event_type, event)

    def told(self, event_type: str, event: dict[str, Any] | None) -> None:
        """The same for one that carries neither audio nor text."""
        if event is not None:
            if event_type in HANDLERS:
                HANDLERS[event_type](self, event)
        elif event_type == "input_audio_buffer.cleared":
            self._input.clear()

    def add_up(
        self,
        unit: bytes | None,
        appended: int,
        spoken: int,
        pieces: int,
        piece_bytes: int,
        texts: int,
    ) -> None:
        """Takes in sums of a :data:`relay_app.meter.skim.Line`, of the response ``unit``."""
        if appended:
            self._input.append(appended)
        self.spoke = self.spoke or spoken > 0
        output = None if unit is None else self._open.get(unit.decode())
        if output is not None:
            output.audio_bytes += spoken
            output.pieces += pieces
            output.piece_bytes += piece_bytes
            output.texts |= texts

    # -- units -------------------------------------------------------------------------------

    def begin(self, unit_id: str, response: dict[str, Any]) -> None:
        """A response began. The meter bounds how many run: each is ended."""
        tag = tag_of(response.get("metadata"))
        self._begin(unit_id, tag, is_outside(response), output_format(response))

    def begin_usual(
        self, unit_id: str, outside: bool, form: str | None, samples: int | None
    ) -> None:
        """The same of one without metadata, that answers in this format of audio."""
        bytes_per_ms = None if form is None else format_bytes_per_ms(form, samples)
        self._begin(unit_id, UNTAGGED, outside, bytes_per_ms)

    def _begin(self, unit_id: str, tag: int, outside: bool, bytes_per_ms: float | None) -> None:
        if unit_id in self._open:
            return
        asked = self._claims.answered(tag, outside)
        if asked is not None and not asked.exact:
            self.inexact += 1
        self._open[unit_id] = Output(
            self._reads(asked),
            self._context.level,
            outside,
            bytes_per_ms or self._output_bytes_per_ms,
        )
        self._skim_for(unit_id)

    def end(self, unit_id: str, response: dict[str, Any], reported: Usage | None = None) -> Usage:
        """A response ended: what it must have used. ``reported`` is what the provider says."""
        if unit_id not in self._open:
            unnamed = (other for other in self._open if other.startswith(UNNAMED))
            started = next(unnamed, unit_id) if unit_id.startswith(UNNAMED) else unit_id
            self.begin(started, response)
        else:
            started = unit_id
        given = response.get("output")
        items = [mapping(item) for item in given] if isinstance(given, list) else []
        written = self._open[started].written(items, reported=bool(reported))
        self._note(written)
        ids = [identifier(item.get("id")) for item in items[:2]]
        return self._end(started, written.tokens, ids, reported)

    def end_usual(
        self, unit_id: str, item_ids: Sequence[str | None], reported: Usage
    ) -> Usage | None:
        """The same of one whose deltas tell what it wrote, with its first two items; None, and
        nothing ended, if they do not."""
        output = self._open.get(unit_id)
        if output is None or not output.tells:
            return None
        return self._end(unit_id, output.said_tokens, item_ids, reported)

    def _end(
        self, unit_id: str, written: int, ids: Sequence[str | None], reported: Usage | None
    ) -> Usage:
        output = self._open.pop(unit_id)
        self._skim_for(None)
        estimate = self._used(output, written)
        if not output.outside:
            self._learn(output, ids, reported, estimate)
        return estimate

    def running(self) -> Usage:
        """What all running responses must have used so far."""
        used = [self._used(output, output.said_tokens) for output in self._open.values()]
        return used[0] if len(used) == 1 else sum(used, Usage())

    def asked_input(self) -> Usage:
        """What a response must read that was asked for just now."""
        reads = self._reads(self._claims.newest())
        return Usage(
            input_text_tokens=reads.text,
            input_audio_tokens=reads.audio,
            input_image_tokens=reads.image,
        )

    @property
    def unanswered(self) -> bool:
        """Whether a response was asked for that has not begun, and may have been refused."""
        return self._claims.newest() is not None

    def withheld(self) -> None:
        """The response that was asked for just now is not going to be."""
        self._claims.withdraw()

    def so_far(self, unit_id: str) -> Usage:
        """What a running response must have used so far."""
        output = self._open.get(unit_id)
        return Usage() if output is None else self._used(output, output.said_tokens)

    def heard(self, item_id: str | None) -> float:
        """Milliseconds of user audio in an item, 0 if nothing was heard of it lately."""
        return self._input.length(item_id)

    # -- sessions, items, speech -------------------------------------------------------------

    def _session(self, event: dict[str, Any]) -> None:
        self._told = True
        self._configure(mapping(event.get("session")))

    def _ask_session(self, event: dict[str, Any]) -> None:
        if not self._told:
            self._configure(mapping(event.get("session")))

    def _configure(self, session: dict[str, Any]) -> None:
        model = name(session.get("model"))
        self._rate = self._rate if model is None else audio_rate(model)
        self._input.bytes_per_ms = input_format(session) or self._input.bytes_per_ms
        self._output_bytes_per_ms = output_format(session) or self._output_bytes_per_ms
        instructions = count_instructions(session.get("instructions"))
        tools = count_tools(session.get("tools"))
        self._note(instructions)
        self._note(tools)
        self._context.instruct(
            instructions.tokens if "instructions" in session else None,
            tools.tokens if "tools" in session else None,
        )

    def _ask_item(self, event: dict[str, Any]) -> None:
        item = self._claims.create_item(mapping(event.get("item")))
        if not self._claims.repeated:
            self._context.add(None, item.tokens)

    def _ask_response(self, event: dict[str, Any]) -> None:
        self._claims.ask(mapping(event.get("response")), self._context.item)

    def ask_usual(self) -> None:
        """The client asks for a response, and all is as in the session."""
        self._claims.ask_like(PLAINLY)

    def item_usual(self) -> None:
        """An item is being generated: servers repeat items, and there is nothing to count yet."""
        if not self._claims.repeated:
            self._context.take_back(self._claims.repeat())

    def _item(self, event: dict[str, Any]) -> None:
        self.item_usual()
        item = mapping(event.get("item"))
        item_id = identifier(item.get("id"))
        # What is being generated is counted when its response ends.
        if item.get("status") == "in_progress":
            return
        counted = count_item(item)
        self._note(Counted(0, counted.exact))
        if counted.heard and not self._input.length(item_id):
            heard_bytes = self._claims.audio_bytes(item_id)
            heard_ms = heard_bytes / self._input.bytes_per_ms
            if not counted.tokens.total:
                self._context.hear(item_id, self._rate.user_tokens(heard_ms))
                return
            audio = Split(audio=self._rate.user_tokens(heard_ms))
            self._context.add(item_id, counted.tokens.plus(audio))
            return
        self._context.add(item_id, counted.tokens)

    def _deleted(self, event: dict[str, Any]) -> None:
        self._context.delete(identifier(event.get("item_id")))

    def _truncated(self, event: dict[str, Any]) -> None:
        end = seconds(event.get("audio_end_ms"))
        if end is not None:
            tokens = self._rate.assistant_tokens(end)
            self._context.truncate(identifier(event.get("item_id")), tokens)

    def _speech_started(self, event: dict[str, Any]) -> None:
        self._input.start(identifier(event.get("item_id")), event.get("audio_start_ms"))

    def _speech_stopped(self, event: dict[str, Any]) -> None:
        self._input.stop(identifier(event.get("item_id")), event.get("audio_end_ms"))

    def _timeout(self, event: dict[str, Any]) -> None:
        self._speech_started(event)
        self._speech_stopped(event)

    def _committed(self, event: dict[str, Any]) -> None:
        item_id = identifier(event.get("item_id"))
        length = self._input.commit(item_id)
        self._context.hear(item_id, self._rate.user_tokens(length))

    # -- helpers -----------------------------------------------------------------------------

    def _reads(self, asked: Asked | None) -> Split:
        """What a response reads that begins now, as it was ``asked`` for."""
        reads = self._context.total
        if asked is None or asked is PLAINLY:
            return reads
        changed = self._context.overridden(asked.instructions, asked.tools)
        if asked.input is not None:
            reads = self._context.preamble.plus(asked.input)
        return reads.plus(changed).floored()

    def _used(self, output: Output, text_tokens: int) -> Usage:
        """What was read and put out by a response that has written so much."""
        audio_tokens = self._rate.assistant_tokens(output.audio_bytes / output.bytes_per_ms)
        return Usage(*output.input, 0, 0, 0, text_tokens, audio_tokens)

    def _of(self, unit_id: str | None) -> Output | None:
        """The running response that a delta belongs to; the only one if it does not say."""
        if unit_id is None and len(self._open) == 1:
            return next(iter(self._open.values()))
        output = self._open.get(unit_id or "")
        if output is not None and unit_id != self._skimmed:
            self._skim_for(unit_id)
        return output

    def _skim_for(self, unit_id: str | None) -> None:
        """The next deltas are likely to be of this response."""
        self._skimmed = unit_id
        self.skim.unit = None if unit_id is None else unit_id.encode()

    def _learn(
        self,
        output: Output,
        given_ids: Sequence[str | None],
        reported: Usage | None,
        estimate: Usage,
    ) -> None:
        """What a response read and wrote is what the next one reads, and a little more."""
        used = estimate
        if reported is not None and reported:
            used = reported
            read = (used.input_text_tokens, used.input_audio_tokens, used.input_image_tokens)
            self._context.rebase(made_split(read), output.level)
        text, audio = used.output_text_tokens - used.reasoning_tokens, used.output_audio_tokens
        if not text + audio:
            return
        # All of it is put down to the first item, which is the one spoken if any is.
        ids = given_ids or (None,)
        for item_id in ids[1:]:
            self._context.add(item_id, Split(ITEM_TOKENS))
        self._context.add(ids[0], made_split((text + ITEM_TOKENS, audio, 0)))

    def _note(self, counted: Counted) -> None:
        if not counted.exact:
            self.inexact += 1


_Handler = Callable[[Estimator, dict[str, Any]], None]

_ASKED: Final[dict[str, _Handler]] = {
    "session.update": Estimator._ask_session,
    "transcription_session.update": Estimator._ask_session,
    "conversation.item.create": Estimator._ask_item,
    "response.create": Estimator._ask_response,
}

HANDLERS: Final[dict[str, _Handler]] = {
    "session.created": Estimator._session,
    "session.updated": Estimator._session,
    "transcription_session.created": Estimator._session,
    "transcription_session.updated": Estimator._session,
    "input_audio_buffer.speech_started": Estimator._speech_started,
    "input_audio_buffer.speech_stopped": Estimator._speech_stopped,
    "input_audio_buffer.timeout_triggered": Estimator._timeout,
    "input_audio_buffer.committed": Estimator._committed,
    "conversation.item.added": Estimator._item,
    "conversation.item.created": Estimator._item,
    "conversation.item.deleted": Estimator._deleted,
    "conversation.item.truncated": Estimator._truncated,
}
"""What each server type does here; deltas, ``response.created`` and ends of units besides."""
