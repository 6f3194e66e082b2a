from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest
from openai.types.realtime import RealtimeServerEvent
from support.clients import eventually
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from relay_app import codec
from relay_app.simulator import Simulator, background
from relay_app.simulator.faults.arguments import SAID
from relay_app.simulator.scenarios import SCENARIOS, described, scenario_named
from relay_app.simulator.transcript import frames

ASK = codec.dumps({"type": "response.create", "response": {"output_modalities": ["text"]}})
ARGUMENTS = {
    "EVENT": "response.created",
    "BYTES": "2000",
    "MIB": "1",
    "MINUTES": "60",
    "SECONDS": "-5",
}


def test_every_scenario_says_in_a_sentence_what_it_does() -> None:
    for name in SCENARIOS:
        written, sentence = described(name)
        assert written.startswith(name)
        assert sentence.endswith(".")


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_can_be_made_by_its_name(name: str) -> None:
    takes = SCENARIOS[name].takes
    made = scenario_named(f"{name}:{ARGUMENTS[takes]}" if takes else name)
    assert type(made) is SCENARIOS[name]


def test_nothing_goes_wrong_unless_asked() -> None:
    assert type(scenario_named(None)) is SCENARIOS["normal"]


def test_an_unknown_scenario_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'flood'.*normal, refuse-401.*rst-at:EVENT"):
        Simulator(scenario="flood")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("close-at", "as EVENT expected one of session.created, "),
        ("close-at:nothing", "'close-at:nothing': as EVENT expected one of session.created, "),
        ("split:0", "as BYTES expected bytes, 1 to 1.04858e"),
        ("giant:x", "as MIB expected MiB, 1 to 64"),
        ("expire-after:nan", "as MINUTES expected minutes, 0 to 10000"),
        ("refuse-401:x", "refuse-401 takes nothing behind a colon"),
    ],
)
def test_an_argument_that_cannot_be_is_answered_with_what_can(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f".*{message}"):
        scenario_named(name)


def test_events_are_named_as_the_provider_names_them() -> None:
    (union, *_) = get_args(RealtimeServerEvent)
    known = {get_args(kind.model_fields["type"].annotation)[0] for kind in get_args(union)}
    assert set(SAID) <= known


# -- over a connection, where a session is talked through to its end --------------------------


def met(simulator: Simulator, scenario: str) -> Iterator[Any]:
    """What a client hears that asks for an answer, up to and with the end of the connection."""
    with connect(f"{simulator.url}/realtime?model=m&scenario={scenario}", max_size=None) as client:
        with suppress(ConnectionClosed):  # it is over already, and what was said is still there
            client.send(ASK)
        yield from heard(client)


def heard(client: ClientConnection) -> Iterator[Any]:
    kind = ""
    try:
        while kind != "rate_limits.updated":
            message = client.recv(30)
            event = codec.loads(message) if isinstance(message, str) else message
            kind = event["type"] if isinstance(event, dict) else ""
            yield event
    except ConnectionClosed as closed:
        yield closed


def types(events: list[Any]) -> list[str]:
    return [event["type"] for event in events if isinstance(event, dict)]


@pytest.mark.parametrize("scenario", ["normal", "glued-101", "slow-writer", "split:3"])
def test_what_comes_in_an_awkward_way_comes_whole(simulator: Simulator, scenario: str) -> None:
    said = types(list(met(simulator, scenario)))
    assert said[:2] == ["session.created", "response.created"]
    assert said[-2:] == ["response.done", "rate_limits.updated"]


def test_an_event_can_be_missing_or_doubled_in_one_session_alone(simulator: Simulator) -> None:
    assert "response.done" not in types(list(met(simulator, "without:response.done")))
    assert types(list(met(simulator, "twice:response.done"))).count("response.done") == 2
    assert types(list(met(simulator, "normal"))).count("response.done") == 1


def test_a_giant_is_as_large_as_asked(simulator: Simulator) -> None:
    (done,) = [e for e in met(simulator, "giant:2") if e["type"] == "response.done"]
    assert len(codec.dumps(done)) == 2 * 1024 * 1024


@pytest.mark.parametrize(
    ("scenario", "code"),
    [("close-at", 1011), ("garbage-at", 1000), ("error-at", 1011)],
)
def test_an_end_comes_right_behind_the_event(
    simulator: Simulator, scenario: str, code: int
) -> None:
    *events, closed = met(simulator, f"{scenario}:response.created")
    assert types(events)[:2] == ["session.created", "response.created"]
    assert types(events)[2:] == (["error"] if scenario == "error-at" else [])
    assert closed.rcvd.code == code


@pytest.mark.parametrize("scenario", ["hang-up-at", "rst-at", "half-frame-at"])
def test_a_connection_can_end_without_a_close(simulator: Simulator, scenario: str) -> None:
    *events, closed = met(simulator, f"{scenario}:response.created")
    assert types(events) == ["session.created", "response.created"]
    assert closed.rcvd is None
    (spent,) = eventually(lambda: list(simulator.billed), "the response is billed")
    assert spent.status == "dropped"


def test_a_session_expires_when_its_time_is_over(simulator: Simulator) -> None:
    *events, closed = met(simulator, "expire-after:60")  # at once, at the simulator's speed
    assert events[-1]["error"]["code"] == "session_expired"
    assert closed.rcvd.code == 1001


def test_bytes_that_are_no_utf8_break_a_clients_connection(simulator: Simulator) -> None:
    with pytest.raises(ConnectionClosedError, match="1007"):
        raise list(met(simulator, "bad-utf8:session.created"))[-1]


def test_a_clock_can_be_wrong(simulator: Simulator) -> None:
    right = next(met(simulator, "normal"))["session"]["expires_at"]
    wrong = next(met(simulator, "clock:86400"))["session"]["expires_at"]
    assert wrong - right == pytest.approx(86400, abs=60)


def test_a_recording_can_go_wrong_too() -> None:
    path = Path(__file__).parents[1] / "transcripts" / "01-text-turn-ga.jsonl"
    said = [text for direction, _, text in frames(path) if direction == "c2s"]
    recorded = [text for direction, _, text in frames(path) if direction == "s2c"]
    with (
        background(transcript=path, speed=0, scenario="close-at:response.created") as simulator,
        connect(f"{simulator.url}/realtime?model=m", max_size=None) as client,
    ):
        with suppress(ConnectionClosed):
            for text in said:
                client.send(text)
        *events, closed = heard(client)
    assert types(events)[-1] == "response.created"
    assert events == [codec.loads(text) for text in recorded[: len(events)]]
    assert closed.rcvd.code == 1011


def test_a_scenario_may_stand_in_front_of_the_path(simulator: Simulator) -> None:
    url = simulator.url.replace("/v1", "/scenario/close-at:session.created/v1")
    with connect(f"{url}/realtime?model=m") as client:
        *events, closed = heard(client)
    assert types(events) == ["session.created"]
    assert closed.rcvd.code == 1011


def test_a_scenario_in_front_of_the_path_that_nobody_knows_is_refused(
    simulator: Simulator,
) -> None:
    url = simulator.url.replace("/v1", "/scenario/flood/v1")
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{url}/realtime?model=m").close()
    assert refused.value.response.status_code == 400
    error = codec.loads(refused.value.response.body)["error"]
    assert (error["param"], "'flood'" in error["message"]) == ("scenario", True)
