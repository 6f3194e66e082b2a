"""A provider that reports nothing, or hangs up: the bill is an estimate, and says so."""

import json
import subprocess
import urllib.request

from support.processes import python
from support.relays import relay, write_settings
from support.upstreams import upstream
from websockets.exceptions import ConnectionClosed

SECOND = "A" * 64_000
"""A second of PCM16 in base64."""


def silent(connection):
    """Two responses without usage, one with, and one that never ends."""
    send = lambda values: connection.send(json.dumps(values))  # noqa: E731
    send({"type": "session.created", "session": {"instructions": "Reply in a few words."}})
    connection.recv()
    send({"type": "input_audio_buffer.committed", "item_id": "item_1"})
    for number, usage in enumerate([None, {}, {"input_tokens": 24, "output_tokens": 31,
        "input_token_details": {"text_tokens": 14, "audio_tokens": 10},
        "output_token_details": {"text_tokens": 11, "audio_tokens": 20}}]):  # fmt: skip
        response_id = f"resp_{number}"
        content = [{"type": "output_audio", "transcript": "Hello there!"}]
        response = {"id": response_id, "conversation_id": None}
        send({"type": "response.created", "response": response})
        delta = {"type": "response.output_audio.delta", "response_id": response_id}
        send(delta | {"delta": SECOND})
        output = [{"type": "message", "content": content}]
        ended = {"status": "completed", "output": output, "usage": usage}
        send({"type": "response.done", "response": response | ended})
    send({"type": "response.created", "response": {"id": "resp_3"}})
    send({"type": "response.output_audio.delta", "response_id": "resp_3", "delta": SECOND})
    connection.recv()
    connection.close()


def test_unreported_responses_are_billed_by_estimate(tmp_path):
    with upstream(silent) as base_url, relay(tmp_path, base_url) as running:
        with running.connect() as client:
            client.send(json.dumps({"type": "input_audio_buffer.append", "audio": SECOND}))
            while "resp_3" not in client.recv() or "output_audio.delta" not in client.recv():
                pass
            client.send(json.dumps({"type": "response.cancel"}))
            try:
                while True:
                    client.recv()
            except ConnectionClosed:
                pass
        records = {record["unit_id"]: record for record in running.records()}
        with urllib.request.urlopen(f"{running.url}/metrics") as answer:
            metrics = answer.read().decode()
        command = python("-m", "relay_app.cli", "reconcile", "--config", running.config, "--json")
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60)
    for response_id in ("resp_0", "resp_1"):
        record = records[response_id]
        assert (record["source"], record["status"]) == ("estimated", "completed")
        assert record["input_text_tokens"] == 6 + 8
        assert record["input_audio_tokens"] == 10
        assert record["output_text_tokens"] == 3 + 9
        assert record["output_audio_tokens"] == 20
    assert records["resp_2"]["source"] == "reported"
    assert records["resp_2"]["estimate"] == records["resp_0"]["estimate"]
    assert (records["resp_3"]["source"], records["resp_3"]["status"]) == ("estimated", "dropped")
    assert records["resp_3"]["output_audio_tokens"] == 20
    assert 'relay_estimate_drift_total{kind="output_audio",within="0.02"} 1.0' in metrics
    assert "relay_inexact_texts_total 0.0" in metrics
    report = json.loads(done.stdout)
    assert report["records"] == {"estimated": 3, "reported": 1}
    assert report["contradicting"] == 0


LOADS_ONCE = """
import gevent
from relay_app.app import Relay
from relay_app.meter import vocabulary
from relay_app.settings_file import settings_from_file
from relay_app.ledger.stores.memory import MemoryStore
relay = Relay(settings_from_file({config!r}), store=MemoryStore())
assert vocabulary.loaded() is None
calls, load = [], relay.load
relay.load = lambda: (calls.append(1), load())
beats = []
def beat():
    while True:
        gevent.sleep(0.001)
        beats.append(1)
beating = gevent.spawn(beat)
gevent.joinall([gevent.spawn(relay.prepare) for _ in range(5)], raise_error=True)
assert vocabulary.loaded() is not None
relay.prepare()
print(len(calls), bool(beats))
"""


def test_the_first_sessions_of_a_host_without_worker_hooks_wait_for_one_load(tmp_path):
    config = write_settings(tmp_path, "ws://127.0.0.1:9/v1")
    command = python("-c", LOADS_ONCE.format(config=str(config)))
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "1 True", done.stderr


def test_a_package_without_its_vocabulary_still_relays(tmp_path):
    script = LOADS_ONCE.format(config=str(write_settings(tmp_path, "ws://127.0.0.1:9/v1")))
    script = script.replace("assert vocabulary.loaded() is not None", "")
    broken = "import relay_app.meter.vocabulary as v\nv.SHA256 = 'x'\n"
    command = python("-c", broken + script)
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "1 True", done.stderr
    assert "no vocabulary" in done.stderr
