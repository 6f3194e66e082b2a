import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_app.web.address import client_address

TRUSTED = ("127.0.0.1/32", "::1/128", "10.0.0.0/8")


def address(peer: str, forwarded: str | None = None, trusted: tuple[str, ...] = TRUSTED) -> str:
    environ = {"REMOTE_ADDR": peer}
    if forwarded is not None:
        environ["HTTP_X_FORWARDED_FOR"] = forwarded
    return client_address(environ, trusted)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", None, "203.0.113.9"),
        ("127.0.0.1", None, "127.0.0.1"),
        ("127.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("::1", "198.51.100.7", "198.51.100.7"),
        ("::1", "2001:db8::7", "2001:db8::7"),
        ("127.0.0.1", "198.51.100.7, 10.1.2.3", "198.51.100.7"),
        ("127.0.0.1", " 198.51.100.7 ,, 10.1.2.3 ,", "198.51.100.7"),
        # What a client wrote stands before what the balancer wrote, and stays unread.
        ("127.0.0.1", "1.1.1.1, 198.51.100.7", "198.51.100.7"),
        ("203.0.113.9", "1.1.1.1", "203.0.113.9"),
        ("203.0.113.9", "10.0.0.1, 127.0.0.1", "203.0.113.9"),
        ("127.0.0.1", "1.1.1.1, unknown, 10.1.2.3", "10.1.2.3"),
        ("127.0.0.1", "unknown", "127.0.0.1"),
        ("127.0.0.1", "_hidden, <script>", "127.0.0.1"),
        ("127.0.0.1", "fe80::1%evil text", "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        # All hosts on the way are trusted: the farthest is the client.
        ("127.0.0.1", "10.0.0.5, 10.0.0.6", "10.0.0.5"),
    ],
)
def test_only_what_trusted_hosts_wrote_is_read(peer, forwarded, client):
    assert address(peer, forwarded) == client


@pytest.mark.parametrize(
    ("entry", "client"),
    [
        ("198.51.100.7:51234", "198.51.100.7"),
        ("[2001:db8::7]:51234", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("2001:DB8:0::7", "2001:db8::7"),
        ("198.51.100.7:", "127.0.0.1"),
        ("999.1.1.1:5", "127.0.0.1"),
    ],
)
def test_balancers_that_write_the_port_too_are_understood(entry, client):
    assert address("127.0.0.1", entry) == client


def test_a_mapped_address_is_the_one_it_maps():
    assert address("::ffff:127.0.0.1", "198.51.100.7") == "198.51.100.7"
    assert address("::ffff:203.0.113.9", "1.1.1.1") == "203.0.113.9"


def test_a_peer_on_a_unix_socket_counts_as_loopback():
    assert address("", "198.51.100.7") == "198.51.100.7"
    assert address("") == "-"
    assert address("", "198.51.100.7", trusted=("10.0.0.0/8",)) == "-"


def test_with_nobody_trusted_the_peer_is_the_client():
    assert address("127.0.0.1", "198.51.100.7", trusted=()) == "127.0.0.1"


@given(st.text(), st.text())
def test_whatever_comes_the_answer_can_be_logged(peer, forwarded):
    shown = address(peer, forwarded)
    assert shown.isprintable()
    assert " " not in shown
    assert len(shown) < 50
