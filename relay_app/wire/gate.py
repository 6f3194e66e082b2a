"""Gate: what whoever writes to a Link and an Express that passes by must agree on.

The rule: it is kept by the one who writes in turn, an Outgoing, and who passes by only looks
whether the way is clear and adds what has gone out. It is looked at for every message, so where it
is compiled that takes no call.
"""

__all__ = ["Gate"]


class PythonGate:
    """``clear``: bytes that the kernel takes at once may go out without a turn. ``bytes_out``: how
    many the kernel has taken so far."""

    __slots__ = ("bytes_out", "clear")

    def __init__(self) -> None:
        self.clear = False
        self.bytes_out = 0


try:
    from relay_app.wire._compiled import Gate
except ImportError:
    Gate = PythonGate  # type: ignore[misc,assignment]
