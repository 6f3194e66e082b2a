"""gunicorn's configuration, and what a worker's life means to its sessions.

Used as ``gunicorn -c python:relay_app.web.gunicorn``, which is what ``relay-app serve`` does, or
imported by a ``gunicorn.conf.py``. It is a configuration file: importing it patches the process
and reads the settings, as nothing else in the package does.
"""

from gevent import monkey

monkey.patch_all()

import gc  # noqa: E402
import importlib  # noqa: E402
import logging  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402

from relay_app import snapshot  # noqa: E402
from relay_app.settings import SettingsError  # noqa: E402
from relay_app.settings_file import settings_from_environment  # noqa: E402
from relay_app.web.preflight import check_doors, check_files  # noqa: E402
from relay_app.web.scratch import Scratch, is_scratch, scratch_place  # noqa: E402
from relay_app.web.served import relay_in  # noqa: E402
from relay_app.web.succession import Succession  # noqa: E402
from relay_app.web.worker import Worker  # noqa: E402

WATCH_SECONDS = 0.2
YOUNG_OBJECTS = 10_000
"""Of which the collector looks for cycles among the new ones, of 700 by default: a session is some
200 objects without any, and looking through them is a twentieth of what it costs to open."""
PUBLISH_ROUNDS = 25
"""Of watching: 5 seconds. While sessions are open the keeper publishes."""
HEAD_SECONDS = 2.0
"""For requests that are under way when a worker stops; who sends slowly may not keep it up."""
SPARE_CONNECTIONS = 100
"""Connections beyond the sessions: health checks, scrapes, refusals."""
FILES_PER_SESSION = 2
SPARE_FILES = 512
"""Of which a journal holds at most 256, and far fewer by rights."""
_METRICS = "PROMETHEUS_MULTIPROC_DIR"

# Who spawned whom, with the stack it was done from: 3 kB a session, and a twentieth of what it
# costs to open. GEVENT_TRACK_GREENLET_TREE=1 has it back for gevent.util's reports.
if "GEVENT_TRACK_GREENLET_TREE" not in os.environ:
    gevent.config.track_greenlet_tree = False
# A log record names its thread, and of a greenlet that name is made for the first line: 2 kB more.
logging.logThreads = False
# Nor is the process of it looked up: the format has neither name nor number of it.
logging.logMultiprocessing = False

try:
    # Workers, which are forked from this process, read what was read here: what has become of a
    # file when one of them has to be replaced counts at the next start or reload, not before.
    with snapshot.taken_anew():
        _settings = settings_from_environment()
        check_files(_settings)
except SettingsError as error:
    # gunicorn would show any other exception with its own traceback around it.
    raise SystemExit(f"Error: {error}") from None

wsgi_app = "relay_app.app:create_app()"
worker_class = "relay_app.web.worker.Worker"
# A head is kept until it is whole, at most 0.5 MB of it.
limit_request_fields = 64
worker_connections = _settings.server.max_sessions + SPARE_CONNECTIONS
graceful_timeout = int(
    _settings.server.drain_seconds + _settings.server.drain_announce_seconds + 10
)
forwarded_allow_ips = ",".join(
    network.removesuffix("/32").removesuffix("/128")
    for network in _settings.server.forwarded_allow_ips
)
# A sign of life every second, by each worker's hub: see relay_app.web.scratch.
_place = scratch_place(_settings.store)
worker_tmp_dir = None if _place is None else str(_place)
# The path without the query: nothing that a client put there belongs in a log.
access_log_format = '%(h)s "%(m)s %(U)s" %(s)s %(L)s'
# gunicorn 27 would open a control socket in the home directory, which a service may not have.
control_socket_disable = True


def ssl_context(config: Any, make: Callable[[], Any]) -> Any:
    """The stock context, but for the handshake, which is left to the worker and its time limit."""
    context = make()
    context.wrap_socket = partial(context.wrap_socket, do_handshake_on_connect=False)
    return context


