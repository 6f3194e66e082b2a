"""One realtime session as a state machine: client events in, server events out.

Laws:
1. Nothing here waits or knows a socket. Events leave through ``send``; what takes time is a
   script, a generator that emits and yields the milliseconds until its next step, and is
   handed to ``start`` to be run by somebody who has a clock.
2. Between two steps the state is whole, so a client event may come between any two of them.
3. A client event either does all it says or is refused by one ``error`` event.
4. In the default conversation one response runs at a time; ``conversation: "none"`` responses
   run beside it.
"""

from collections.abc import Callable, Iterator
from typing import Any

from relay_app import codec
from relay_app.simulator import replies, usage
from relay_app.simulator.configuration import Configuration, response_overrides
from relay_app.simulator.ids import new_id
from relay_app.simulator.input_audio import InputAudio
from relay_app.simulator.items import Item, Items, parse_item
from relay_app.simulator.refusals import Refusal, invalid, missing
from relay_app.simulator.responses import Response
from relay_app.simulator.transcription import Transcription

__all__ = ["Conversation"]

MAX_RESPONSES = 32
"""Responses that may run at once in a session, the out-of-band ones included."""

Event = dict[str, Any]
Script = Iterator[float]


class Conversation:
    """A session of ``kind`` ``realtime`` or ``transcription``. ``open`` it first.

    ``bill`` is called once for each response and transcription, when it has ended.
    """

    def __init__(
        self,
        model: str,
        *,
        send: Callable[[Event], None],
        start: Callable[[Script], object],
        bill: Callable[[usage.Billed], object],
        now: float,
        kind: str = "realtime",
    ) -> None:
        self.id = new_id("sess")
        self.model = model
        self.kind = kind
        self.items = Items()
        self.configuration = Configuration(kind, self.id, model, now)
        self._conversation_id = new_id("conv")
        self._send = send
        self._start = start
        self._bill = bill
        self._heard = InputAudio(self.emit, self.configuration, self.items, start, self)
        self._active: Response | None = None
        self._responses: dict[str, Response] = {}
        self._last_context: list[usage.Segment] = []
        self._has_spoken = False

    def open(self) -> None:
        """Say hello: ``session.created``."""
        self.emit("session.created", session=self.configuration.view)

    def receive(self, message: str | bytes) -> None:
        """Obey one client message, or refuse it."""
        event_id = None
        try:
            event = _parse(message)
            if isinstance(event.get("event_id"), str):
                event_id = event["event_id"]
            self._handler(event.get("type"))(self, event)
        except Refusal as refusal:
            self.emit("error", error=refusal.error(event_id))

    def close(self) -> None:
        """The session is over: what was generated and not yet reported is billed as dropped."""
        for response in self._responses.values():
            self._charge("response", response.id, self.model, "dropped", response.usage)
        for job in self._heard.transcriptions.values():
            self._charge("transcription", job.item.id, job.model, "dropped", job.usage)
        self._responses.clear()
        self._heard.transcriptions.clear()

    def emit(self, type: str, /, **fields: Any) -> None:
        """Send one server event: type first, then its id, then its fields."""
        self._send({"type": type, "event_id": new_id("event"), **fields})

    def _handler(self, type: Any) -> Callable[["Conversation", Event], None]:
        if type is None:
            raise missing("type")
        handlers = HANDLERS if self.kind == "realtime" else TRANSCRIPTION_HANDLERS
        if not isinstance(type, str) or type not in handlers:
            raise invalid("type", type, f"one of {', '.join(map(repr, handlers))}")
        return handlers[type]

    def _charge(self, kind: Any, id: str, model: str, status: str, spent: Event) -> None:
        self._bill(usage.Billed(kind, id, self.id, model, status, spent))

    # Session

    def _update_session(self, event: Event) -> None:
        before = self.configuration.heard
        self.configuration.update(event.get("session"), voice_is_fixed=self._has_spoken)
        self._heard.reconfigure(before)
        self.emit("session.updated", session=self.configuration.view)

    # Items

    def _create_item(self, event: Event) -> None:
        item = parse_item(event.get("item"), self._heard.format)
        if item.wire["type"] == "function_call_output" and not self.items.has_call(
            item.wire["call_id"]
        ):
            raise Refusal(
                f"Tool call ID '{item.wire['call_id']}' not found in conversation.",
                code="invalid_tool_call_id",
                param="item.call_id",
            )
        after = event.get("previous_item_id")
        if not isinstance(after, str | None):
            raise invalid("previous_item_id", after, "a string")
        self._add_item(item, after)

    def _add_item(self, item: Item, after: str | None = None) -> None:
        before = self.items.add(item, after)
        self.emit("conversation.item.added", previous_item_id=before, item=item.wire)
        self.emit("conversation.item.done", previous_item_id=before, item=item.wire)

    def _retrieve_item(self, event: Event) -> None:
        item = self.items.get(event.get("item_id"), "retrieve")
        self.emit("conversation.item.retrieved", item=item.retrieved())

    def _delete_item(self, event: Event) -> None:
        item = self.items.get(event.get("item_id"), "delete")
        self.items.delete(item.id)
        self.emit("conversation.item.deleted", item_id=item.id)

    def _truncate_item(self, event: Event) -> None:
        item = self.items.get(event.get("item_id"), "truncate")
        for key in ("content_index", "audio_end_ms"):
            if event.get(key) is None:
                raise missing(key)
            if type(event[key]) is not int or event[key] < 0:
                raise invalid(key, event[key], "an integer, 0 or more")
        if event["content_index"] != 0:
            raise invalid("content_index", event["content_index"], "0")
        item.truncate(event["audio_end_ms"])
        self.emit(
            "conversation.item.truncated",
            item_id=item.id,
            content_index=0,
            audio_end_ms=event["audio_end_ms"],
        )

    # Input audio

    def _append_audio(self, event: Event) -> None:
        self._heard.append(event.get("audio"))

    def _commit_audio(self, event: Event) -> None:
        self._heard.commit()

    def _clear_audio(self, event: Event) -> None:
        self._heard.clear()

    def speech_started(self) -> None:
        """Barge-in: the running response is cancelled."""
        if self._active is not None:
            self._active.cancel("turn_detected")

    def turn_ended(self) -> None:
        """Answer the turn, unless a response that was not interrupted is still running."""
        if self.kind == "realtime" and self._active is None:
            self._create_response({})

    def transcribed(self, job: Transcription) -> None:
        """Bill a transcription that is complete."""
        self._charge("transcription", job.item.id, job.model, "completed", job.usage)

    # Responses

    def _create_response(self, event: Event) -> None:
        settings = response_overrides(self.configuration.view, event.get("response"))
        out_of_band = settings.get("conversation", "auto") == "none"
        if self._active is not None and not out_of_band:
            raise Refusal(
                "Conversation already has an active response in progress: "
                f"{self._active.id}. Wait until the response is finished before creating a new "
                "one.",
                code="conversation_already_has_active_response",
            )
        if len(self._responses) >= MAX_RESPONSES:
            raise Refusal(
                f"At most {MAX_RESPONSES} responses can run at once.", code="too_many_responses"
            )
        heard = self._context(settings)
        tools = settings["tools"]
        context = [usage.Segment("instructions", usage.text_tokens(settings["instructions"]))]
        if tools:
            context.append(usage.Segment("tools", usage.text_tokens(codec.dumps(tools))))
        response = Response(
            self.emit,
            settings,
            replies.plan(heard, settings["instructions"], tools, settings["tool_choice"]),
            context=context + [item.segment() for item in heard],
            before=self._last_context,
            items=None if out_of_band else self.items,
            conversation_id=self._conversation_id,
            finished=self._responded,
        )
        self._responses[response.id] = response
        if not out_of_band:
            self._active = response
        self._start(response.script)

    def _context(self, settings: Event) -> list[Item]:
        """The items a response answers: its own input if it has one, else the conversation."""
        if "input" not in settings:
            return list(self.items)
        found = []
        for index, asked in enumerate(settings["input"]):
            place = f"response.input[{index}]"
            if isinstance(asked, dict) and asked.get("type") == "item_reference":
                found.append(self.items.get(asked.get("id"), "retrieve"))
            else:
                found.append(parse_item(asked, self._heard.format, place))
        return found

    def _responded(self, response: Response) -> None:
        del self._responses[response.id]
        self._has_spoken = self._has_spoken or response.spoke
        if response is self._active:
            self._active = None
            self._last_context = response.context_after
        self._charge("response", response.id, self.model, response.status, response.usage)

    def _cancel_response(self, event: Event) -> None:
        asked = event.get("response_id")
        if not isinstance(asked, str | None):
            raise invalid("response_id", asked, "a string")
        response = self._active if asked is None else self._responses.get(asked)
        if response is None:
            raise Refusal(
                "Cancellation failed: no active response found", code="response_cancel_not_active"
            )
        response.cancel("client_cancelled")


def _parse(message: str | bytes) -> Event:
    """A client message as an object. Raises Refusal, for what we could not repeat as well."""
    try:
        event = codec.loads_object(message)
        if "\\u" in str(message):  # an escape may spell half a surrogate pair
            codec.dumps(event).encode()
    except ValueError as error:
        raise Refusal(f"Could not parse the event: {error}.", code="invalid_json") from None
    return event


Handler = Callable[[Conversation, Event], None]
TRANSCRIPTION_HANDLERS: dict[str, Handler] = {
    "session.update": Conversation._update_session,
    "input_audio_buffer.append": Conversation._append_audio,
    "input_audio_buffer.commit": Conversation._commit_audio,
    "input_audio_buffer.clear": Conversation._clear_audio,
    "conversation.item.retrieve": Conversation._retrieve_item,
}
HANDLERS: dict[str, Handler] = {
    **TRANSCRIPTION_HANDLERS,
    "conversation.item.create": Conversation._create_item,
    "conversation.item.delete": Conversation._delete_item,
    "conversation.item.truncate": Conversation._truncate_item,
    "response.create": Conversation._create_response,
    "response.cancel": Conversation._cancel_response,
}
