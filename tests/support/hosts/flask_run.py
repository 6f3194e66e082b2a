"""The host application under ``flask run``: Werkzeug's threads, nothing patched."""

import logging
import re
import sys
from pathlib import Path

from flask.cli import main


class SayReady(logging.Handler):
    """Prints the line that tests wait for."""

    def emit(self, record: logging.LogRecord) -> None:
        running = re.search(r"Running on (http://[\d.]+:\d+)", record.getMessage())
        if running:
            print(f"ready {running[1]}", flush=True)


logging.getLogger("werkzeug").addHandler(SayReady())
here = Path(__file__).parent / "application.py"
sys.argv = ["flask", "--app", f"{here}:create_host", "run", "--port", "0"]
main()
