from relay_app.wire import express, frames, gate

class Scanner(frames.Scanner): ...

class Express(express.PythonExpress):
    reads: int
    writes: int

class Gate(gate.PythonGate): ...
