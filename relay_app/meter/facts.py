"""What the server has said about its session: which models work in it, and on what.

The rule: only server events count. A client may ask for anything; what it got stands in
``session.created`` and ``session.updated``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from relay_app.meter.untrusted import mapping, name

__all__ = ["SessionFacts"]

MAX_AWAITED: Final = 256
"""Commits whose transcription was ordered and has not ended; it follows within seconds."""

MAX_PAST: Final = 32
"""Other commits: of a transcription that comes again, or before its commit."""

EXPECTED_SECONDS: Final = 60.0
"""Nobody waits for a transcription that is later than this. It counts whenever it comes."""

_TEXT_PARTS = frozenset({"input_text", "output_text", "text"})


@dataclass(slots=True)
class _Commit:
    """User audio that became an item: when, how long it is, and for which transcription model.
    ``since`` is when too, by the timer."""

    at: float
    milliseconds: float
    model: str | None
    since: float = float("-inf")


class SessionFacts:
    """The facts of one session, as far as its server has told them.

    ``upstream_model`` is what the upstream was asked for until it names its own: that name is
    the more exact (an alias resolved to a dated model, an Azure deployment to what it runs), and
    it is the one the provider bills. ``text_only`` holds until anything but text was seen, and
    then never again, because what was said stays in the context of later responses. ``timer`` is
    monotonic: nobody is late because a clock was put right.
    """

    __slots__ = ("_awaited", "_modalities", "_past", "_timer", "_transcribes", "text_only",
                 "transcription_model", "upstream_model")  # fmt: skip

    def __init__(self, upstream_model: str, timer: Callable[[], float]) -> None:
        self.upstream_model = upstream_model
        self.transcription_model: str | None = None
        self.text_only = True
        self._timer = timer
        self._modalities: Any = None
        self._transcribes = False
        self._awaited: dict[str, _Commit] = {}
        self._past: dict[str, _Commit] = {}

    def told(self, session: dict[str, Any]) -> None:
        """Take in the ``session`` of a created or updated event, GA or beta in shape.

        A transcription that is switched off keeps its model here: results for what was
        committed before are still to come.
        """
        self.upstream_model = name(session.get("model")) or self.upstream_model
        self._modalities = _modalities(session) or self._modalities
        given = mapping(mapping(session.get("audio")).get("input"))
        ga = given.get("transcription")
        beta = session.get("input_audio_transcription")
        if "transcription" in given or "input_audio_transcription" in session:
            self._transcribes = bool(ga or beta)
        self.transcription_model = (
            name(mapping(ga).get("model"))
            or name(mapping(beta).get("model"))
            or self.transcription_model
        )

    def committed(
        self, item_id: str | None, at: float, milliseconds: float, *, awaited: bool = True
    ) -> None:
        """User audio became an item, to be transcribed by the model in force at that moment.

        Not ``awaited``: its transcription has come already, as it may (xAI).
        """
        self.text_only = False
        if item_id is None or item_id in self._awaited or item_id in self._past:
            return
        commit = _Commit(at, milliseconds, self.transcription_model, self._timer())
        if awaited and self._transcribes:
            _remember(self._awaited, item_id, commit, MAX_AWAITED)
        else:
            _remember(self._past, item_id, commit, MAX_PAST)

    def transcribed(self, item_id: str | None, at: float) -> None:
        """The transcription of an item ended, well or not."""
        if item_id is not None and item_id not in self._past:
            commit = self._awaited.pop(item_id, None)
            commit = commit or _Commit(at, 0.0, self.transcription_model)
            _remember(self._past, item_id, commit, MAX_PAST)

    def awaited(self) -> list[str]:
        """The items whose transcription was ordered and never ended."""
        return list(self._awaited)

    def expected(self) -> list[str]:
        """Those of them that may still come."""
        if not self._awaited:
            return []
        since = self._timer() - EXPECTED_SECONDS
        return [item_id for item_id, commit in self._awaited.items() if commit.since > since]

    def transcription_of(self, item_id: str, now: float) -> tuple[float, float, str | None]:
        """When an item's transcription began, of how many milliseconds of audio, and its model:
        ``now``, none and the present one unless it was committed."""
        commit = self._awaited.get(item_id) or self._past.get(item_id)
        if commit is None:
            return now, 0.0, self.transcription_model
        return commit.at, commit.milliseconds, commit.model or self.transcription_model

    def saw_item(self, item: dict[str, Any]) -> None:
        """An item joined the conversation; calls and their outputs have no content parts."""
        content = item.get("content")
        parts = content if isinstance(content, list) else []
        if any(name(mapping(part).get("type")) not in _TEXT_PARTS for part in parts):
            self.text_only = False

    def only_text(self, response: dict[str, Any]) -> bool:
        """Whether nothing but text can have gone into or come out of ``response``."""
        return self.text_only and (_modalities(response) or self._modalities) == ["text"]


def _remember(commits: dict[str, _Commit], item_id: str, commit: _Commit, most: int) -> None:
    commits[item_id] = commit
    if len(commits) > most:
        del commits[next(iter(commits))]


def _modalities(values: dict[str, Any]) -> Any:
    """``output_modalities`` (GA) or ``modalities`` (beta) of a session or a response."""
    return values.get("output_modalities") or values.get("modalities")
