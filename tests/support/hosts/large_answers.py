"""The relay alone, with an answer larger than any buffer, and half a second to take it."""

from flask import Flask

from relay_app.app import create_app
from relay_app.web import worker

SIZE = 100_000_000


def create() -> Flask:
    worker.ANSWER_SECONDS = 0.5
    app = create_app()
    app.view_functions["relay_app.usage"] = lambda: b"x" * SIZE
    return app
