"""Keeper: it visits everybody, blocks nobody, and judges nobody for our own absence."""

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event
from session_support import SECONDS, until

from relay_app import breath
from relay_app.errors import RelayFault
from relay_app.moderation import Moderation
from relay_app.observe.tally import Tally
from relay_app.session.context import SessionContext
from relay_app.session.keeper import ROUNDS_PER_TELL, Keeper
from relay_app.session.lifecycle import Cause, Ending

FAULT = RelayFault("the relay restarts", close_code=1001)


class FakeSession:
    """Runs until it is told to end; notes its visits."""

    rest: Any = None

    def __init__(self, *, key: str = "a", on_tick: Callable[[], None] = lambda: None) -> None:
        self.over = Event()
        self.visits: list[float] = []
        self.drains: list[tuple[Any, float]] = []
        self.cancels: list[Any] = []
        self.context = SessionContext("rs_1", key, "u", "m", "m")
        self.ending = Ending(Cause.CANCEL, fault=FAULT)
        self._on_tick = on_tick

    def run(self) -> None:
        assert self.over.wait(SECONDS)

    def tick(self, elapsed: float) -> None:
        self.visits.append(elapsed)
        self._on_tick()

    def drain(self, fault: Any, seconds: float) -> None:
        self.drains.append((fault, seconds))

    def cancel(self, fault: Any) -> None:
        self.cancels.append(fault)

    def tally(self) -> Tally:
        return Tally(messages_sent=1)

    def add_to(self, tally: Tally) -> None:
        tally.messages_sent += 1


