"""CPython's stack, of which a greenlet keeps the pages that it has ever touched."""

import re
from pathlib import Path

from servers_support import Faces, settings_parts
from support.clients import eventually
from support.relays import relay

PAGE_BYTES = 4_096
BENEATH_BYTES = 24 + 144
"""The head of a stack's first 16 kB, and the frame of gevent's server."""


def test_a_session_gets_to_work_within_a_page_of_it(faces: Faces, tmp_path: Path) -> None:
    with relay(tmp_path, faces.url, server="measured-stack", **settings_parts(faces)) as running:

        def deepest() -> list[int]:
            return [int(found) for found in re.findall(r"stack bytes=(\d+)", running.output)]

        for count in range(1, 4):
            with running.connect("model=echo") as client:
                client.send("hello")
                assert client.recv() == "hello"
            eventually(lambda: len(deepest()) == count, "a word on the stack")  # noqa: B023
    # The first imports what the others find.
    assert max(deepest()[1:]) + BENEATH_BYTES <= PAGE_BYTES
