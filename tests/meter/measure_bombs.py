"""What messages that are made to be slow cost a meter, and what parsing them would.

    python tests/meter/measure_bombs.py [MB]

prints milliseconds of CPU for each of a server's, the best of three.
"""

import sys
import time

from test_meter_bombs import BOMBS, MB, plain_seconds, seconds, server

from relay_app import codec
from relay_app.meter import vocabulary


def parsing_seconds(payload: bytes) -> float:
    """What it would take to parse it; most bombs are no whole JSON, and fail at their end."""
    begun = time.process_time()
    try:
        codec.loads(payload)
    except ValueError:
        pass
    return time.process_time() - begun


def main() -> None:
    vocabulary.load()
    size = int(float(sys.argv[1]) * MB) if len(sys.argv) > 1 else 16 * MB
    print(f"{'':28} {'metered':>8} {'parsed':>8}  ms for {size} bytes")
    print(f"{'plain words':28} {plain_seconds(size, sent=False) * 1e3:8.1f}")
    for name, make in BOMBS.items():
        payload = server(make(size))
        metered = seconds(payload, sent=False)
        print(f"{name:28} {metered * 1e3:8.1f} {parsing_seconds(payload) * 1e3:8.1f}")


if __name__ == "__main__":
    main()
