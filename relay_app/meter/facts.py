"""What the server has said about its session: which models work in it, and on what.

The rule: only server events count. A client may ask for anything; what it got stands in
``session.created`` and ``session.updated``.
"""

from dataclasses import dataclass
from typing import Any, Final

from relay_app.meter.untrusted import mapping, name

__all__ = ["SessionFacts"]

MAX_COMMITS: Final = 1024
"""Commits remembered while their transcription is awaited; it follows within seconds."""

EXPECTED_SECONDS: Final = 60.0
"""Nobody waits for a transcription that is later than this. It counts whenever it comes."""

_TEXT_PARTS = frozenset({"input_text", "output_text", "text"})


@dataclass(slots=True)
class _Commit:
    """User audio that became an item: when, for which model, and whether that one still works."""

    at: float
    model: str | None
    awaited: bool


class SessionFacts:
    """The facts of one session, as far as its server has told them.

    ``upstream_model`` is what the upstream was asked for until it names its own: that name is
    the more exact (an alias resolved to a dated model, an Azure deployment to what it runs), and
    it is the one the provider bills. ``text_only`` holds until anything but text was seen, and
    then never again, because what was said stays in the context of later responses.
    """

    __slots__ = ("_commits", "_modalities", "_transcribes", "text_only", "transcription_model",
                 "upstream_model")  # fmt: skip

    def __init__(self, upstream_model: str) -> None:
        self.upstream_model = upstream_model
        self.transcription_model: str | None = None
        self.text_only = True
        self._modalities: Any = None
        self._transcribes = False
        self._commits: dict[str, _Commit] = {}

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

    def committed(self, item_id: str | None, at: float, *, awaited: bool = True) -> None:
        """User audio became an item, to be transcribed by the model in force at that moment.

        Not ``awaited``: its transcription has come already, as it may (xAI).
        """
        self.text_only = False
        self._remember(
            item_id, _Commit(at, self.transcription_model, awaited and self._transcribes)
        )

    def transcribed(self, item_id: str | None, at: float) -> None:
        """The transcription of an item ended, well or not."""
        self._remember(item_id, _Commit(at, self.transcription_model, False))
        if item_id is not None:
            self._commits[item_id].awaited = False

    def awaited(self) -> list[str]:
        """The items whose transcription was ordered and never ended."""
        return [item_id for item_id, commit in self._commits.items() if commit.awaited]

    def expected(self, now: float) -> list[str]:
        """Those of them that may still come."""
        since = now - EXPECTED_SECONDS
        return [i for i, commit in self._commits.items() if commit.awaited and commit.at > since]

    def transcription_of(self, item_id: str, now: float) -> tuple[float, str | None]:
        """When an item's transcription began, and its model: ``now``'s unless it was committed."""
        commit = self._commits.get(item_id)
        if commit is None:
            return now, self.transcription_model
        return commit.at, commit.model or self.transcription_model

    def _remember(self, item_id: str | None, commit: _Commit) -> None:
        if item_id is not None and item_id not in self._commits:
            self._commits[item_id] = commit
            if len(self._commits) > MAX_COMMITS:
                del self._commits[next(iter(self._commits))]

    def saw_item(self, item: dict[str, Any]) -> None:
        """An item joined the conversation; calls and their outputs have no content parts."""
        content = item.get("content")
        parts = content if isinstance(content, list) else []
        if any(name(mapping(part).get("type")) not in _TEXT_PARTS for part in parts):
            self.text_only = False

    def only_text(self, response: dict[str, Any]) -> bool:
        """Whether nothing but text can have gone into or come out of ``response``."""
        return self.text_only and (_modalities(response) or self._modalities) == ["text"]


def _modalities(values: dict[str, Any]) -> Any:
    """``output_modalities`` (GA) or ``modalities`` (beta) of a session or a response."""
    return values.get("output_modalities") or values.get("modalities")
