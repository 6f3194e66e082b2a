"""After all of that: what a server has written, by the time it has seen everything.

pytest runs the modules of one server in the order of their names; this one is the last.
"""

from support.relays import RelayProcess
from support.secrets import KEY, PROVIDER_KEY


def test_nothing_it_wrote_shows_a_traceback(server: RelayProcess):
    assert "Traceback" not in server.output
    assert "ResourceWarning" not in server.output


def test_nothing_it_wrote_shows_a_key(server: RelayProcess):
    assert KEY not in server.output
    assert PROVIDER_KEY not in server.output
