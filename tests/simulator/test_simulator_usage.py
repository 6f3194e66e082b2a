"""Usage: the arithmetic holds whatever the conversation does."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulator_support import Talk, silence, speech

from relay_app.simulator.usage import Segment, duration_usage, response_usage, text_tokens


def check(usage: dict[str, Any]) -> None:
    details = usage["input_token_details"]
    cached = details["cached_tokens_details"]
    kinds = ("text_tokens", "audio_tokens", "image_tokens")
    assert usage["input_tokens"] == sum(details[kind] for kind in kinds)
    assert usage["output_tokens"] == sum(usage["output_token_details"].values())
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert details["cached_tokens"] == sum(cached.values())
    assert details["cached_tokens"] % 64 == 0
    assert all(cached[kind] <= details[kind] for kind in kinds)


segments = st.lists(
    st.builds(
        Segment,
        st.sampled_from("abc"),
        *[st.integers(min_value=0, max_value=300) for _ in range(3)],
    ),
    max_size=6,
)


@given(segments, segments, segments)
def test_sums_hold_and_cached_is_a_part_of_input(
    shared: list[Segment], now: list[Segment], before: list[Segment]
) -> None:
    usage = response_usage(shared + now, shared + before, output_text=3, output_audio=4)
    check(usage)
    total = sum(s.text + s.audio + s.image for s in shared)
    assert usage["input_token_details"]["cached_tokens"] >= total // 64 * 64


def test_an_edited_context_is_not_cached() -> None:
    old = [Segment("a", text=200), Segment("b", text=200)]
    new = [Segment("a", text=201), Segment("b", text=200)]
    usage = response_usage(new, old, output_text=0, output_audio=0)
    assert usage["input_token_details"]["cached_tokens"] == 0


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("é" * 3, 2)]
)
def test_text_is_a_token_for_four_bytes(text: str, tokens: int) -> None:
    assert text_tokens(text) == tokens


@pytest.mark.parametrize(("ms", "seconds"), [(0, 0), (499, 0), (2700, 3), (2400, 2)])
def test_duration_is_in_whole_seconds(ms: int, seconds: int) -> None:
    assert duration_usage(ms) == {"type": "duration", "seconds": seconds}


def test_the_context_grows_and_is_billed_again_each_turn(talk: Talk) -> None:
    for _ in range(4):
        talk.append(speech(2000) + silence(600))
        talk.run()
    spent = [event["response"]["usage"] for event in talk.named("response.done")]
    for usage in spent:
        check(usage)
    inputs = [usage["input_tokens"] for usage in spent]
    assert inputs == sorted(set(inputs))
    cached = [usage["input_token_details"]["cached_tokens"] for usage in spent]
    assert cached[0] == 0
    assert cached[1:] == sorted(set(cached[1:]))
    assert spent[-1]["input_token_details"]["cached_tokens_details"]["audio_tokens"] > 0


def test_truncation_makes_the_context_smaller_and_breaks_the_cache(talk: Talk) -> None:
    talk.update(instructions="Speak for 9 seconds.")
    talk.write("hello")
    talk.say("response.create")
    talk.run()
    item_id = talk.only("response.done")["response"]["output"][0]["id"]
    talk.say("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=1000)
    talk.say("response.create")
    talk.run()
    second = talk.named("response.done")[1]["response"]["usage"]["input_token_details"]
    assert second["audio_tokens"] == 20
    assert second["cached_tokens_details"]["audio_tokens"] == 0


def test_a_picture_costs_image_tokens(talk: Talk) -> None:
    picture = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    item = {"type": "message", "role": "user", "content": [picture]}
    talk.say("conversation.item.create", item=item)
    talk.say("response.create")
    talk.run()
    usage = talk.only("response.done")["response"]["usage"]
    assert usage["input_token_details"]["image_tokens"] == 323


def test_what_is_billed_is_what_was_reported(talk: Talk) -> None:
    talk.write("hello")
    talk.say("response.create")
    talk.run()
    response = talk.only("response.done")["response"]
    (entry,) = talk.billed
    assert (entry.id, entry.status, entry.usage) == (
        response["id"],
        "completed",
        response["usage"],
    )
