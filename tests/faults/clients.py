"""All clients, by name."""

from faults import polite_clients as polite
from faults import rogue_clients as rogue
from faults.life import Life

__all__ = ["CLIENTS"]

_LIVES: tuple[Life, ...] = (
    polite.asks,
    polite.stays,
    polite.hears_speech,
    polite.leaves_amid,
    polite.leaves_before_its_transcript,
    polite.sends_audio,
    polite.sends_audio_and_asks,
    polite.sends_nonsense,
    polite.does_everything,
    rogue.resets_amid,
    rogue.falls_silent,
    rogue.never_reads,
    rogue.never_listens,
    rogue.sends_a_bad_frame,
    rogue.sends_too_much,
    rogue.pings_much,
)
CLIENTS: dict[str, Life] = {life.__name__.replace("_", "-"): life for life in _LIVES}
"""A client's name is that of its function, with hyphens."""
