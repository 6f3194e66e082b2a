"""What the provider does to a session, by name.

The rule: a scenario is chosen when the connection is made, for one session, and changes only
what its docstring says. Its name goes on the command line, to ``Simulator(scenario=...)``, into
the query as ``?scenario=NAME``, or, for a relay, whose base URL takes no query, in front of the
path: ``/scenario/NAME/v1/realtime``. Some take an argument: ``close-at:response.done``.
"""

from relay_app.simulator.faults import delivery, door, endings, sayings
from relay_app.simulator.faults.normal import Normal

__all__ = ["SCENARIOS", "described", "scenario_named"]

SCENARIOS: dict[str, type[Normal]] = {
    "normal": Normal,
    "refuse-401": door.Refuses401,
    "refuse-403": door.Refuses403,
    "refuse-404": door.Refuses404,
    "refuse-429": door.Refuses429,
    "refuse-500": door.Refuses500,
    "refuse-503": door.Refuses503,
    "silent-after-tcp": door.Silent,
    "endless-head": door.DripsHead,
    "hang-up-after-tcp": door.HangsUp,
    "rst-after-tcp": door.Resets,
    "no-http": door.NoHttp,
    "wrong-accept": door.WrongAccept,
    "accept-then-error": endings.AcceptsThenErrs,
    "silent-after-101": endings.SilentAfter101,
    "mute-after-101": endings.MuteAfter101,
    "glued-101": delivery.Glued,
    "slow-writer": delivery.SlowWriter,
    "slow-reader": delivery.SlowReader,
    "split": delivery.Split,
    "giant": delivery.Giant,
    "bad-utf8": sayings.BadUtf8,
    "bad-json": sayings.BadJson,
    "binary": sayings.Binary,
    "without": sayings.Without,
    "twice": sayings.Twice,
    "usage-null": sayings.UsageNull,
    "usage-missing": sayings.UsageMissing,
    "usage-zero": sayings.UsageZero,
    "usage-on-frame": sayings.UsageOnFrame,
    "rate-limited": sayings.RateLimited,
    "clock": sayings.Clock,
    "close-at": endings.CloseAt,
    "hang-up-at": endings.HangUpAt,
    "rst-at": endings.RstAt,
    "half-frame-at": endings.HalfFrameAt,
    "bad-frame-at": endings.BadFrameAt,
    "garbage-at": endings.GarbageAt,
    "error-at": endings.ErrorAt,
    "mute-at": endings.MuteAt,
    "half-open-at": endings.HalfOpenAt,
    "expire-after": endings.ExpireAfter,
}


def scenario_named(name: str | None) -> Normal:
    """A new instance of the scenario, ``normal`` if None. Raises ValueError, which names what
    there is, or what its argument may be."""
    if name is None:
        return Normal()
    known, colon, argument = name.partition(":")
    kind = SCENARIOS.get(known)
    if kind is None:
        there_are = ", ".join(_written(known) for known in SCENARIOS)
        raise ValueError(f"unknown scenario {name!r}; there are: {there_are}")
    if colon and not kind.takes:
        raise ValueError(f"scenario {name!r}: {known} takes nothing behind a colon")
    try:
        return kind(argument)
    except ValueError as error:
        raise ValueError(f"scenario {name!r}: as {kind.takes} expected {error}") from None


def described(name: str) -> tuple[str, str]:
    """How a scenario is written, and its one sentence. ``name`` is a key of ``SCENARIOS``."""
    return _written(name), " ".join((SCENARIOS[name].__doc__ or "").split())


def _written(name: str) -> str:
    takes = SCENARIOS[name].takes
    return f"{name}:{takes}" if takes else name
