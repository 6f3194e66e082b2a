"""``relay-app serve``: the relay."""

import os
import sys
from pathlib import Path

import click

from relay_app.commands.options import config_option, one_line_errors, read_settings
from relay_app.settings_file import CONFIG_VARIABLE

__all__ = ["serve"]


@click.command()
@config_option
@click.option("--bind", default="127.0.0.1:8000", show_default=True, metavar="HOST:PORT")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 1024))
@click.option("--access-log", is_flag=True, help="Log every request to standard output.")
def serve(config: Path | None, bind: str, workers: int, access_log: bool) -> None:
    """Run the relay under gunicorn with gevent workers.

    Prints "ready http://HOST:PORT" when it listens.
    """
    from relay_app.web.preflight import check_free, check_settings
    from relay_app.web.scratch import records_place

    with one_line_errors():
        settings = read_settings(config)
        check_settings(settings, [check_free(bind)])
    if config is not None:
        os.environ[CONFIG_VARIABLE] = str(config)
    # What a large report does not fit into memory with; else it would be in /var/tmp or /tmp.
    if (place := records_place(settings.store)) is not None:
        os.environ.setdefault("SQLITE_TMPDIR", str(place))
    options = ["--bind", bind, "--workers", str(workers)]
    if access_log:
        options += ["--access-logfile", "-"]
    gunicorn = [sys.executable, "-m", "gunicorn", "-c", "python:relay_app.web.gunicorn", *options]
    sys.stdout.flush()
    os.execv(sys.executable, gunicorn)
