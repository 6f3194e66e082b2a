"""The simulator over real sockets, with the clients that people use."""

import http.client
import json
from base64 import b64encode
from typing import Any

import pytest
from simulator_support import parse, silence, speech
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from relay_app.simulator import Simulator, background

MESSAGE = {
    "type": "message",
    "role": "user",
    "content": [{"type": "input_text", "text": "Hello there"}],
}


def until(connection: Any, type: str) -> list[Any]:
    events = []
    while not events or events[-1].type != type:
        events.append(connection.recv())
    return events


def append(connection: Any, sound: bytes) -> None:
    for start in range(0, len(sound), 4800):
        piece = b64encode(sound[start : start + 4800]).decode()
        connection.input_audio_buffer.append(audio=piece)


def test_the_openai_client_holds_a_text_conversation(client: Any, simulator: Simulator) -> None:
    with client.realtime.connect(model="gpt-realtime") as connection:
        assert connection.recv().type == "session.created"
        connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
        connection.conversation.item.create(item=MESSAGE)
        connection.response.create()
        events = until(connection, "response.done")
        texts = [event.text for event in events if event.type == "response.output_text.done"]
        assert texts == ["You said: Hello there"]
        response = events[-1].response
    (entry,) = simulator.billed
    assert entry.id == response.id
    assert entry.usage["total_tokens"] == response.usage.total_tokens


def test_the_openai_client_talks_and_is_transcribed(client: Any, simulator: Simulator) -> None:
    with client.realtime.connect(model="gpt-realtime") as connection:
        heard = {"transcription": {"model": "gpt-4o-transcribe"}}
        connection.session.update(session={"type": "realtime", "audio": {"input": heard}})
        append(connection, silence(300) + speech(1500) + silence(700))
        events = until(connection, "response.done")
        kinds = {event.type for event in events}
        if "conversation.item.input_audio_transcription.completed" not in kinds:
            until(connection, "conversation.item.input_audio_transcription.completed")
    assert "input_audio_buffer.speech_stopped" in kinds
    assert "response.output_audio.delta" in kinds
    assert sorted(entry.kind for entry in simulator.billed) == ["response", "transcription"]


def test_the_openai_client_calls_a_tool(client: Any) -> None:
    tool = {"type": "function", "name": "get_time", "parameters": {"type": "object"}}
    with client.realtime.connect(model="gpt-realtime") as connection:
        connection.response.create(
            response={"tools": [tool], "tool_choice": "required", "output_modalities": ["text"]}
        )
        call = until(connection, "response.done")[-1].response.output[0]
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "noon"}
        connection.conversation.item.create(item=output)
        connection.response.create(response={"output_modalities": ["text"]})
        answer = until(connection, "response.done")[-1].response.output[0]
    assert answer.content[0].text == "get_time says: noon"


def test_barge_in_stops_the_answer_at_the_real_pace() -> None:
    with (
        background(speed=10) as simulator,
        connect(f"{simulator.url}/realtime?model=m", compression=None, max_size=None) as socket,
    ):

        def send(type: str, **fields: Any) -> None:
            socket.send(json.dumps({"type": type, **fields}))

        def read_until(type: str) -> Any:
            while (event := parse(str(socket.recv(timeout=30)))).type != type:
                pass
            return event

        send("session.update", session={"type": "realtime", "instructions": "for 200 seconds"})
        send("response.create")
        read_until("response.output_audio.delta")
        send("input_audio_buffer.append", audio=b64encode(speech(500)).decode())
        done = read_until("response.done").response
        assert done.status == "cancelled"
        assert done.status_details.reason == "turn_detected"
        assert 5 <= done.usage.output_token_details.audio_tokens < 4000


def test_many_sessions_at_once_do_not_mix(simulator: Simulator) -> None:
    url = f"{simulator.url}/realtime?model=m"
    sockets = [connect(url, compression=None, max_size=None) for _ in range(20)]
    for number, socket in enumerate(sockets):
        content = [{"type": "input_text", "text": f"number {number}"}]
        item = {**MESSAGE, "content": content}
        socket.send(json.dumps({"type": "conversation.item.create", "item": item}))
        asked = {"output_modalities": ["text"]}
        socket.send(json.dumps({"type": "response.create", "response": asked}))
    assert simulator.sessions_open == 20
    for number, socket in enumerate(sockets):
        texts = []
        while not texts or texts[-1]["type"] != "response.done":
            texts.append(json.loads(socket.recv(timeout=30)))
        done = next(event for event in texts if event["type"] == "response.output_text.done")
        assert done["text"] == f"You said: number {number}"
        socket.close()
    assert len(simulator.billed) == 20


def test_a_client_that_reads_late_gets_everything_whole(simulator: Simulator) -> None:
    url = f"{simulator.url}/realtime?model=m"
    with connect(url, compression=None, max_size=None, max_queue=1) as socket:
        asked = {"instructions": "Speak for 150 seconds.", "max_output_tokens": 4096}
        socket.send(json.dumps({"type": "response.create", "response": asked}))
        other = connect(url, compression=None)  # the simulator serves others meanwhile
        assert json.loads(other.recv(timeout=30))["type"] == "session.created"
        other.close()
        audio, event = 0, {"type": ""}
        while event["type"] != "response.done":
            event = json.loads(socket.recv(timeout=30))
            if event["type"] == "response.output_audio.delta":
                audio += len(event["delta"])
    assert audio == 150 * 64_000


