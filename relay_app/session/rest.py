"""Rest: for how long a session in which nothing happens needs no look.

The rule: a rest saves work and changes nothing. It begins only when time alone can change what a
look would find, lasts no longer than until that may be, and is over at the first round that finds
that a byte has moved. What it passed over is told to the next look, which makes it good.
"""

from relay_app.wire.link import Link

__all__ = ["Rest"]


class Rest:
    """Of the session between ``client`` and ``target``. ``seconds``: how many the keeper has told
    of and nobody has looked at; ``then``: when it did so last."""

    __slots__ = ("_client", "_from_client", "_from_target", "_most", "_moved", "_target",
                 "_to_client", "_to_target", "_until", "seconds", "then")  # fmt: skip

    def __init__(self, client: Link, target: Link) -> None:
        self.seconds = 0.0
        self.then = 0.0
        self._client = client
        self._target = target
        # Asked in each round of each session, mostly with the processor's caches cold.
        self._from_client, self._to_client = client.scanner, client.out
        self._from_target, self._to_target = target.scanner, target.out
        self._moved = 0
        self._most = self._until = float("-inf")

    def begin(self, most_seconds: float, until: float) -> None:
        """Everybody has been looked at just now: a look is due again when the keeper has told of
        ``most_seconds``, or it is ``until``."""
        if self._client.calm and self._target.calm:
            self._most, self._until = most_seconds, until
            self._moved = self._bytes()

    def lasts(self, elapsed_seconds: float, now: float) -> bool:
        """Whether this round may pass the session over."""
        seconds = self.seconds + elapsed_seconds
        if seconds >= self._most or now >= self._until or self._stirs():
            self.end()
            return False
        self.seconds, self.then = seconds, now
        return True

    def end(self) -> None:
        """There is something to be looked at."""
        self._most = float("-inf")

    def made_good(self) -> None:
        """What was passed over has been taken in."""
        self.seconds = 0.0

    def _stirs(self) -> bool:
        # Who writes and has got rid of no byte yet is seen by the first alone.
        clear = self._to_client.clear and self._to_target.clear
        return not clear or self._bytes() != self._moved

    def _bytes(self) -> int:
        """All that ever moved on either side. None of the four counts shrinks, so that their sum
        stays the same only if all of them do."""
        read = self._from_client.bytes + self._from_target.bytes
        return read + self._to_client.bytes_out + self._to_target.bytes_out
