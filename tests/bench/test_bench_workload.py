"""The workload is a voice turn as a provider would send it."""

import json

from bench.workload import Turn


def test_a_turn_has_the_messages_and_bytes_it_is_said_to_have():
    turn = Turn()
    assert turn.appends == 20
    kinds = [json.loads(template.payload)["type"] for template in turn.down]
    assert kinds.count("response.output_audio.delta") == 12
    assert kinds.count("response.output_audio_transcript.delta") == 20
    assert (kinds[0], kinds[-1]) == ("response.created", "response.done")
    assert turn.messages == 63
    assert 310_000 < turn.bytes < 340_000


def test_every_event_of_a_reply_names_its_own_response():
    turn = Turn()
    first = [bytes(turn.payload(index, 7, 1)) for index in range(turn.down_messages)]
    second = [bytes(turn.payload(index, 7, 2)) for index in range(turn.down_messages)]
    done = json.loads(first[-1])["response"]
    assert done["id"] == f"resp_{7:08d}{1:012d}"
    for before, after in zip(first, second, strict=True):
        assert len(before) == len(after)
        assert json.loads(before) != json.loads(after)


def test_smaller_chunks_are_the_same_speech_in_more_messages():
    turn = Turn(append_seconds=0.02, delta_seconds=0.025)
    assert turn.appends == 100
    assert len(turn.append) < 1_400
    sizes = {len(template.payload) for template in turn.down if template.audio}
    assert sizes.pop() < 2_000


def test_events_come_in_the_order_of_their_times():
    times = [template.at for template in Turn().down]
    assert times == sorted(times)
