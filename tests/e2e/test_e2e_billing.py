"""What is written down when: one record a unit, however its events come, and before the client
can know that the unit ended."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.bills import bills, figures
from support.clients import TEXT, Peer, Provider, eventually, knock, provider
from support.relays import RelayProcess, relay
from support.workers import metric, sessions_closed


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with provider() as listening:
        yield listening


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, upstream: Provider) -> Iterator[RelayProcess]:
    # Nothing here may pass because a hold ran out of patience. Nor does any upstream here answer a
    # cancel.
    limits = "hold_seconds = 30\ndrain_seconds = 1"
    with relay(tmp_path_factory.mktemp("billing"), upstream.url, limits=limits) as process:
        yield process
    assert "Traceback" not in process.output


@contextmanager
def pair(running: RelayProcess, upstream: Provider) -> Iterator[tuple[Peer, Peer]]:
    """Both ends of a session: its client, its upstream."""
    with knock(running) as client, upstream.meet() as target:
        yield client, target


def created(unit: str) -> dict[str, Any]:
    response = {"id": unit, "status": "in_progress", "output": [], "usage": None}
    return {"type": "response.created", "event_id": f"created_{unit}", "response": response}


def done(unit: str, usage: Any = None, status: str = "completed") -> dict[str, Any]:
    response = {"id": unit, "status": status, "output": [{"id": "item"}], "usage": usage}
    return {"type": "response.done", "event_id": f"done_{unit}", "response": response}


def usage(size: int) -> dict[str, Any]:
    """A usage whose every figure is another, told from any other size's."""
    return {
        "total_tokens": 21 * size,
        "input_tokens": 14 * size,
        "output_tokens": 7 * size,
        "input_token_details": {
            "text_tokens": 8 * size,
            "audio_tokens": 5 * size,
            "image_tokens": size,
            "cached_tokens": 6 * size,
            "cached_tokens_details": {"text_tokens": 4 * size, "audio_tokens": 2 * size},
        },
        "output_token_details": {"text_tokens": 4 * size, "audio_tokens": 3 * size},
    }


def settled(running: RelayProcess, upstream: Provider, events: list[dict]) -> dict[str, dict]:
    """The records of a session whose upstream says ``events`` and leaves."""
    before = set(sessions_closed(running))
    with pair(running, upstream) as (client, target):
        for event in events:
            target.tell(**event)
            assert client.told() == event
        client.say_close()
        assert target.hear_close() == (1000, "")
    (session,) = eventually(lambda: set(sessions_closed(running)) - before, "it settles")
    records = [record for record in running.records() if record["session_id"] == session]
    for record in records:
        assert record["key"] == "tester"
        assert record["upstream"] == "up"
        assert record["started_at"] <= record["ended_at"]
    return figures(records)


# -- once ------------------------------------------------------------------------------------


def test_parallel_responses_are_billed_one_by_one(
    running: RelayProcess, upstream: Provider
) -> None:
    units = ["a", "b", "c", "d"]
    ends = [done(unit, usage(size)) for size, unit in enumerate("bdac", 1)]
    events = [created(unit) for unit in units] + ends
    assert settled(running, upstream, events) == bills(ends)


def test_a_response_done_that_comes_twice_is_billed_once(
    running: RelayProcess, upstream: Provider
) -> None:
    end = done("twice", usage(3))
    again = {**end, "event_id": "another_event"}
    events = [created("twice"), end, end, again, created("next"), done("next", usage(1)), end]
    assert settled(running, upstream, events) == bills([end, done("next", usage(1))])


def test_the_first_figures_of_a_response_stand(running: RelayProcess, upstream: Provider) -> None:
    first, second = done("changed", usage(3)), done("changed", usage(4))
    assert settled(running, upstream, [first, second]) == bills([first])


def test_a_response_done_without_a_response_created_is_billed(
    running: RelayProcess, upstream: Provider
) -> None:
    end = done("surprise", usage(2), status="cancelled")
    assert settled(running, upstream, [end]) == bills([end])


@pytest.mark.parametrize("nothing", [None, {}], ids=["null", "empty"])
def test_a_response_without_usage_is_unknown_and_not_zero(
    running: RelayProcess, upstream: Provider, nothing: Any
) -> None:
    records = settled(running, upstream, [created("r"), done("r", nothing)])
    assert records == bills([done("r", nothing)])
    assert records["r"]["source"] == "unreported"


def test_figures_that_come_later_replace_unknown_ones_and_never_the_other_way(
    running: RelayProcess, upstream: Provider
) -> None:
    events = [done("late", None), done("late", usage(2)), done("late", None)]
    assert settled(running, upstream, events) == bills([done("late", usage(2))])


def test_a_response_that_never_ends_is_dropped_and_unknown(
    running: RelayProcess, upstream: Provider
) -> None:
    end = done("ended", usage(1))
    records = settled(running, upstream, [created("ended"), created("open"), end])
    dropped = records.pop("open")
    assert (dropped["status"], dropped["source"]) == ("dropped", "unreported")
    assert records == bills([end])


