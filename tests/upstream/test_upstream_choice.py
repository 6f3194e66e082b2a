"""The choice with a dial that answers as a test says; real sockets are the dial's and e2e's."""

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import gevent
import pytest
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

from relay_app.errors import UpstreamFault
from relay_app.settings import Upstream
from relay_app.upstream.blame import Blame
from relay_app.upstream.catalogue import Catalogue
from relay_app.upstream.choice import MAX_TRIES, Choice, Chosen
from relay_app.upstream.dial import Dialled
from relay_app.upstream.dialects import Credential, UpstreamRequest, request_for
from relay_app.upstream.refusal import refusal
from relay_app.upstream.rests import Rests

SECONDS = 8.0
Answer = Callable[[UpstreamRequest], Any]


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class World:
    """Upstreams with an answer each, by name or by ``name/secret``, and a choice among them."""

    def __init__(self, *upstreams: Upstream, seed: int = 0) -> None:
        self.clock = Clock()
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str]] = []
        self.seconds: list[float] = []
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.spoiled: list[str] = []
        self.resting: dict[str, int] = {}
        self._catalogue = Catalogue(upstreams)
        self.choice = Choice(
            upstreams,
            self._dial,
            seconds=SECONDS,
            on_attempt=lambda *labels: self.attempts.update([labels]),
            on_spoiled=self.spoiled.append,
            on_resting=self.resting.__setitem__,
            rests=Rests(clock=self.clock, between=lambda low, high: low),
            random=Random(seed),
            clock=self.clock,
        )

    def dial(self, model: str = "m", brought: Credential | None = None) -> Chosen:
        return self.choice.dial(self._catalogue.routes(model, ("*",)), self._request, brought)

    def fault(self, **options: Any) -> UpstreamFault:
        with pytest.raises(UpstreamFault) as caught:
            self.dial(**options)
        return caught.value

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.asked]

    def again(self) -> None:
        self.asked.clear()
        self.seconds.clear()

    @staticmethod
    def _request(route: Any, credential: Credential, seconds: float) -> UpstreamRequest:
        return request_for(route, credential, seconds=seconds)

    def _dial(self, request: UpstreamRequest) -> Dialled:
        self.asked.append((request.upstream, request.secret))
        self.seconds.append(request.seconds)
        for name in (f"{request.upstream}/{request.secret}", request.upstream):
            if name in self.answers:
                self.answers[name](request)
        return Dialled(None, "-", lambda: None)


def up(name: str, *keys: str, **options: Any) -> Upstream:
    return Upstream(name, "wss://h", api_keys=keys or (f"key-of-{name}",), **options)


def says(status: int, code: str = "", **headers: str) -> Answer:
    def answer(request: UpstreamRequest) -> None:
        body = b'{"error":{"message":"said by %s","code":"%s"}}'
        body %= request.upstream.encode(), code.encode()
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        raise refusal(request.upstream, status, fields, body, request.secret)

    return answer


def unreachable(request: UpstreamRequest) -> None:
    raise UpstreamFault("gone", code="upstream_unreachable")


def silent(clock: Clock) -> Answer:
    def answer(request: UpstreamRequest) -> None:
        clock.now += request.seconds
        raise UpstreamFault("silent", status=504, code="upstream_timeout")

    return answer


# -- the order ----------------------------------------------------------------------------------


def test_the_lowest_priority_is_asked_and_nobody_else():
    world = World(up("b", priority=2), up("a", priority=1))
    chosen = world.dial()
    assert world.names == ["a"]
    assert (chosen.route.upstream.name, chosen.tried) == ("a", "")


def test_of_one_priority_each_is_asked_as_often_as_its_weight_says():
    world = World(up("a", weight=1), up("b", weight=3), up("later", priority=2, weight=1000))
    for _ in range(2_000):
        world.dial()
    counts = Counter(world.names)
    assert 0.21 < counts["a"] / 2_000 < 0.29
    assert counts["later"] == 0


