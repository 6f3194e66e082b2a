"""Gate: the twins are alike, and an Outgoing is one."""

from typing import Any

import pytest
from wire_support import compiled, those_there

from relay_app.wire.gate import Gate, PythonGate
from relay_app.wire.outgoing import Outgoing

GATES = {"python": PythonGate, "compiled": compiled("Gate")}


@pytest.mark.parametrize("name", those_there(GATES))
def test_it_is_shut_at_first_and_counts(name: str) -> None:
    gate: Any = GATES[name]()
    assert (gate.clear, gate.bytes_out) == (False, 0)
    gate.clear = True
    gate.bytes_out += 1 << 40
    assert (gate.clear, gate.bytes_out) == (True, 1 << 40)


def test_an_outgoing_is_the_one_that_is_built() -> None:
    assert issubclass(Outgoing, Gate)
    assert compiled("Gate") in (Gate, None)
