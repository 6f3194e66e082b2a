"""Values: frozen dataclasses and named tuples that take less to make.

The rule: nothing but the time differs. ``dataclass`` lets ``object`` look up each field of a frozen
class by its name, whenever one is made; here the slots are found once. And a named tuple is made by
a function of Python's around the one of C that is here alone.
"""

from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import partial, update_wrapper
from typing import Any, TypeVar

__all__ = ["maker", "quickly_made"]

_T = TypeVar("_T")


def maker(cls: type[_T]) -> Callable[[tuple[Any, ...]], _T]:
    """What makes one of ``cls``, a named tuple, of a tuple of all its fields."""
    return partial(tuple.__new__, cls)  # type: ignore[type-var]  # a tuple


def quickly_made(cls: type[_T]) -> type[_T]:
    """``cls``, a frozen dataclass with slots and without factories, with a faster ``__init__``."""
    given = fields(cls)  # type: ignore[arg-type]  # a dataclass
    assert all(f.init and not f.kw_only and f.default_factory is MISSING for f in given)
    names = [f.name for f in given]
    setters: dict[str, Any] = {f"set_{name}": getattr(cls, name).__set__ for name in names}
    body = "; ".join(f"set_{name}(self, {name})" for name in names)
    # As dataclass does: a signature can only be written.
    exec(f"def __init__(self, {', '.join(names)}): {body}", setters)  # noqa: S102
    usual: Any = cls.__init__
    init: Any = update_wrapper(setters.pop("__init__"), usual)
    init.__defaults__ = usual.__defaults__
    cls.__init__ = init  # type: ignore[method-assign]
    return cls
