"""Scenarios: functions with a name, each of which measures one thing about every peer.

The first line of a scenario's docstring is what ``python -m bench --list`` prints.
"""

from bench.scenarios import cpu, latency, sessions, soak
from bench.scenarios.measures import SCENARIOS

__all__ = ["ON_DEMAND", "SCENARIOS", "cpu", "latency", "sessions", "soak"]

ON_DEMAND = {"soak"}
"""What runs only when it is named."""
