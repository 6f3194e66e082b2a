"""How a session ends is a table: who was first, and what each side is told."""

import pytest

from relay_app.errors import ClientFault, RelayFault, UpstreamFault
from relay_app.session.lifecycle import Cause, Ending, Farewell, farewells, first_end
from relay_app.wire.frames import Close

BROKEN = ClientFault("the client sent: nonsense", close_code=1002)
NOT_TEXT = ClientFault("the client sent: close reason is not UTF-8", close_code=1007)
TOO_BIG = ClientFault("the client sent: message over 10 bytes", close_code=1009)
UP_BROKEN = UpstreamFault("the upstream sent: nonsense", close_code=1002)
UP_TOO_BIG = UpstreamFault("the upstream sent: message over 10 bytes", close_code=1009)
STALLED = ClientFault("the client read nothing", code="client_stalled", close_code=1013)
UP_STALLED = UpstreamFault("the upstream read nothing", code="upstream_stalled", close_code=1013)
FAILED = RelayFault("the relay failed")
DRAINING = RelayFault("the relay restarts", close_code=1001)
IDLE = ClientFault("no message")

# What each side is told: its close code (0 a reset, None an empty close), whether a reason goes
# with it, and whether an error event precedes it.
Told = tuple[int | None, str, bool]

TABLE: dict[str, tuple[Ending, Told, Told]] = {
    "client closes": (
        Ending(Cause.CLIENT, close=Close(1000, b"bye")),
        (1000, "bye", False),
        (1000, "bye", False),
    ),
    "client closes with a code of its own": (
        Ending(Cause.CLIENT, close=Close(4321, b"x")),
        (4321, "x", False),
        (4321, "x", False),
    ),
    "client closes without a code": (
        Ending(Cause.CLIENT, close=Close(1005)),
        (1005, "", False),
        (1005, "", False),
    ),
    "client vanishes": (
        Ending(Cause.CLIENT, close=Close(1006)),
        (1006, "", False),
        (1011, "the client connection was lost", False),
    ),
    "upstream closes": (
        Ending(Cause.TARGET, close=Close(1001, b"expired")),
        (1001, "expired", False),
        (1001, "expired", False),
    ),
    "upstream closes without a code": (
        Ending(Cause.TARGET, close=Close(1005)),
        (1005, "", False),
        (1005, "", False),
    ),
    "upstream vanishes": (
        Ending(Cause.TARGET, close=Close(1006)),
        (1011, "the upstream connection was lost", True),
        (1006, "", False),
    ),
    "upstream's TLS failed": (
        Ending(Cause.TARGET, close=Close(1015)),
        (1011, "the upstream connection was lost", True),
        (1015, "", False),
    ),
    "client breaks framing": (
        Ending(Cause.FAILURE, fault=BROKEN, offender="client"),
        (1002, BROKEN.message, False),
        (1000, "", False),
    ),
    "client's close reason is not text": (
        Ending(Cause.FAILURE, fault=NOT_TEXT, offender="client"),
        (1007, NOT_TEXT.message, False),
        (1000, "", False),
    ),
    "client too big": (
        Ending(Cause.FAILURE, fault=TOO_BIG, offender="client"),
        (1009, TOO_BIG.message, True),
        (1000, "", False),
    ),
    "client too big in the middle of a message": (
        Ending(Cause.FAILURE, fault=TOO_BIG, offender="client", mid_message=True),
        (1009, TOO_BIG.message, True),
        (1011, TOO_BIG.message, False),
    ),
    "upstream breaks framing": (
        Ending(Cause.FAILURE, fault=UP_BROKEN, offender="target"),
        (1011, UP_BROKEN.message, True),
        (1002, UP_BROKEN.message, False),
    ),
    "upstream too big": (
        Ending(Cause.FAILURE, fault=UP_TOO_BIG, offender="target", mid_message=True),
        (1011, UP_TOO_BIG.message, True),
        (1009, UP_TOO_BIG.message, False),
    ),
    "client stalls": (
        Ending(Cause.FAILURE, fault=STALLED, offender="client"),
        (0, "", False),
        (1013, STALLED.message, False),
    ),
    "upstream stalls": (
        Ending(Cause.FAILURE, fault=UP_STALLED, offender="target"),
        (1013, UP_STALLED.message, True),
        (0, "", False),
    ),
    "we fail": (
        Ending(Cause.FAILURE, fault=FAILED),
        (1011, FAILED.message, True),
        (1011, FAILED.message, False),
    ),
    "we drain": (
        Ending(Cause.CANCEL, fault=DRAINING),
        (1001, DRAINING.message, True),
        (1001, DRAINING.message, False),
    ),
    "it was idle": (
        Ending(Cause.CANCEL, fault=IDLE),
        (1008, IDLE.message, True),
        (1008, IDLE.message, False),
    ),
}


def told(farewell: Farewell) -> Told:
    if farewell.reset:
        assert farewell.close is None
        return 0, "", farewell.event is not None
    assert farewell.close is not None
    return farewell.close.code, farewell.close.reason.decode(), farewell.event is not None


@pytest.mark.parametrize(("ending", "client", "target"), TABLE.values(), ids=TABLE.keys())
def test_each_end_tells_each_side(ending: Ending, client: Told, target: Told) -> None:
    to_client, to_target = farewells(ending)
    assert (told(to_client), told(to_target)) == (client, target)


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
def test_the_target_never_hears_an_event_and_a_mirrored_close_never_follows_one(
    row: tuple[Ending, Told, Told],
) -> None:
    ending, client, target = row
    assert target[2] is False
    if ending.close is not None and ending.close.code not in (1006, 1015):
        assert client[2] is False


def test_the_reason_of_a_close_fits_a_close_frame() -> None:
    fault = RelayFault("é" * 200, close_code=1011)
    to_client, _ = farewells(Ending(Cause.CANCEL, fault=fault))
    assert to_client.close is not None
    assert to_client.close.reason.decode() == "é" * 61


def test_an_event_blames_the_upstream_for_what_the_upstream_did() -> None:
    to_client, _ = farewells(Ending(Cause.FAILURE, fault=UP_BROKEN, offender="target"))
    assert to_client.event is not None
    assert to_client.event.type == "server_error"
    to_client, _ = farewells(Ending(Cause.FAILURE, fault=TOO_BIG, offender="client"))
    assert to_client.event is not None
    assert to_client.event.type == "invalid_request_error"


def test_of_several_ends_client_counts_before_target_before_failure_before_cancel() -> None:
    ends = {
        Cause.CANCEL: Ending(Cause.CANCEL, fault=DRAINING),
        Cause.FAILURE: Ending(Cause.FAILURE, fault=FAILED),
        Cause.TARGET: Ending(Cause.TARGET, close=Close(1000)),
        Cause.CLIENT: Ending(Cause.CLIENT, close=Close(1000)),
    }
    order = []
    while ends:
        order.append(first_end(ends).cause)
        del ends[order[-1]]
    assert order == [Cause.CLIENT, Cause.TARGET, Cause.FAILURE, Cause.CANCEL]


def test_the_code_to_count_is_the_one_that_was_said_or_is_to_be_said() -> None:
    assert Ending(Cause.CLIENT, close=Close(1006)).code == 1006
    assert Ending(Cause.FAILURE, fault=TOO_BIG).code == 1009
    assert Ending(Cause.CANCEL).code == 1011