def on_starting(server: Any) -> None:
    """Before the first worker: room for files, and a folder where workers add up their metrics."""
    if server.cfg.worker_class_str == "sync":
        server.log.warning(
            "sync workers cannot carry WebSocket sessions and answer them 501: use -k gevent"
        )
    _check(server)
    needed = FILES_PER_SESSION * _settings.server.max_sessions + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise SystemExit(
                f"Error: {_settings.source}: {_settings.server.max_sessions} sessions a worker "
                f"need {needed} open files and the hard limit is {hard}: lower "
                f"server.max_sessions, or raise it with "
                f"'ulimit -Hn {needed}' or LimitNOFILE={needed}"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    if _place is not None and not _place.is_dir():
        _place.mkdir(mode=0o700, parents=True)
    # With preload_app prometheus-client was imported by now, and each worker counts for itself.
    ours = _METRICS not in os.environ or is_scratch(os.environ[_METRICS])
    if ours and not server.cfg.preload_app:
        server.relay_scratch = Scratch(_place)
        os.environ[_METRICS] = str(server.relay_scratch.path)


def on_exit(server: Any) -> None:
    """After the last worker."""
    scratch = getattr(server, "relay_scratch", None)
    if scratch is not None:
        scratch.remove()


def when_ready(server: Any) -> None:
    """Says where it listens, in the form that scripts wait for, and guards reloads."""
    server.relay_succession = Succession(server)
    server.handle_hup = partial(_hang_up, server, server.handle_hup)
    for listener in server.LISTENERS:
        address = listener.sock.getsockname()
        if isinstance(address, tuple):
            host = f"[{address[0]}]" if ":" in address[0] else address[0]
            scheme = "https" if server.cfg.is_ssl else "http"
            print(f"ready {scheme}://{host}:{address[1]}", flush=True)
        else:
            print(f"ready unix:{address}", flush=True)


def _check(server: Any) -> None:
    try:
        check_doors(_settings, [a[0] for a in server.cfg.address if isinstance(a, tuple)])
    except SettingsError as error:
        raise SystemExit(f"Error: {error}") from None
    if server.cfg.workers > 1 and _settings.store.url.startswith("memory:"):
        raise SystemExit(
            f"Error: {_settings.source}: store.url: memory:// is one worker's own, and there are "
            f"{server.cfg.workers}: use sqlite:///PATH, or one worker"
        )


def _hang_up(server: Any, reload: Callable[[], None]) -> None:
    """SIGHUP: new settings for master and workers; unusable ones leave everything as it is.

    They are read once, here, and not by the new workers, which would find out one by one.
    """
    try:
        with snapshot.taken_anew():
            importlib.reload(sys.modules[__name__])
            _check(server)
    except SystemExit as error:
        server.log.error("not reloaded: %s", error)
    else:
        reload()


def pre_fork(server: Any, worker: Any) -> None:
    """In the master: a worker whose figures had no place could not start."""
    scratch = getattr(server, "relay_scratch", None)
    if scratch is not None:
        scratch.mend()


def post_fork(server: Any, worker: Any) -> None:
    """Has a worker that cannot boot end itself alone, once one has served."""
    succession = getattr(server, "relay_succession", None)
    if succession is not None:
        succession.guard(worker)


def post_worker_init(worker: Any) -> None:
    """Loads what a session would have to wait for, and watches the worker: no hook of gunicorn's
    runs in a worker that gets SIGTERM."""
    relay = _relay(worker)
    if relay is None:
        return
    relay.load()
    # What is loaded by now stays. Looked through by the collector, it holds the hub for a tenth
    # of a second each time that a thread reads thousands of rows.
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
    announce = relay.settings.server.drain_announce_seconds
    if announce:
        stop: Any = signal.getsignal(signal.SIGTERM)

        def announced(signum: int, frame: Any) -> None:
            relay.announce_drain()
            gevent.spawn_later(announce, stop, signum, frame)

        signal.signal(signal.SIGTERM, announced)
    gevent.spawn(relay.start)  # as a greenlet, and so on the hub of the sessions
    gevent.spawn(_watch, worker, relay)


def _watch(worker: Any, relay: Any) -> None:
    rounds = 0
    while worker.alive:
        gevent.sleep(WATCH_SECONDS)
        rounds += 1
        if rounds % PUBLISH_ROUNDS == 0 and not relay.keeper:
            relay.publish()
    if isinstance(worker, Worker):
        worker.stop_accepting()
        gevent.sleep(WATCH_SECONDS)  # in which those that were accepted are let in
    relay.drain()
    gevent.sleep(HEAD_SECONDS)
    if hasattr(worker, "heads"):
        worker.heads.give_up()


def worker_exit(server: Any, worker: Any) -> None:
    """In a worker's last moments: whatever is still open ends, and every record is written."""
    relay = _relay(worker)
    if relay is not None:
        relay.close()


def child_exit(server: Any, worker: Any) -> None:
    """In the master: a dead worker's gauges no longer count, and what it had counted does."""
    from relay_app.observe.dead_workers import add_up

    if _METRICS not in os.environ:
        return
    try:
        add_up(Path(os.environ[_METRICS]), worker.pid)
    except Exception:  # a figure less is no reason for the master to end
        server.log.exception("what a worker had counted is lost")


def _relay(worker: Any) -> Any:
    return relay_in(getattr(worker, "wsgi", None))
