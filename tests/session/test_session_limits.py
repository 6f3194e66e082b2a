"""A session that reaches a limit of its key: what each side is told, and what is recorded."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import gevent
import pytest
from limit_support import SECOND, Limited, done, speech
from session_support import SetStage, Stage, until

Begin = Any


@pytest.fixture
def begin(stage: SetStage) -> Iterator[Begin]:
    """A session of a key with limits, and those limits."""
    made: list[Limited] = []

    def set_(**limits: Any) -> tuple[Stage, Limited]:
        limited = Limited(**limits)
        made.append(limited)
        return stage(meter=limited.meter, guard=limited.guard), limited

    yield set_
    for each in made:
        each.close()


def refusal(stage: Stage) -> dict[str, Any]:
    event = stage.client.told()
    assert event["type"] == "error", event
    error: dict[str, Any] = event["error"]
    return error


def closes(stage: Stage, code: int) -> None:
    stage.tick()
    assert stage.client.part()[0] == code
    stage.target.part()
    stage.ended()


def speak_until_cancelled(stage: Stage, response_id: str, seconds: float = 0.25) -> float:
    """Speaks as a provider does until it is told to stop; returns the seconds it spoke."""
    told = gevent.spawn(stage.target.told)
    spoken = 0.0
    while not told.ready():
        stage.target.say(
            "response.output_audio.delta", response_id=response_id, delta=speech(seconds)
        )
        spoken += seconds
        assert stage.client.told()["type"] == "response.output_audio.delta"
        gevent.sleep(0.005)
    cancel = told.get()
    assert (cancel["type"], cancel["response_id"]) == ("response.cancel", response_id)
    return spoken


def test_an_answer_is_cut_at_the_limit_collected_and_recorded(begin: Begin):
    stage, limited = begin(budget_usd=Decimal("0.010"))
    stage.client.say("response.create")
    assert stage.target.told()["type"] == "response.create"
    stage.target.say("response.created", response={"id": "resp_1"})
    assert stage.client.told()["type"] == "response.created"
    spoken = speak_until_cancelled(stage, "resp_1")
    assert abs(spoken * SECOND - 10_000) <= SECOND, "within a second of audio"
    stage.target.say("response.done", **done("resp_1", audio=int(spoken * 20), status="cancelled"))
    assert stage.client.told()["type"] == "response.done", "the client hears what it came to"
    until(lambda: not stage.meter.responses_open)
    stage.tick()
    error = refusal(stage)
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    closes(stage, 1008)
    [record] = stage.recorded
    assert (record.status, record.source) == ("cancelled", "reported")
    assert record.cost_usd is not None
    assert abs(record.cost_usd - Decimal("0.010")) <= Decimal(SECOND).scaleb(-6)
    assert limited.allowance._charges.of("") == record.cost_usd.scaleb(6)


def test_a_response_that_does_not_fit_never_goes_upstream(begin: Begin):
    stage, _ = begin(budget_usd=Decimal("0.010"))
    stage.target.say("session.created", session={"model": "m", "instructions": "word " * 4_000})
    stage.client.told()
    stage.client.say("response.create")
    until(lambda: stage.session._collector.begun)
    stage.tick()
    assert refusal(stage)["code"] == "insufficient_quota"
    assert stage.target.part()[0] == 1008
    assert stage.client.part()[0] == 1008
    stage.ended()


def test_a_response_that_the_server_began_is_cancelled_at_once(begin: Begin):
    stage, limited = begin(budget_usd=Decimal("0.010"))
    limited.look_again()
    limited.others_use(microusd=9_990)
    limited.look_again()
    stage.target.say("session.created", session={"model": "m", "instructions": "word " * 40})
    stage.client.told()
    stage.target.say("response.created", response={"id": "resp_1"})
    assert stage.client.told()["type"] == "response.created"
    assert stage.target.told()["response_id"] == "resp_1"
    stage.target.say("response.done", **done("resp_1", text=0, status="cancelled"))
    assert stage.client.told()["type"] == "response.done"
    until(lambda: not stage.meter.responses_open)
    stage.tick()
    assert refusal(stage)["code"] == "insufficient_quota"
    closes(stage, 1008)


def test_a_session_whose_slice_is_used_up_without_a_store_ends_with_1011(begin: Begin):
    stage, limited = begin(budget_usd=Decimal("5.00"))
    limited.store.off = True
    stage.target.say("response.created", response={"id": "resp_1"})
    stage.client.told()
    spoken = speak_until_cancelled(stage, "resp_1", seconds=0.05)
    assert spoken * SECOND > 10_000, "not before its slice was used"
    stage.target.say("response.done", **done("resp_1", audio=100, status="cancelled"))
    assert stage.client.told()["type"] == "response.done"
    until(lambda: not stage.meter.responses_open)
    stage.tick()
    assert refusal(stage)["code"] == "budget_unavailable"
    closes(stage, 1011)


def test_too_many_tokens_keep_back_a_response_and_the_session_goes_on(begin: Begin):
    stage, limited = begin(max_tokens_per_minute=100)
    limited.others_use(tokens=100)
    limited.look_again()
    stage.client.say("response.create", event_id="evt_7")
    error = refusal(stage)
    assert (error["code"], error["event_id"]) == ("rate_limit_exceeded", "evt_7")
    limited.store._seconds.clear()
    limited.look_again()
    stage.client.say("response.create", event_id="evt_8")
    assert stage.target.told()["event_id"] == "evt_8", "and not the one before"


def test_too_many_tokens_cancel_a_response_of_the_servers_own(begin: Begin):
    stage, limited = begin(max_tokens_per_minute=100)
    limited.others_use(tokens=100)
    limited.look_again()
    stage.target.say("response.created", response={"id": "resp_1"})
    heard = [stage.client.told(), stage.client.told()]
    assert {event["type"] for event in heard} == {"response.created", "error"}
    cancel = stage.target.told()
    assert (cancel["type"], cancel["response_id"]) == ("response.cancel", "resp_1")
    error = {"type": "cancel_failed", "event_id": cancel["event_id"]}
    stage.target.say("response.done", **done("resp_1", status="cancelled"))
    stage.target.say("error", error=error)
    stage.target.say("session.updated")
    heard = [stage.client.told(), stage.client.told()]
    assert [event["type"] for event in heard] == ["response.done", "session.updated"], (
        "what our cancel provoked is none of the client's"
    )


def test_a_budget_that_is_used_up_while_nothing_is_said_ends_the_session(begin: Begin):
    stage, limited = begin(budget_usd=Decimal("0.010"))
    stage.target.say("response.created", response={"id": "resp_1"})
    stage.client.told()
    stage.target.say("response.done", **done("resp_1", audio=1_000))
    stage.client.told()
    stage.tick()
    limited.look_again()
    stage.tick()
    assert refusal(stage)["code"] == "insufficient_quota"
    closes(stage, 1008)


def test_a_session_with_limits_is_visited_in_each_round_and_one_without_may_rest(
    begin: Begin, stage: SetStage
) -> None:
    limited, _ = begin(budget_usd=Decimal("1"))
    assert limited.session.rest is None
    assert stage().session.rest is not None
