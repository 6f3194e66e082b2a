"""The relay alone, on a wall clock that a test can set: ``POST /clock?ahead=SECONDS``.

It is a program, which runs gunicorn with its arguments, because the clock has to be there before
anything of the relay's asks what time it is.
"""

import sys
import time

from flask import Flask, request

_true = time.time
_ahead = 0.0


def _shown() -> float:
    return _true() + _ahead


def install() -> None:
    time.time = _shown


def create() -> Flask:
    from relay_app.app import create_app

    app = create_app()

    @app.post("/clock")
    def set_clock() -> str:
        global _ahead
        _ahead = float(request.args["ahead"])
        return ""

    return app


if __name__ == "__main__":
    import jumping_clock  # this file once more, as the module that gunicorn finds

    jumping_clock.install()
    from gunicorn.app.wsgiapp import run

    sys.exit(run())