def test_whoever_is_left_is_drawn_by_weight_too():
    world = World(up("a", weight=1), up("b", weight=3), up("down", weight=500))
    world.answers["down"] = says(404)  # which makes nobody rest
    for _ in range(2_000):
        world.dial()
    counts = Counter(world.names)
    assert counts["down"] > 1_900
    assert 0.20 < counts["a"] / (counts["a"] + counts["b"]) < 0.30


def test_keys_of_an_upstream_take_turns_by_chance():
    world = World(up("a", "k1", "k2", "k3"))
    for _ in range(600):
        world.dial()
    counts = Counter(secret for _, secret in world.asked)
    assert all(counts[key] > 150 for key in ("k1", "k2", "k3"))


# -- the next one -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [unreachable, *map(says, (200, 302, 401, 402, 403, 404, 408, 429, 500, 503, 529))],
)
def test_the_next_is_tried_after_what_may_be_better_elsewhere(answer):
    world = World(up("a"), up("b", priority=2))
    world.answers["a"] = answer
    chosen = world.dial()
    assert world.names == ["a", "b"]
    assert chosen.route.upstream.name == "b"
    assert chosen.tried.startswith("a (")


@pytest.mark.parametrize("status", [400, 405, 413, 422])
def test_a_request_that_nobody_could_answer_is_not_tried_elsewhere(status):
    world = World(up("a", "k1", "k2"), up("b", priority=2))
    world.answers["a"] = says(status)
    fault = world.fault()
    assert world.names == ["a"]
    assert fault.answered == status
    assert not world.resting["a"]


@pytest.mark.parametrize("status", [401, 402, 403, 429])
def test_another_key_may_do_where_one_was_refused(status):
    world = World(up("a", "bad", "good"), up("b", priority=2), seed=4)
    world.answers["a/bad"] = says(status)
    for _ in range(20):
        assert world.dial().route.upstream.name == "a"
    assert Counter(world.asked)["a", "bad"] == 1
    assert world.resting == {"a": 1}


@pytest.mark.parametrize("answer", [unreachable, says(503), says(404)])
def test_another_key_is_of_no_use_where_the_upstream_failed(answer):
    world = World(up("a", "k1", "k2"), up("b", priority=2))
    world.answers["a"] = answer
    world.dial()
    assert world.names == ["a", "b"]


def test_there_is_an_end_to_trying():
    world = World(up("a", *(f"key{i}" for i in range(50))))
    world.answers["a"] = says(429)
    assert world.fault().status == 429
    assert len(world.asked) == MAX_TRIES


WHOLE = {"unreachable": unreachable, "503": says(503), "404": says(404)}
OF_A_KEY = {"401": says(401), "429": says(429)}


