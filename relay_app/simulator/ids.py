"""Identifiers and padding, shaped like the provider's.

The rule: an id says what it names (``item_``, ``resp_``, ...) and is never given twice.
"""

from secrets import token_hex, token_urlsafe

__all__ = ["new_id", "obfuscation"]

PADDED_CHARACTERS = 16
"""Recorded deltas and their padding are about this long together."""


def new_id(kind: str) -> str:
    """A fresh id such as ``event_4f0c...``: the kind and 21 characters, as recorded."""
    return f"{kind}_{token_hex(11)[:21]}"


def obfuscation(delta: str) -> str:
    """Random padding that hides the length of a text delta from who counts bytes."""
    return token_urlsafe(PADDED_CHARACTERS)[: max(1, PADDED_CHARACTERS - len(delta))]
