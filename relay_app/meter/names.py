"""The event types of the dialects a relay meets, and what metering does with each.

The rule: one flat set a direction for all dialects. Names never clash between them, so nothing
has to find out which dialect a session speaks. A type that is missing here is still forwarded;
it is only counted as opaque.

The names follow OpenAI's SDK types (``openai`` 3.54 for GA, 1.109 for beta), the enums of
``azure-ai-voicelive`` 1.3, recordings of xAI sessions, the ``dashscope`` 2.0 client, the GLM
realtime SDK and vLLM's realtime protocol.
"""

__all__ = ["ASKED", "AUDIO", "CLIENT", "COUNTED", "SERVER", "TEXT_DELTAS"]


def _family(stem: str, *endings: str) -> set[str]:
    return {f"{stem}.{ending}" for ending in endings}


AUDIO = frozenset(
    {
        "input_audio_buffer.append",
        "input_audio.turn.append",  # Voice Live
        "response.output_audio.delta",
        "response.audio.delta",  # beta
    }
)
"""Types whose bulk is base64 audio: over 95 % of the bytes of a voice session."""

COUNTED = frozenset(
    {
        "session.created",
        "session.updated",
        "transcription_session.created",
        "transcription_session.updated",
        "input_audio_buffer.committed",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.timeout_triggered",
        "conversation.item.added",
        "conversation.item.created",  # beta
        "conversation.item.deleted",
        "conversation.item.truncated",
        "conversation.item.input_audio_transcription.completed",
        "conversation.item.input_audio_transcription.failed",
        "response.created",
        "response.done",
        "transcription.done",  # vLLM
    }
)
"""Server types that are parsed: they begin or end a unit, name the model that does the work, or
change what the next response has to read. Eight a spoken turn, four of them for estimates."""

ASKED = frozenset(
    {
        "session.update",
        "transcription_session.update",
        "conversation.item.create",
        "response.create",
    }
)
"""Client types that are parsed, for estimates alone: servers do not repeat all of what they say."""

TEXT_DELTAS = frozenset(
    {
        "response.output_text.delta",
        "response.output_audio_transcript.delta",
        "response.function_call_arguments.delta",
        "response.mcp_call_arguments.delta",
        "response.text.delta",  # beta
        "response.audio_transcript.delta",  # beta
    }
)
"""Types whose length is added up, in case their response never says what it came to."""

CLIENT = frozenset(
    {"session.update", "transcription_session.update"}
    | _family("input_audio_buffer", "append", "commit", "clear", "append_video_frame")
    | _family("conversation.item", "create", "retrieve", "truncate", "delete")
    | _family("response", "create", "cancel")
    | {"output_audio_buffer.clear"}
    # Voice Live
    | {"input_audio.clear", "session.avatar.connect"}
    | _family("input_audio.turn", "start", "append", "end", "cancel")
    | _family("input_text", "delta", "done")
    # Qwen
    | {"input_image_buffer.append", "session.finish"}
)
"""Every client event type known."""

SERVER = frozenset(
    COUNTED
    | {"error", "rate_limits.updated", "conversation.created"}
    | _family("conversation.item", "done", "retrieved", "deleted", "truncated")
    | _family("conversation.item.input_audio_transcription", "delta", "failed", "segment")
    | _family("input_audio_buffer", "cleared", "speech_started", "speech_stopped")
    | _family("input_audio_buffer", "timeout_triggered", "dtmf_event_received")
    | _family("output_audio_buffer", "started", "stopped", "cleared")
    | _family("response.output_item", "added", "done")
    | _family("response.content_part", "added", "done")
    | _family("response.output_text", "delta", "done")
    | _family("response.output_audio", "delta", "done")
    | _family("response.output_audio_transcript", "delta", "done")
    | _family("response.function_call_arguments", "delta", "done")
    | _family("response.mcp_call_arguments", "delta", "done")
    | _family("response.mcp_call", "in_progress", "completed", "failed")
    | _family("mcp_list_tools", "in_progress", "completed", "failed")
    # beta
    | _family("response.text", "delta", "done")
    | _family("response.audio", "delta", "done")
    | _family("response.audio_transcript", "delta", "done")
    # xAI
    | {"ping", "conversation.item.input_audio_transcription.updated"}
    # Voice Live
    | {"warning", "response.video.delta", "response.invocation.delta"}
    | {"response.audio_transcript.annotation.added"}
    | _family("response.animation_blendshapes", "delta", "done")
    | _family("response.animation_viseme", "delta", "done")
    | _family("response.audio_timestamp", "delta", "done")
    | _family("response.file_search_call", "in_progress", "searching", "completed")
    | _family("response.web_search_call", "in_progress", "searching", "completed")
    | _family("session.avatar", "connecting", "switch_to_idle", "switch_to_speaking")
    # Qwen, GLM, vLLM
    | {"session.finished", "response.text.text"}
    | {"conversation.item.input_audio_transcription.text"}
    | {"response.function_call.simple_browser", "transcription.delta"}
)
"""Every server event type known."""
