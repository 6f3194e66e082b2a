"""All targets, by the names of their folders in tests/corpus."""

from fuzz import (
    answers_of,
    errors_of,
    frames_of,
    journal_file,
    messages_of,
    price_file,
    requests_of,
    sessions_of,
    settings_file,
)
from fuzz.target import Target

__all__ = ["TARGETS"]

TARGETS: dict[str, Target] = {
    "frames": frames_of.TARGET,
    "messages": messages_of.TARGET,
    "sessions": sessions_of.TARGET,
    "settings": settings_file.TARGET,
    "journal": journal_file.TARGET,
    "prices": price_file.TARGET,
    "requests": requests_of.TARGET,
    "answers": answers_of.TARGET,
    "errors": errors_of.TARGET,
}