class FakeRest:
    """Lasts for so many rounds, and notes what it is told of them."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.told: list[tuple[float, float]] = []

    def lasts(self, elapsed: float, now: float) -> bool:
        self.told.append((elapsed, now))
        return len(self.told) <= self.rounds


def start(keeper: Keeper, session: FakeSession) -> "gevent.Greenlet[..., None]":
    greenlet = gevent.spawn(keeper.run, session)
    gevent.idle()
    return greenlet


def fail() -> None:
    raise KeyError("a bug")


def test_every_open_session_is_visited_and_a_broken_one_spoils_nothing() -> None:
    rounds: list[int] = []
    keeper = Keeper(tick_seconds=0.001, on_rounds=lambda: rounds.append(len(keeper)) or fail())
    sessions = [FakeSession(on_tick=fail), FakeSession()]
    running = [start(keeper, session) for session in sessions]
    until(lambda: len(rounds) > 1)
    assert rounds[:2] == [2, 2]
    assert all(len(session.visits) >= 2 * ROUNDS_PER_TELL for session in sessions)
    for session in sessions:
        session.over.set()
    gevent.joinall(running, timeout=SECONDS, raise_error=True)
    until(lambda: rounds[-1] == 0)  # those who look on hear that they are gone
    assert len(keeper) == 0
    assert keeper.wait_empty(0)


def test_the_hub_is_looked_at_in_each_round_for_as_long_as_there_are_sessions() -> None:
    looks: list[str] = []

    class Looks(Moderation):
        def look(self) -> None:
            looks.append("look")

        def stop(self) -> None:
            looks.append("stop")

    keeper = Keeper(tick_seconds=0.001, moderation=Looks())
    for _ in range(2):
        looks.clear()
        session = FakeSession()
        running = start(keeper, session)
        until(lambda: looks[:2] == ["look", "look"])
        session.over.set()
        running.join(SECONDS)
        until(lambda: looks[-1] == "stop")


def test_a_round_over_many_sessions_lets_others_have_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(breath, "HOLD_SECONDS", 0.0)
    keeper = Keeper(tick_seconds=0.001)
    seen: list[int] = []
    turns: list[int] = []
    sessions = [FakeSession(on_tick=lambda: seen.append(len(turns))) for _ in range(3)]
    gone = FakeSession()

    def take_turns() -> None:
        while len(seen) < 3:
            turns.append(len(turns))
            gone.over.set()  # it ends while others are visited
            gevent.sleep(0)

    running = [start(keeper, session) for session in [*sessions, gone]]
    taking = gevent.spawn(take_turns)
    until(lambda: len(seen) >= 3)
    assert len(set(seen[:3])) == 3
    for session in sessions:
        session.over.set()
    gevent.joinall([*running, taking], timeout=SECONDS, raise_error=True)
    assert keeper.tally().messages_sent == 4


def test_its_greenlet_lives_while_sessions_do_and_comes_back() -> None:
    keeper = Keeper(tick_seconds=0.001)
    for _ in range(2):
        session = FakeSession()
        running = start(keeper, session)
        until(lambda: session.visits)  # noqa: B023
        session.over.set()
        running.get(timeout=SECONDS)
        until(lambda: keeper._visitor is not None and keeper._visitor.dead)
    assert keeper.opened == 2
    assert keeper.closes["cancel", 1001] == 2
    assert keeper.tally().messages_sent == 2


def test_draining_reaches_sessions_open_and_to_come() -> None:
    keeper = Keeper(tick_seconds=0.001)
    first, second = FakeSession(), FakeSession()
    running = [start(keeper, first)]
    keeper.drain(FAULT, 30.0)
    running.append(start(keeper, second))
    assert first.drains == second.drains == [(FAULT, 30.0)]
    assert not keeper.wait_empty(0.01)
    first.over.set()
    second.over.set()
    assert keeper.wait_empty(SECONDS)
    gevent.joinall(running, timeout=SECONDS, raise_error=True)


def test_a_session_that_raises_is_not_kept() -> None:
    keeper = Keeper(tick_seconds=0.001)
    session = FakeSession()
    session.run = fail  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        keeper.run(session)  # type: ignore[arg-type]
    assert len(keeper) == 0
    assert keeper.wait_empty(0)


def rounds(*clock: float) -> list[float]:
    """What a session is told in rounds that begin at these times; the first is the start."""
    times = iter(clock)
    session = FakeSession()
    told: list[float] = []
    reading = [0.0]

    def now() -> float:
        reading[0] = next(times, -1.0)
        if reading[0] < 0:
            session.over.set()
        return reading[0]

    def tick(elapsed: float) -> None:
        if reading[0] >= 0:
            told.append(elapsed)

    session.tick = tick  # type: ignore[method-assign]
    keeper = Keeper(tick_seconds=0.01, clock=now)
    start(keeper, session).get(timeout=SECONDS)
    return told


def test_a_session_that_rests_is_passed_over_until_its_rest_is_over() -> None:
    readings = [0.0]

    def now() -> float:
        readings[0] += 0.01
        return readings[0]

    keeper = Keeper(tick_seconds=0.01, clock=now)
    session, rest = FakeSession(), FakeRest(3)
    session.rest = rest
    running = start(keeper, session)
    until(lambda: session.visits)
    assert rest.told[:4] == [pytest.approx((0.01, 0.02 + 0.01 * n)) for n in range(4)]
    assert len(session.visits) == len(rest.told) - 3
    session.over.set()
    running.get(timeout=SECONDS)


def test_a_round_tells_how_long_ago_the_last_one_was() -> None:
    assert rounds(0.0, 0.01, 0.03) == pytest.approx([0.01, 0.02])


def test_a_round_that_comes_late_judges_nobody_and_the_next_one_does() -> None:
    # A machine that was suspended: the peers' answers are there, but nobody has read them yet.
    assert rounds(0.0, 0.01, 500.0, 500.01) == pytest.approx([0.01, 0.01])


def test_a_worker_that_is_late_in_every_round_judges_all_the_same() -> None:
    assert rounds(0.0, 100.0, 200.0, 300.0, 400.0) == pytest.approx([0.03, 0.03])


def test_the_sessions_of_a_revoked_key_end_and_no_others() -> None:
    keeper = Keeper()
    sessions = [FakeSession(key="a"), FakeSession(key="b")]
    running = [start(keeper, session) for session in sessions]
    keeper.cancel(FAULT, unless=lambda key: key == "a")
    assert [session.cancels for session in sessions] == [[], [FAULT]]
    for session in sessions:
        session.over.set()
    gevent.joinall(running, raise_error=True)
