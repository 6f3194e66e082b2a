"""A worker that is killed in the middle of an answer leaves a residual of it in the store, and one
that is not leaves none."""

import base64
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.clients import Provider, eventually, knock, provider
from support.relays import relay
from support.workers import metric, worker

SECOND = base64.b64encode(bytes(48_000)).decode()
PCM = {"output": {"format": {"type": "audio/pcm", "rate": 24000}}}


@pytest.fixture
def upstream() -> Iterator[Provider]:
    with provider() as listening:
        yield listening


def test_an_answer_that_a_kill_cuts_off_is_billed_as_far_as_it_was_seen(
    tmp_path: Path, upstream: Provider
) -> None:
    with relay(tmp_path, upstream.url) as running:
        with knock(running) as client, upstream.meet() as target:
            target.tell(type="response.created", response={"id": "resp_cut", "audio": PCM})
            client.told()
            begun = eventually(running.records, "a checkpoint at its beginning")
            target.tell(type="response.output_audio.delta", response_id="resp_cut", delta=SECOND)
            client.told()
            spoken = eventually(
                lambda: [r for r in running.records() if r["output_audio_tokens"]],
                "a checkpoint of what was said since",
            )
            os.kill(worker(running), signal.SIGKILL)
        (left,) = running.records()
    assert [record["id"] for record in (*begun, *spoken)] == [left["id"]] * 2
    told = {name: left[name] for name in ("unit_id", "kind", "source", "status")}
    assert told == {
        "unit_id": "resp_cut",
        "kind": "residual",
        "source": "estimated",
        "status": "dropped",
    }
    assert left["output_audio_tokens"] == 20
    assert float(left["cost_usd"]) > 0
    assert left["price"]["model"] == "gpt-realtime"


def test_no_residual_is_left_of_what_has_ended(tmp_path: Path, upstream: Provider) -> None:
    with relay(tmp_path, upstream.url, limits="drain_seconds = 0") as running:
        with knock(running) as client, upstream.meet() as target:
            for unit in ("resp_done", "resp_open"):
                target.tell(type="response.created", response={"id": unit})
                client.told()
            eventually(lambda: len(running.records()) == 2, "both were checkpointed")
            assert {record["kind"] for record in running.records()} == {"residual"}
            response = {"id": "resp_done", "status": "completed", "usage": None}
            target.tell(type="response.done", response=response)
            client.told()
        eventually(
            lambda: {record["kind"] for record in running.records()} == {"response"},
            "the ends take the place of both",
        )
        eventually(lambda: metric(running, "relay_records_total") == 2, "each was counted once")
        ends = {record["unit_id"]: record for record in running.records()}
    assert ends["resp_done"]["status"] == "completed"
    assert (ends["resp_open"]["status"], ends["resp_open"]["source"]) == ("dropped", "unknown")
