"""A session that rests comes out as if it had been looked at in every round."""

import random
from collections.abc import Callable

import gevent
import pytest
from session_support import (
    DRAINING,
    MANY,
    Peer,
    SetStage,
    SlowAccountant,
    Stage,
    converse,
    response_done,
    trickle,
    until,
)
from websockets.frames import Opcode

from relay_app.session.rest import Rest
from relay_app.session.vigil import Vigil
from relay_app.wire.link import Link


class Sleepless(Rest):
    """Has everything looked at in every round."""

    def begin(self, most_seconds: float, until: float) -> None:
        pass


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When somebody was looked at."""
    times: list[float] = []
    look = Vigil.look_at_peers

    def noted(vigil: Vigil, elapsed_seconds: float, now: float) -> None:
        times.append(now)
        look(vigil, elapsed_seconds, now)

    monkeypatch.setattr(Vigil, "look_at_peers", noted)
    return times


def settled(made: Stage) -> bool:
    """Whether all that was said has arrived and been acknowledged."""
    links = made.client_link, made.target_link
    return not any(link.connection.unacknowledged() for link in links)


def quiet(made: Stage) -> None:
    """A session that has been spoken in, and rests."""
    converse(made)
    until(lambda: settled(made))
    made.tick()


# -- nothing is found later ----------------------------------------------------------------------


def say(made: Stage) -> None:
    before = made.target_link.out.bytes_out
    made.client.say("input_audio_buffer.append", audio="AAAA")
    until(lambda: made.target_link.out.bytes_out > before)


def answer(made: Stage) -> None:
    if not made.target_link.reading:
        return
    before = made.client_link.out.bytes_out
    made.target.say("session.updated")
    until(lambda: made.client_link.out.bytes_out > before)


def pong(peer: Peer, link: Link) -> None:
    if not link.reading:
        return
    before = link.controls
    peer.send(Opcode.PONG)
    until(lambda: link.controls > before)


def client_pongs(made: Stage) -> None:
    pong(made.client, made.client_link)


def upstream_pongs(made: Stage) -> None:
    pong(made.target, made.target_link)


def both_pong(made: Stage) -> None:
    client_pongs(made)
    upstream_pongs(made)


def talk_much(made: Stage) -> None:
    before = made.session._up.messages
    for _ in range(25):
        made.client.say("input_audio_buffer.append", audio="AAAA")
    until(lambda: made.session._up.messages == before + 25)


def hold_back(made: Stage) -> None:
    """The upstream is not read from until its record is durable."""
    assert isinstance(made.accountant, SlowAccountant)
    if not made.target_link.reading:
        return
    before = len(made.accountant.tickets)
    made.target.say(**response_done(f"resp_{before}"))
    until(lambda: len(made.accountant.tickets) > before and not made.target_link.reading)  # type: ignore[attr-defined]


def let_go(made: Stage) -> None:
    assert isinstance(made.accountant, SlowAccountant)
    for ticket in made.accountant.tickets:
        ticket.settle()
    until(lambda: made.target_link.reading)


Step = Callable[[Stage], None]


def story(seed: int) -> list[tuple[Step | None, float]]:
    """What happens before each round, if anything, and how long the round took."""
    chance = random.Random(seed)
    events, answered = chance.choice((0.02, 0.1, 0.3)), chance.choice((0.1, 0.2, 0.4))
    rounds: list[tuple[Step | None, float]] = []
    for _ in range(200):
        step: Step | None = None
        if chance.random() < events:
            step = chance.choice((say, answer, talk_much, hold_back, let_go))
        elif chance.random() < answered:
            step = chance.choice((client_pongs, upstream_pongs, both_pong, both_pong))
        rounds.append((step, chance.choice((1.0, 1.0, 1.0, 1.25, 2.5))))
    return rounds


def found(made: Stage) -> tuple[object, ...]:
    """All that rounds bring about: pings, ends, and a warning."""
    return (
        made.client_link.out.bytes_out,
        made.target_link.out.bytes_out,
        made.client_link.end,
        made.target_link.end,
        made.session.cancelled.is_set(),
        made.session.failed.is_set(),
        made.session._vigil._warned,
    )


@pytest.mark.parametrize("seed", range(16))
def test_it_is_pinged_warned_and_ended_in_the_same_rounds_as_without_resting(
    stage: SetStage, seed: int
) -> None:
    chance = random.Random(seed)
    limits = {
        "idle_seconds": chance.choice((20, 10_000)),
        "max_session_seconds": chance.choice((100, 10_000)),
        "max_messages_per_second": chance.choice((0, 1)),
    }
    resting, sleepless = pair = [
        stage(accountant=SlowAccountant(), hold_seconds=60, ping_seconds=7, **limits)
        for _ in range(2)
    ]
    sleepless.session._vigil.rest = Sleepless(sleepless.client_link, sleepless.target_link)
    for made in pair:
        converse(made)
    for number, (step, elapsed) in enumerate(story(seed)):
        for made in pair:
            if step is not None:
                step(made)
        until(lambda: all(map(settled, pair)))
        for made in pair:  # and nobody else runs until they are compared
            made.tick(elapsed)
        assert found(resting) == found(sleepless), f"round {number}"
        if any(found(resting)[2:6]):
            break


def test_a_ping_goes_out_in_the_round_it_is_due_and_the_silent_are_given_up(
    stage: SetStage, looks: list[float]
) -> None:
    made = stage(ping_seconds=10)
    quiet(made)
    before = made.client_link.bytes_out
    made.tick(times=9)
    assert made.client_link.bytes_out == before
    assert len(looks) == 1
    made.tick()
    assert made.client_link.bytes_out > before
    made.tick(times=9)
    assert made.client_link.end is None
    made.tick()
    assert made.client_link.end is not None


@pytest.mark.parametrize("speaker", ["client", "target"])
def test_each_side_is_asked_after_its_own_silence(stage: SetStage, speaker: str) -> None:
    made = stage(ping_seconds=10)
    quiet(made)
    heard, silent = made.client_link, made.target_link
    if speaker == "target":
        heard, silent = silent, heard
    made.tick(times=4)
    pong(made.client if speaker == "client" else made.target, heard)
    before = heard.bytes_out, silent.bytes_out
    made.tick(times=5)
    assert (heard.bytes_out, silent.bytes_out) == before
    made.tick()
    assert silent.bytes_out > before[1]
    made.tick(times=4)
    assert heard.bytes_out == before[0]
    made.tick()
    assert heard.bytes_out > before[0]


@pytest.mark.parametrize("limit", ["idle_seconds", "max_session_seconds"])
def test_it_ends_in_the_first_round_behind_its_deadline(stage: SetStage, limit: str) -> None:
    made = stage(**{limit: 30})
    quiet(made)
    begun = made.now - 1.0 if limit == "max_session_seconds" else made.now
    while made.now < begun + 30:
        made.tick()
        assert not made.session.cancelled.is_set()
    made.tick()
    assert made.session.cancelled.is_set()


def test_a_flood_behind_a_rest_is_one_of_the_last_second(stage: SetStage) -> None:
    made = stage(max_messages_per_second=10)
    quiet(made)
    made.tick(times=30)
    for _ in range(620):
        made.client.say("input_audio_buffer.append", audio="AAAA")
    until(lambda: made.session._up.messages == 621)
    made.tick()
    assert "620 messages in a second" in made.client.told()["error"]["message"]


def test_who_reads_nothing_more_behind_a_rest_has_stalled_as_soon_as_ever(stage: SetStage) -> None:
    made = stage(receive_buffer=4_096, stall_seconds=15, max_message_bytes=MANY)
    quiet(made)
    made.tick(times=30)
    stuffing = gevent.spawn(made.target.say, "session.updated", text="A" * (MANY // 2))
    until(lambda: made.client_link.blocked_since is not None)
    made.tick()
    blocked = made.client_link.blocked_since
    assert blocked is not None
    while made.now <= blocked + 15:
        assert not made.session.failed.is_set()
        made.tick()
    assert made.session.failed.is_set()
    stuffing.kill()


def test_it_drains_while_it_rests(stage: SetStage) -> None:
    made = stage()
    made.client.say("response.create")
    made.target.told()
    quiet(made)
    rest = made.session.rest
    assert rest is not None
    assert rest.lasts(0.0, made.now)
    made.session.drain(DRAINING, 5.0)
    assert not rest.lasts(0.0, made.now)
    made.tick(times=4)
    assert not rest.lasts(0.0, made.now)
    assert not made.session.cancelled.is_set() or not made.meter.expecting
    made.tick()
    assert made.session.cancelled.is_set()


# -- and that for less ---------------------------------------------------------------------------


def test_nobody_looks_while_it_rests(stage: SetStage, looks: list[float]) -> None:
    made = stage(ping_seconds=100, idle_seconds=1_000)
    quiet(made)
    made.tick(times=90)
    assert len(looks) == 1
    say(made)
    until(lambda: settled(made))
    made.tick(times=2)
    assert len(looks) == 2


def test_a_response_that_runs_keeps_it_awake(stage: SetStage, looks: list[float]) -> None:
    made = stage(ping_seconds=1_000)
    made.target.say("response.created", response={"id": "resp_1"})
    made.client.told()
    quiet(made)
    made.tick(times=9)
    assert len(looks) == 10
    assert isinstance(made.accountant, SlowAccountant)
    assert len(made.accountant.checkpoints) >= 3


def test_a_link_on_whose_way_something_is_keeps_it_awake(
    stage: SetStage, looks: list[float]
) -> None:
    made = stage(receive_buffer=4_096, ping_seconds=1_000, stall_seconds=1_000)
    converse(made)
    trickle(made, "client")
    made.tick(times=5)
    assert len(looks) == 5


def test_a_writer_that_has_got_rid_of_no_byte_yet_keeps_it_awake(
    stage: SetStage, looks: list[float]
) -> None:
    made = stage(ping_seconds=1_000)
    quiet(made)
    with made.client_link.out._turn():
        made.tick(times=5)
    assert len(looks) == 6


@pytest.mark.parametrize("side", ["client", "target"])
def test_what_we_say_ourselves_wakes_it(stage: SetStage, looks: list[float], side: str) -> None:
    made = stage(ping_seconds=1_000)
    quiet(made)
    link = made.client_link if side == "client" else made.target_link
    made.tick(times=3)
    assert link.send_text("{}")
    made.tick()
    assert len(looks) == 2
