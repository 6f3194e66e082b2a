from relay_app.wire import express, frames

class Scanner(frames.Scanner): ...

class Express(express.PythonExpress):
    reads: int
    writes: int
