import json

import pytest

from relay_app.errors import UpstreamFault
from relay_app.meter.message import WholeText
from relay_app.session.debut import MAX_ERROR_BYTES, Debut
from relay_app.session.lifecycle import Cause, Ending
from relay_app.upstream.blame import Blame
from relay_app.wire.frames import Close


class Told(list):
    def __call__(self, due_to: Blame | None, why: str) -> None:
        self.append((due_to, why))


def heard(*events: dict | bytes) -> Told:
    told = Told()
    debut = Debut(told)
    for event in events:
        assert not debut.over
        data = event if isinstance(event, bytes) else json.dumps(event).encode()
        debut.heard(WholeText(data))
    return told


def error(**fields: object) -> dict:
    return {"type": "error", "event_id": "e", "error": fields}


CREATED = {"type": "session.created", "session": {"type": "realtime"}}
QUOTA = error(type="insufficient_quota", code="insufficient_quota", message="no money")


def closed(code: int) -> Ending:
    return Ending(Cause.TARGET, close=Close(code))


def stalled(offender: str) -> Ending:
    fault = UpstreamFault("it read nothing", code="upstream_stalled", close_code=1013)
    return Ending(Cause.FAILURE, fault=fault, offender=offender)


@pytest.mark.parametrize("greetings", [(), (CREATED,), (CREATED, {"type": "conversation.created"})])
def test_an_error_before_anything_but_a_greeting_says_who_is_to_blame(greetings):
    assert heard(*greetings, QUOTA) == [(Blame.KEY, "error_key")]
    assert heard(*greetings, error(type="server_error")) == [(Blame.UPSTREAM, "error_upstream")]


@pytest.mark.parametrize(
    "event", [{"type": "session.updated"}, {"type": "of.tomorrow"}, b"not json", b""]
)
def test_any_other_message_says_that_it_works(event):
    assert heard(CREATED, event) == [(None, "")]


@pytest.mark.parametrize(
    "event",
    [
        error(code=7, type=None),
        error(),
        {"type": "error", "error": "text"},
        {"type": "error"},
        b'{"type":"error", broken}',
        error(code="insufficient_quota", message="x" * MAX_ERROR_BYTES),
    ],
)
def test_an_error_that_does_not_say_blames_nobody(event):
    assert heard(event) == [(Blame.REQUEST, "error_request")]


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (closed(1011), [(Blame.UPSTREAM, "closed_1011")]),
        (closed(1006), [(Blame.UPSTREAM, "closed_1006")]),
        (closed(1008), [(Blame.KEY, "closed_1008")]),
        (closed(1000), []),
        (stalled("target"), [(Blame.UPSTREAM, "closed_1013")]),
        (stalled("client"), []),
        (Ending(Cause.CLIENT, close=Close(1011)), []),
        (Ending(Cause.CANCEL), []),
    ],
)
def test_an_end_before_any_word_says_who_is_to_blame(ending, told):
    said = Told()
    debut = Debut(said)
    debut.ended(ending)
    debut.ended(ending)
    assert said == told


def test_an_end_behind_a_greeting_may_be_the_clients_doing():
    told = Told()
    debut = Debut(told)
    debut.heard(WholeText(json.dumps(CREATED).encode()))
    debut.ended(closed(1011))
    assert told == []
