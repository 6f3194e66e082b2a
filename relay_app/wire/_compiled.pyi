from collections.abc import Callable
from typing import Any

from relay_app.wire import express, frames, gate

class Scanner(frames.Scanner): ...

class Express(express.PythonExpress):
    reads: int
    writes: int

class Gate(gate.PythonGate): ...

class Lookout:
    loop: Any
    backend: int
    lingered: int

    def __init__(self, loop: Any, linger_seconds: float) -> None: ...
    def __call__(self, descriptor: int, /) -> None: ...
    def watch(
        self, descriptor: int, express: object, wake: Callable[[Any], None], waiter: object, /
    ) -> bool: ...
    def unwatch(self, descriptor: int, waiter: object, /) -> None: ...
