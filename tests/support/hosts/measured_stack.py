"""The relay alone, with a word on how much of Python's stack each session's greenlet has needed by
the time it waits for its end. One session at a time."""

import sys
from collections.abc import Callable
from inspect import CO_GENERATOR
from types import CodeType, FrameType
from typing import Any

from relay_app.app import create_app
from relay_app.session.ends import Ends
from relay_app.web.worker import Worker

FRAME_WORDS = 9
"""Of each frame of CPython 3.11 to 3.13, beside its variables and its own stack."""


def create() -> Any:
    Worker.handle = measured(Worker.handle)
    return create_app()


def measured(handle: Callable[..., None]) -> Callable[..., None]:
    def handle_and_tell(*args: Any) -> None:
        deepest = at_work = 0

        def look(frame: FrameType, event: str, _: Any) -> None:
            nonlocal deepest, at_work
            if event != "call":
                return
            depth, each = 0, frame
            while each is not None and each.f_code is not handle_and_tell.__code__:
                depth += size(each.f_code)
                each = each.f_back
            deepest = max(deepest, depth)
            if frame.f_code is Ends.wait.__code__:
                at_work = deepest

        sys.setprofile(look)
        try:
            handle(*args)
        finally:
            sys.setprofile(None)
        # Not before: a thread has one profile, and this session takes the next one's away.
        print(f"stack bytes={at_work}", flush=True)

    return handle_and_tell


def size(code: CodeType) -> int:
    if code.co_flags & CO_GENERATOR:
        return 0  # it has its frame with it
    variables = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    return 8 * (len(variables) + code.co_stacksize + FRAME_WORDS)