def test_a_transcription_that_comes_in_instalments_is_billed_once(
    running: RelayProcess, upstream: Provider
) -> None:
    def completed(**fields: Any) -> dict[str, Any]:
        kind = "conversation.item.input_audio_transcription.completed"
        return {"type": kind, "item_id": "item_1", "transcript": "Hello", **fields}

    end = completed(usage={"type": "duration", "seconds": 2.5})
    events = [completed(status="in_progress"), completed(status="in_progress"), end, end]
    assert settled(running, upstream, events) == bills([end])


def test_two_sessions_may_use_the_same_response_id(
    running: RelayProcess, upstream: Provider
) -> None:
    end = done("resp_1", usage(5))
    assert settled(running, upstream, [end]) == bills([end])
    assert settled(running, upstream, [end]) == bills([end])


def test_what_a_client_says_bills_nothing(running: RelayProcess, upstream: Provider) -> None:
    before = set(sessions_closed(running))
    with pair(running, upstream) as (client, target):
        for event in (created("mine"), done("mine", usage(9))):
            client.tell(**event)
            assert target.told() == event
        client.say_close()
        assert target.hear_close() == (1000, "")
    (session,) = eventually(lambda: set(sessions_closed(running)) - before, "it settles")
    assert [r for r in running.records() if r["session_id"] == session] == []


# -- before anybody knows --------------------------------------------------------------------


def in_the_file(folder: Path, unit: str) -> list[tuple]:
    """What the SQLite file holds of a unit at this very moment, by eyes of our own."""
    with closing(sqlite3.connect(f"file:{folder / 'relay.db'}?mode=ro", uri=True)) as database:
        return database.execute(
            "SELECT source, status, input_text_tokens FROM usage_records WHERE unit_id = ?", (unit,)
        ).fetchall()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else can write to the SQLite file meanwhile."""
    with closing(sqlite3.connect(folder / "relay.db", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("COMMIT")


def test_a_record_is_on_disk_before_the_client_hears_of_its_units_end(
    running: RelayProcess, upstream: Provider
) -> None:
    folder = running.config.parent
    with pair(running, upstream) as (client, target):
        for number in range(1, 51):
            unit = f"turn_{number}"
            delta = {"type": "response.output_text.delta", "delta": "x"}
            target.tell(**created(unit))
            target.tell(**delta)
            target.tell(**done(unit, usage(number)))
            assert client.told()["type"] == "response.created"
            assert client.told() == delta
            assert client.told()["type"] == "response.done"
            assert in_the_file(folder, unit) == [("reported", "completed", 8 * number)]
    assert metric(running, "relay_hold_timeouts_total") == 0


def test_what_stands_before_the_end_of_a_unit_does_not_wait_for_it(
    running: RelayProcess, upstream: Provider
) -> None:
    """While another has the database locked the end is held, and nothing else is."""
    folder = running.config.parent
    delta = {"type": "response.output_text.delta", "delta": "x"}
    burst = [created("held"), delta, done("held", usage(1)), delta]
    with pair(running, upstream) as (client, target):
        target.tell(**done("first", usage(1)))  # so that the relay has the file open
        client.told()
        with locked(folder):
            target.send(b"".join(target.frame(TEXT, json.dumps(event).encode()) for event in burst))
            assert client.told() == burst[0]
            assert client.told() == burst[1]
            client.tell(type="input_audio_buffer.clear")
            assert target.told() == {"type": "input_audio_buffer.clear"}
            client.sock.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.receive()
            client.sock.settimeout(30)
            assert in_the_file(folder, "held") == []
        assert client.told() == burst[2]
        assert in_the_file(folder, "held") == [("reported", "completed", 8)]
        assert client.told() == burst[3]


@pytest.mark.parametrize(
    ("settings", "late"),
    [({"more": 'durability = "async"'}, 0), ({"limits": "hold_seconds = 0.05"}, 20)],
    ids=["async", "hold runs out"],
)
def test_while_nothing_can_be_written_the_conversation_goes_on_and_records_come_later(
    tmp_path: Path, upstream: Provider, settings: dict[str, str], late: int
) -> None:
    first = done("first", usage(1))
    ends = [done(f"turn_{number}", usage(number)) for number in range(20)]
    with relay(tmp_path, upstream.url, **settings) as running:
        with pair(running, upstream) as (client, target):
            target.tell(**first)
            assert client.told() == first
            eventually(lambda: metric(running, "relay_records_total") == 1, "the first is written")
            timeouts = metric(running, "relay_hold_timeouts_total")
            with locked(tmp_path):
                for end in ends:
                    target.tell(**end)
                    assert client.told() == end
                assert in_the_file(tmp_path, "turn_1") == []
            for end in ends:
                unit = end["response"]["id"]
                eventually(lambda unit=unit: in_the_file(tmp_path, unit), f"{unit} is written")
        assert figures(running.records()) == bills([first, *ends])
        assert metric(running, "relay_hold_timeouts_total") - timeouts == late
