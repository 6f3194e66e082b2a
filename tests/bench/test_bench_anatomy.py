"""What a session is made of: the relay's worker looks at itself and says so."""

import asyncio
import re

from bench import anatomy
from bench.peers import python as peers


def test_the_memory_of_a_session_is_told_by_part(monkeypatch):
    monkeypatch.setattr(peers, "Process", anatomy._Anatomised)
    said = asyncio.run(anatomy.memory(50))
    parts = dict(re.findall(r"^(.+): (-?[0-9.]+) kB$", said, re.MULTILINE))
    # One a session, of 4.1 kB; but some that saw the first sessions in may be leaving.
    assert float(parts["Python stacks of greenlets, a page each"]) > 3.5
    assert float(parts["C stacks of greenlets, saved"]) > 3
    assert float(parts["objects of relay_app.session"]) > 1
