"""What many keys in a store cost a worker: ``python bench/stored_keys.py [KEYS]``.

Prints how long one reading takes, how late the hub is at most meanwhile and without it, and what
the keys take in memory. Thousands of keys take a minute to be made first.
"""

import gc
import hashlib
import sys
import tempfile
import time
import tracemalloc

import gevent

from relay_app.ledger.stored_keys import StoredKeys
from relay_app.ledger.stores import open_store
from relay_app.ledger.stores.keys import StoredKey
from relay_app.settings import Key


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"sqlite:///{folder}/relay.db")
        for n in range(count):
            digest = hashlib.sha256(str(n).encode()).hexdigest()
            store.put_key(StoredKey(Key(f"key-{n}", digest), 1.0), instead_of=None)
        gc.collect()
        gc.freeze()  # as a worker does when it starts
        keys = StoredKeys(store)
        pulse = gevent.spawn(_pulse, late := [0.0])
        keys.start()
        began = time.perf_counter()
        while not keys.has("key-0"):
            gevent.sleep(0.001)
        seconds = time.perf_counter() - began
        keys.stop()
        reading, late[0] = late[0], 0.0
        gevent.sleep(2.0)
        pulse.kill()
        tracemalloc.start()
        held = keys._from_store()
        size = tracemalloc.get_traced_memory()[0] / len(held[0])
        store.close()
    print(f"{count} keys: read in {seconds:.2f} s, {size:.0f} bytes each; the hub was late by")
    print(f"{reading * 1000:.0f} ms at most while reading, {late[0] * 1000:.0f} ms without")


def _pulse(late: list[float]) -> None:
    while True:
        began = time.perf_counter()
        gevent.sleep(0.001)
        late[0] = max(late[0], time.perf_counter() - began - 0.001)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
