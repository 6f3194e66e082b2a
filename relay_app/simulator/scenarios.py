"""What the provider does to a session, by name: the place where faults are added.

The rule: a scenario is chosen when the connection is made, for one session, and changes only
what its docstring says. The name goes on the command line, to ``Simulator(scenario=...)`` or
into the query as ``?scenario=NAME``, which wins.
"""

from relay_app.errors import ClientFault
from relay_app.simulator.handshake import Handshake

__all__ = ["SCENARIOS", "Normal", "scenario_named"]


class Normal:
    """Everything goes well."""

    def admit(self, handshake: Handshake) -> None:
        """Called before the 101 and before our own checks. A raised Fault becomes the answer."""


class Refuse401(Normal):
    """The key is refused at the upgrade, whatever it is."""

    def admit(self, handshake: Handshake) -> None:
        """Refuse."""
        raise ClientFault("Incorrect API key provided.", status=401, code="invalid_api_key")


class Refuse429(Normal):
    """The account is over its rate limit at the upgrade; it may come back in a second."""

    def admit(self, handshake: Handshake) -> None:
        """Refuse."""
        raise ClientFault(
            "Rate limit reached for requests. Please try again in 1s.",
            status=429,
            type="requests",
            code="rate_limit_exceeded",
            headers={"Retry-After": "1"},
        )


SCENARIOS: dict[str, type[Normal]] = {
    "normal": Normal,
    "refuse-401": Refuse401,
    "refuse-429": Refuse429,
}


def scenario_named(name: str | None) -> Normal:
    """A new instance of the scenario, ``normal`` if None. ValueError names those there are."""
    if name is None:
        return Normal()
    if name not in SCENARIOS:
        raise ValueError(f"unknown scenario {name!r}; there are: {', '.join(SCENARIOS)}")
    return SCENARIOS[name]()
