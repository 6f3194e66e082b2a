"""What a session is told that reaches a limit of its key, message by message."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import gevent
import pytest
from limit_support import SECOND, Limited, done, speech, whole

from relay_app.session.guard import Objection
from relay_app.wire.messages import Message


def message(type: str, **fields: Any) -> Message:
    data = whole(type, **fields)
    return Message(True, data, 0, len(data), b"")


class Talk(Limited):
    """The messages of a session, metered and then shown to its guard."""

    def ask(self, **fields: Any) -> Objection | None:
        asked = message("response.create", **fields)
        self.meter.sent(asked)
        return self.guard.asked(asked)

    def hear(self, type: str, **fields: Any) -> Objection | None:
        heard = message(type, **fields)
        self.meter.received(heard)
        return self.guard.heard(heard)

    def begin(self, response_id: str = "resp_1") -> Objection | None:
        return self.hear("response.created", response={"id": response_id})

    def speak(self, seconds: float, response_id: str = "resp_1") -> Objection | None:
        return self.hear(
            "response.output_audio.delta", response_id=response_id, delta=speech(seconds)
        )


@pytest.fixture
def talk() -> Iterator[Any]:
    talks: list[Talk] = []

    def make(**limits: Any) -> Talk:
        talks.append(Talk(**limits))
        return talks[-1]

    yield make
    for each in talks:
        each.close()


def test_an_answer_is_cut_by_the_delta_that_the_budget_has_no_room_for(talk: Any):
    talk = talk(budget_usd=Decimal("0.010"))
    assert talk.ask() is None
    assert talk.begin() is None
    heard = 0.0
    objection = None
    while objection is None:
        objection = talk.speak(0.25)
        heard += 0.25
        gevent.sleep(0.002)
    assert objection.ends
    assert (objection.fault.code, objection.fault.close_code) == ("insufficient_quota", 1008)
    assert abs(heard * SECOND - 10_000) <= SECOND / 2
    assert talk.counts == {"budget": 1}
    assert talk.speak(0.25) is None, "once is enough"


def test_an_answer_in_words_is_cut_within_a_few_of_them(talk: Any):
    talk = talk(budget_usd=Decimal("0.010"))
    talk.begin()
    words = 0
    while talk.hear("response.output_text.delta", response_id="resp_1", delta="word") is None:
        words += 1
        gevent.sleep(0.0005)
    assert abs(words * 16 - 10_000) <= 2 * 16 * 16


def test_a_response_that_does_not_fit_is_not_asked_for(talk: Any):
    talk = talk(budget_usd=Decimal("0.010"))
    talk.hear("session.created", session={"model": "m", "instructions": "word " * 4_000})
    objection = talk.ask()
    assert objection is not None
    assert objection.ends
    assert objection.fault.code == "insufficient_quota"


def test_a_response_with_an_input_of_its_own_is_judged_by_that(talk: Any):
    talk = talk(budget_usd=Decimal("0.010"))
    talk.hear("session.created", session={"model": "m", "instructions": "be brief"})
    item = {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "word " * 4_000}],
    }
    objection = talk.ask(response={"conversation": "none", "input": [item]})
    assert objection is not None


def test_a_response_that_the_server_began_is_cut_if_its_input_does_not_fit(talk: Any):
    talk = talk(budget_usd=Decimal("0.010"))
    talk.hear("session.created", session={"model": "m", "instructions": "word " * 4_000})
    objection = talk.begin()
    if objection is None:  # the store had to be asked first
        talk.look_again()
        objection = talk.guard.look()
    assert objection is not None
    assert objection.ends


def test_what_is_used_up_by_records_alone_is_found_when_looked_at(talk: Any):
    talk = talk(budget_usd=Decimal("0.010"))
    talk.others_use(microusd=9_000)
    assert talk.hear("response.done", **done("resp_1", audio=1_000)) is None
    talk.look_again()
    objection = talk.guard.look()
    assert objection is not None
    assert objection.fault.code == "insufficient_quota"


def test_without_the_store_the_slice_is_used_up_and_no_more(talk: Any):
    talk = talk(budget_usd=Decimal("5.00"))
    talk.store.off = True
    talk.begin()
    assert talk.speak(7.0) is None
    assert talk.speak(2.0) is None
    with gevent.Timeout(5):
        while (objection := talk.guard.look()) is None:
            gevent.sleep(0.01)
    assert objection.ends
    assert (objection.fault.code, objection.fault.close_code) == ("budget_unavailable", 1011)
    assert talk.counts == {"unavailable": 1}


def test_without_the_store_no_response_is_asked_for_that_the_slice_does_not_hold(talk: Any):
    talk = talk(budget_usd=Decimal("5.00"))
    talk.hear("session.created", session={"model": "m", "instructions": "word " * 4_000})
    talk.store.off = True
    assert talk.ask().fault.code == "budget_unavailable"


def test_too_many_tokens_keep_back_a_response_and_not_the_session(talk: Any):
    talk = talk(max_tokens_per_minute=100)
    talk.others_use(tokens=100)
    talk.look_again()
    objection = talk.ask(event_id="evt_7")
    assert objection is not None
    assert not objection.ends
    assert objection.event_id == "evt_7"
    assert (objection.fault.code, objection.fault.status) == ("rate_limit_exceeded", 429)
    assert talk.counts == {"tokens": 1}


def test_a_response_of_the_servers_own_is_refused_when_tokens_are_used_up(talk: Any):
    talk = talk(max_tokens_per_minute=100)
    assert talk.ask() is None
    talk.others_use(tokens=100)
    talk.look_again()
    assert talk.begin("resp_1") is None, "the client was let ask for it"
    objection = talk.begin("resp_2")
    assert objection is not None
    assert (objection.response_id, objection.ends) == ("resp_2", False)


@pytest.mark.parametrize("event_id", [3, "x" * 1000, None])
def test_an_event_id_that_is_none_is_not_repeated(talk: Any, event_id: object):
    talk = talk(max_tokens_per_minute=1)
    talk.others_use(tokens=1)
    talk.look_again()
    assert talk.ask(event_id=event_id).event_id == ""


def test_no_event_id_is_looked_for_in_what_takes_long_to_parse(talk: Any):
    talk = talk(max_tokens_per_minute=1)
    talk.others_use(tokens=1)
    talk.look_again()
    assert talk.ask(event_id="evt_7", pad=[[]] * 20_000).event_id == ""
    assert talk.ask(event_id="evt_7", pad="a" * 300_000).event_id == ""


def test_another_model_that_the_upstream_names_keeps_the_rates_if_it_has_none(talk: Any):
    talk = talk(budget_usd=Decimal("0.010"))
    talk.begin()
    talk.hear("session.updated", session={"model": "something-else"})
    with gevent.Timeout(5):
        while talk.speak(0.5) is None:
            gevent.sleep(0.002)
