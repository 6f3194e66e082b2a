"""Rules for the fields of a session: what a value may be, and what it then becomes.

The rule of rules: a rule returns the value in force and changes nothing, so an update that is
refused halfway has done nothing.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from relay_app.simulator.refusals import invalid, unknown

__all__ = [
    "Rule",
    "anything",
    "between",
    "cleared_to",
    "fixed",
    "merged",
    "of_type",
    "one_of",
]

Rule = Callable[[Any, Any, str], Any]
"""(value in force, value asked, name of the parameter) -> value then in force, or Refusal."""


def cleared_to(default: Any, rule: Rule) -> Rule:
    """Null means ``default``; anything else goes by ``rule``."""

    def apply(current: Any, asked: Any, param: str) -> Any:
        return copy.deepcopy(default) if asked is None else rule(current, asked, param)

    return apply


def anything(current: Any, asked: Any, param: str) -> Any:
    """Whatever the client says."""
    return asked


def fixed(current: Any, asked: Any, param: str) -> Any:
    """Only the value that is there already."""
    if asked != current:
        raise invalid(param, asked, f"{current!r}, which an open session cannot change")
    return current


def of_type(expected: str, *types: type) -> Rule:
    """One of some Python types; a bool is no int."""

    def apply(current: Any, asked: Any, param: str) -> Any:
        if not isinstance(asked, types) or (isinstance(asked, bool) and bool not in types):
            raise invalid(param, asked, expected)
        return asked

    return apply


def one_of(*values: Any) -> Rule:
    """One of some values."""

    def apply(current: Any, asked: Any, param: str) -> Any:
        if asked not in values:
            raise invalid(param, asked, f"one of {', '.join(map(repr, values))}")
        return asked

    return apply


def between(low: float, high: float) -> Rule:
    """A number in a closed range."""

    def apply(current: Any, asked: Any, param: str) -> Any:
        if isinstance(asked, bool) or not isinstance(asked, int | float):
            raise invalid(param, asked, "a number")
        if not low <= asked <= high:
            raise invalid(param, asked, f"a number from {low} to {high}")
        return asked

    return apply


def merged(rules: Mapping[str, Rule]) -> Rule:
    """An object whose fields are merged one by one into the one in force."""

    def apply(current: Any, asked: Any, param: str) -> Any:
        if not isinstance(asked, dict):
            raise invalid(param, asked, "an object")
        result = dict(current or {})
        for key, value in asked.items():
            if key not in rules:
                raise unknown(f"{param}.{key}")
            result[key] = rules[key](result.get(key), value, f"{param}.{key}")
        return result

    return apply