def test_the_handshake_is_remembered_as_it_came(simulator: Simulator) -> None:
    connect(
        f"{simulator.url}/realtime?model=gpt-realtime",
        additional_headers={"Authorization": "Bearer sk-1", "OpenAI-Safety-Identifier": "u1"},
    ).close()
    path, headers = simulator.handshakes[-1]
    assert path == "/v1/realtime?model=gpt-realtime"
    assert headers["authorization"] == "Bearer sk-1"
    assert headers["openai-safety-identifier"] == "u1"


@pytest.mark.parametrize(
    "target",
    [
        "/v1/realtime?model=m",
        "/openai/realtime?api-version=2025-04-01-preview&deployment=m",
        "/openai/v1/realtime?model=m",
        "/v1/realtime?intent=transcription",
    ],
)
def test_paths_of_openai_and_azure_are_served(simulator: Simulator, target: str) -> None:
    with connect(simulator.url.removesuffix("/v1") + target) as socket:
        assert parse(str(socket.recv(timeout=30))).type == "session.created"


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/v2/realtime?model=m", 404, None),
        ("/v1/realtime", 400, "missing_model"),
        ("/v1/realtime?model=none", 404, "model_not_found"),
        ("/v1/realtime?intent=transcription&model=m", 400, "invalid_model"),
        ("/v1/realtime?model=m&scenario=refuse-401", 401, "invalid_api_key"),
        ("/v1/realtime?model=m&scenario=refuse-429", 429, "rate_limit_exceeded"),
        ("/v1/realtime?model=m&scenario=unheard-of", 400, None),
    ],
)
def test_refusals_are_http_with_an_openai_body(target: str, status: int, code: str | None) -> None:
    with background(models=["m"]) as simulator:
        with pytest.raises(InvalidStatus) as refused:
            connect(simulator.url.removesuffix("/v1") + target)
        assert simulator.handshakes[-1].path == target
    response = refused.value.response
    assert response.status_code == status
    error = json.loads(response.body)["error"]
    assert set(error) == {"message", "type", "code", "param"}
    assert error["code"] == code


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer right"},
        {"api-key": "right"},
        {"Sec-WebSocket-Protocol": "realtime, openai-insecure-api-key.right"},
    ],
)
def test_the_key_is_demanded_wherever_clients_carry_it(headers: dict[str, str]) -> None:
    with background(api_key="right") as simulator:
        url = f"{simulator.url}/realtime?model=m"
        subprotocols: Any = headers.pop("Sec-WebSocket-Protocol", "").split(", ")
        offered = subprotocols if subprotocols != [""] else None
        with connect(url, additional_headers=headers, subprotocols=offered) as socket:
            assert socket.subprotocol == ("realtime" if offered else None)
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "right"}):
            with pytest.raises(InvalidStatus, match="401"):
                connect(url, additional_headers=wrong)


def test_the_beta_dialect_is_refused_as_openai_does(simulator: Simulator) -> None:
    with connect(
        f"{simulator.url}/realtime?model=m", additional_headers={"OpenAI-Beta": "realtime=v1"}
    ) as socket:
        assert json.loads(socket.recv(timeout=30))["error"]["code"] == "beta_api_shape_disabled"
        with pytest.raises(ConnectionClosed, match="4000"):
            socket.recv(timeout=30)


def get(simulator: Simulator, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(*simulator.address, timeout=30)
    connection.request("GET", path, headers=headers or {})
    response = connection.getresponse()
    try:
        return response.status, json.load(response)
    finally:
        connection.close()


def test_plain_http_is_answered_as_http(simulator: Simulator) -> None:
    assert get(simulator, "/healthz") == (200, {"status": "ok"})
    assert get(simulator, "/v1/realtime?model=m")[0] == 426
    assert get(simulator, "/elsewhere")[0] == 404
    broken = {"Upgrade": "websocket", "Connection": "Upgrade"}
    assert get(simulator, "/v1/realtime?model=m", broken)[0] == 400


def test_pings_are_answered(simulator: Simulator) -> None:
    with connect(f"{simulator.url}/realtime?model=m") as socket:
        assert socket.ping(b"are you there").wait(30)


def test_binary_messages_are_refused_and_big_ones_close_the_session(simulator: Simulator) -> None:
    with connect(f"{simulator.url}/realtime?model=m", compression=None) as socket:
        socket.recv(timeout=30)
        socket.send(b"\x00\x01")
        assert json.loads(socket.recv(timeout=30))["error"]["code"] == "invalid_json"
        socket.send("x" * (24 * 1024 * 1024 + 1))
        with pytest.raises(ConnectionClosed, match="1009"):
            socket.recv(timeout=30)


def test_a_session_that_ends_is_forgotten_and_the_stop_says_goodbye() -> None:
    with background() as simulator:
        url = f"{simulator.url}/realtime?model=m"
        gone = connect(url)
        gone.close()
        staying = connect(url)
        staying.recv(timeout=30)
        assert simulator.sessions_open == 1
    with pytest.raises(ConnectionClosed, match="1001"):
        staying.recv(timeout=30)
    assert simulator.sessions_open == 0
