"""``relay-app simulate``: the simulator as a process.

The rule: ``ready http://HOST:PORT`` is printed, and flushed, only once connections are
accepted; SIGTERM and SIGINT close every session and end the process.
"""

import signal
from pathlib import Path

import gevent
from gevent.event import Event

from relay_app.simulator.server import Simulator

__all__ = ["parse_bind", "run"]


def parse_bind(bind: str) -> tuple[str, int]:
    """``HOST:PORT`` as a pair; ``[::1]:0`` for IPv6. Raises ValueError."""
    host, colon, port = bind.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"cannot bind to {bind!r}: expected HOST:PORT, such as 127.0.0.1:0")
    return host, int(port)


def run(
    bind: str,
    *,
    scenario: str | None = None,
    transcript: Path | str | None = None,
    speed: float = 1.0,
    api_key: str | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises ValueError, with a message for the user, for a bind, scenario, transcript or speed
    that cannot be.
    """
    simulator = Simulator(
        parse_bind(bind),
        scenario=scenario,
        transcript=Path(transcript) if transcript is not None else None,
        speed=speed,
        api_key=api_key,
    )
    try:
        simulator.start()
    except OSError as error:
        raise ValueError(f"cannot bind to {bind!r}: {error.strerror or error}") from None
    stopping = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stopping.set)
    host, port = simulator.address
    shown = f"[{host}]" if ":" in host else host
    print(f"ready http://{shown}:{port}", flush=True)
    stopping.wait()
    simulator.stop()
