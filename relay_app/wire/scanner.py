"""The Scanner to use: the compiled one where it was built, its twin in Python elsewhere.

The rule: they give the same answers, and nobody has to know which of them does.
"""

from relay_app.wire import frames

try:
    from relay_app.wire._compiled import Scanner
except ImportError:
    from relay_app.wire.frames import Scanner  # type: ignore[assignment]

__all__ = ["COMPILED", "Scanner"]

COMPILED = Scanner is not frames.Scanner
"""Whether the parts of the relay that can be compiled were."""