@given(
    st.lists(
        st.tuples(
            st.integers(1, 3),
            st.integers(1, 5),
            st.sampled_from(["", "", *WHOLE]),
            st.lists(st.sampled_from(["ok", *OF_A_KEY]), min_size=1, max_size=2),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(),
)
def test_whoever_would_say_yes_is_found_and_nobody_is_asked_twice(plan, seed):
    upstreams, answers, willing, asked_if_none = [], {}, {}, 0
    for number, (priority, weight, whole, keys) in enumerate(plan):
        name = f"u{number}"
        names = [f"key{k}" for k in range(len(keys))]
        upstreams.append(up(name, *names, priority=priority, weight=weight))
        asked_if_none += 1 if whole else len(keys)
        if whole:
            answers[name] = WHOLE[whole]
        else:
            answers |= {f"{name}/key{k}": OF_A_KEY[a] for k, a in enumerate(keys) if a != "ok"}
            if "ok" in keys:
                willing[name] = priority
    world = World(*upstreams, seed=seed)
    world.answers = answers
    if willing:
        chosen = world.dial()
        assert willing[chosen.candidate.upstream] == min(willing.values())
    else:
        world.fault()
        assert len(world.asked) == asked_if_none
    assert len(set(world.asked)) == len(world.asked)
    priorities = [plan[int(name[1:])][0] for name in world.names]
    assert priorities == sorted(priorities)
    assert sum(world.attempts.values()) == len(world.asked)


# -- time ---------------------------------------------------------------------------------------


def test_the_only_upstream_has_all_the_time():
    world = World(up("a", "k1", "k2"))
    world.answers["a"] = silent(world.clock)
    world.fault()
    assert world.seconds == [SECONDS]


def test_a_silent_upstream_leaves_time_for_the_next():
    world = World(up("a"), up("b", priority=2), up("c", priority=3))
    world.answers |= dict.fromkeys("abc", silent(world.clock))
    started = world.clock.now
    assert world.fault().status == 504
    assert world.seconds == [4, 2, 2]
    assert world.clock.now - started == SECONDS


def test_without_time_nobody_else_is_tried():
    world = World(up("a"), up("b", priority=2))

    def slow(request: UpstreamRequest) -> None:
        world.clock.now += SECONDS
        unreachable(request)

    world.answers["a"] = slow
    assert world.fault().message == "gone"
    assert world.names == ["a"]


# -- rests --------------------------------------------------------------------------------------


def test_what_rests_is_asked_last():
    world = World(up("a"), up("b", priority=2))
    world.answers["a"] = says(503)
    world.dial()
    world.again()
    del world.answers["a"]
    world.dial()
    assert world.names == ["b"]
    world.clock.now += 2
    world.dial()
    assert world.names == ["b", "a"]
    assert world.resting["a"] == 0


def test_what_rests_is_asked_rather_than_nobody():
    world = World(up("a"), up("b", priority=2))
    world.answers |= {"a": says(429, retry_after="60"), "b": says(429, retry_after="20")}
    world.fault()
    world.again()
    del world.answers["a"]
    assert world.dial().route.upstream.name == "a"
    assert world.names == ["b", "a"]  # the one that is back first
    assert world.resting["a"] == 0


def test_of_an_upstream_that_rests_one_key_is_asked():
    world = World(up("a", "k1", "k2", "k3"))
    world.answers["a"] = says(429)
    world.fault()
    assert len(world.asked) == 3
    world.again()
    world.fault()
    assert len(world.asked) == 1


@pytest.mark.parametrize(
    ("value", "seconds"), [("40", 40), ("Fri, 01 Jan 2100 00:00:00 GMT", 300), ("soon", 5)]
)
def test_retry_after_is_kept_to(value, seconds):
    world = World(up("a"), up("b", priority=2))
    world.answers["a"] = says(429, retry_after=value)
    world.dial()
    world.again()
    world.clock.now += seconds - 0.01
    world.dial()
    world.clock.now += 0.01
    world.dial()
    assert world.names == ["b", "a", "b"]


def test_a_model_that_is_not_there_makes_nobody_rest():
    world = World(up("a"), up("b", priority=2))
    world.answers["a"] = says(404)
    world.dial()
    world.dial()
    assert world.names == ["a", "b", "a", "b"]


def test_when_a_rest_is_over_one_tries_and_the_others_go_elsewhere():
    world = World(up("a"), up("b", priority=2))
    world.answers["a"] = unreachable
    world.dial()
    world.again()
    world.clock.now += 2
    decided = Event()

    def hangs(request: UpstreamRequest) -> None:
        decided.wait()

    world.answers["a"] = hangs
    trying = gevent.spawn(world.dial)
    gevent.idle()
    for _ in range(5):
        assert world.dial().route.upstream.name == "b"
    decided.set()
    assert trying.get().route.upstream.name == "a"
    assert world.names == ["a", *"bbbbb"]
    assert world.dial().route.upstream.name == "a"


def test_many_that_fail_together_begin_one_rest_and_say_so_once(caplog):
    world = World(up("a"), up("b", priority=2))
    fails = Event()

    def hangs(request: UpstreamRequest) -> None:
        fails.wait()
        unreachable(request)

    world.answers["a"] = hangs
    dials = [gevent.spawn(world.dial) for _ in range(20)]
    gevent.idle()
    fails.set()
    assert {dial.get().route.upstream.name for dial in dials} == {"b"}
    assert caplog.messages == ["upstream rests upstream=a seconds=2.0 why=unreachable"]
    caplog.clear()
    caplog.set_level("INFO")
    world.clock.now += 2
    del world.answers["a"]
    world.dial()
    world.dial()
    assert caplog.messages == ["upstream works again upstream=a"]


# -- a key of the client's ----------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 402, 403, 429])
def test_a_clients_own_key_is_judged_once_and_harms_nobody(status):
    world = World(up("a"), up("b", priority=2))
    world.answers["a"] = says(status)
    for _ in range(3):
        assert world.fault(brought=Credential("sk-of-a-client", "api-key")).answered == status
    assert world.asked == [("a", "sk-of-a-client")] * 3
    assert not world.resting["a"]


def test_an_upstream_that_is_down_rests_whosever_key_it_was():
    world = World(up("a"), up("b", priority=2))
    world.answers["a"] = unreachable
    for _ in range(2):
        world.dial(brought=Credential("sk-of-a-client"))
    assert world.names == ["a", "b", "b"]


# -- after the 101 ------------------------------------------------------------------------------


def test_an_upstream_that_accepts_and_then_fails_rests():
    world = World(up("a", "k1", "k2"), up("b", priority=2))
    world.choice.spoiled(world.dial(), Blame.UPSTREAM, "closed_1011")
    world.again()
    world.dial()
    assert world.names == ["b"]
    assert world.spoiled == ["a"]
    assert world.attempts["a", "ok"] == 1


def test_a_key_that_is_accepted_and_then_fails_rests_alone():
    world = World(up("a", "k1", "k2"))
    first = world.dial()
    world.choice.spoiled(first, Blame.KEY, "error_key")
    spoilt = world.asked[0]
    world.again()
    for _ in range(20):
        world.dial()
    assert spoilt not in world.asked


@pytest.mark.parametrize("due_to", [Blame.REQUEST, Blame.MODEL])
def test_what_a_client_brought_about_makes_nobody_rest(due_to):
    world = World(up("a"))
    world.choice.spoiled(world.dial(), due_to, "error_request")
    assert not world.resting["a"]
    own = world.dial(brought=Credential("sk-of-a-client"))
    world.choice.spoiled(own, Blame.KEY, "error_key")
    assert not world.resting["a"]


def test_only_a_session_that_works_makes_good_what_failed_behind_a_101():
    world = World(up("a"))
    for seconds in (2, 4):
        world.choice.spoiled(world.dial(), Blame.UPSTREAM, "closed_1011")
        world.clock.now += seconds
        assert world.resting == {"a": 1}
    world.choice.worked(world.dial())
    assert world.resting == {"a": 0}


# -- what is said -------------------------------------------------------------------------------


def test_one_refusal_is_passed_on_as_it_is():
    world = World(up("a"))
    world.answers["a"] = says(429, "rate_limit_exceeded", retry_after="3")
    fault = world.fault()
    assert (fault.status, fault.message, fault.code) == (429, "said by a", "rate_limit_exceeded")
    assert fault.headers == {"Retry-After": "3"}


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (says(401), says(429, retry_after="9"), 429),
        (says(429, retry_after="9"), says(503), 429),
        (says(404), unreachable, 502),
        (says(401), says(404), 404),
        (says(401), says(403), 401),
        (says(503), unreachable, 503),
    ],
)
def test_of_several_refusals_the_one_that_tells_most_names_all_who_were_tried(first, second, told):
    world = World(up("a"), up("b", "key1-of-b", "key2-of-b", priority=2))
    world.answers |= {"a": first, "b/key1-of-b": second, "b/key2-of-b": second}
    fault = world.fault()
    assert fault.status == told
    text = fault.message.partition(" Tried: ")[2]
    assert text.startswith("a (")
    assert "b[" in text
    assert "key" not in fault.message
    assert fault.headers == ({"Retry-After": "9"} if told == 429 else {})


def test_attempts_are_counted_by_what_came_of_them():
    world = World(up("a"), up("b", priority=2))
    world.answers["a"] = says(503)
    world.dial()
    assert world.attempts == {("a", "503"): 1, ("b", "ok"): 1}


def test_a_dial_that_is_killed_decides_nothing():
    world = World(up("a"))
    world.answers["a"] = lambda request: gevent.sleep(60)
    dialling = gevent.spawn(world.dial)
    gevent.idle()
    dialling.kill()
    assert not world.attempts
    assert not world.resting
