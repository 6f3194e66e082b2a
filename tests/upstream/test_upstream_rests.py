import pytest

from relay_app.upstream.blame import Blame
from relay_app.upstream.rests import ALL_KEYS, CHANCE, MOST_SECONDS, TRIAL_SECONDS, Rests

UP = "up"


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rests(clock: Clock) -> Rests:
    return Rests(clock=clock, between=lambda low, high: low)


def test_nothing_rests_that_has_not_failed(rests: Rests):
    rests.trying(UP, 0)
    assert rests.left(UP, 0) == 0
    assert rests.resting(UP) == 0


@pytest.mark.parametrize(
    ("due_to", "first", "most"),
    [(Blame.KEY, 30, 300), (Blame.LIMIT, 5, 60), (Blame.UPSTREAM, 2, 60)],
)
def test_a_rest_doubles_with_each_failure_in_a_row(rests: Rests, clock: Clock, due_to, first, most):
    for failures in range(12):
        rests.trying(UP, 0)
        rests.failed(UP, 0, due_to)
        assert rests.left(UP, 0) == min(first * 2**failures, most)
        clock.now += rests.left(UP, 0)
        assert rests.left(UP, 0) == 0


def test_a_rest_is_as_long_as_the_provider_wants_within_a_bound(rests: Rests):
    rests.failed(UP, 0, Blame.LIMIT, asked_seconds=90)
    assert rests.left(UP, 0) == 90
    rests.failed(UP, 1, Blame.LIMIT, asked_seconds=1)
    assert rests.left(UP, 1) == 5
    rests.failed(UP, 2, Blame.LIMIT, asked_seconds=1e9)
    assert rests.left(UP, 2) == MOST_SECONDS


def test_chance_only_makes_a_rest_longer(clock: Clock):
    rests = Rests(clock=clock, between=lambda low, high: high)
    rests.failed(UP, 0, Blame.LIMIT, asked_seconds=100)
    assert rests.left(UP, 0) == 100 * (1 + CHANCE)
    drawn = {Rests(clock=clock).failed(UP, 0, Blame.LIMIT, asked_seconds=100) for _ in range(20)}
    assert len(drawn) > 1
    assert all(100 <= seconds <= 100 * (1 + CHANCE) for seconds, _ in drawn)


def test_those_that_fail_together_begin_one_rest(rests: Rests):
    for _ in range(20):
        rests.trying(UP, 0)
    news = [rests.failed(UP, 0, Blame.UPSTREAM)[1] for _ in range(20)]
    assert news == [True] + [False] * 19
    assert rests.left(UP, 0) == 2


def test_a_later_wish_of_the_provider_prolongs_a_rest(rests: Rests):
    rests.failed(UP, 0, Blame.LIMIT)
    assert rests.failed(UP, 0, Blame.LIMIT, asked_seconds=40) == (40, False)
    assert rests.failed(UP, 0, Blame.LIMIT, asked_seconds=7) == (40, False)


def test_one_tries_and_the_others_wait_for_what_becomes_of_it(rests: Rests, clock: Clock):
    rests.failed(UP, ALL_KEYS, Blame.UPSTREAM)
    clock.now += 2
    assert rests.left(UP, 0) == rests.left(UP, 1) == 0
    rests.trying(UP, 0)
    assert rests.left(UP, 0) == rests.left(UP, 1) == TRIAL_SECONDS
    clock.now += TRIAL_SECONDS  # it was never heard of again
    assert rests.left(UP, 1) == 0


def test_asking_what_rests_does_not_prolong_its_rest(rests: Rests):
    rests.failed(UP, 0, Blame.UPSTREAM)
    rests.trying(UP, 0)
    assert rests.left(UP, 0) == 2


def test_a_key_rests_alone_and_an_upstream_with_all_its_keys(rests: Rests):
    rests.failed(UP, 1, Blame.KEY)
    assert (rests.left(UP, 0), rests.left(UP, 1)) == (0, 30)
    rests.failed(UP, ALL_KEYS, Blame.UPSTREAM)
    assert (rests.left(UP, 0), rests.left(UP, 1)) == (2, 30)
    assert rests.left("other", 1) == 0
    assert (rests.resting(UP), rests.resting("other")) == (2, 0)


def test_a_101_ends_a_rest_and_a_refusal_that_of_the_upstream(rests: Rests):
    rests.failed(UP, 0, Blame.KEY)
    rests.failed(UP, ALL_KEYS, Blame.UPSTREAM)
    asked_at = rests.trying(UP, 0)
    rests.answered(UP, asked_at)
    assert (rests.left(UP, 0), rests.left(UP, 1)) == (30, 0)
    rests.accepted(UP, 0, asked_at)
    assert (rests.left(UP, 0), rests.resting(UP)) == (0, 0)


def test_who_was_asked_before_a_failure_does_not_disprove_it(rests: Rests, clock: Clock):
    asked_at = rests.trying(UP, 0)
    clock.now += 0.5
    rests.failed(UP, 0, Blame.LIMIT)
    rests.failed(UP, ALL_KEYS, Blame.UPSTREAM)
    rests.accepted(UP, 0, asked_at)
    rests.answered(UP, asked_at)
    rests.proved(UP, 0, asked_at)
    assert rests.left(UP, 0) == 5
    assert rests.resting(UP) == 2


def test_a_101_does_not_make_good_what_failed_behind_one(rests: Rests, clock: Clock):
    rests.failed(UP, 0, Blame.KEY, late=True)
    clock.now += 30
    asked_at = rests.trying(UP, 0)
    rests.accepted(UP, 0, asked_at)
    assert rests.left(UP, 0) == TRIAL_SECONDS
    rests.failed(UP, 0, Blame.KEY, late=True)
    assert rests.left(UP, 0) == 60
    clock.now += 60
    rests.proved(UP, 0, rests.trying(UP, 0))
    assert (rests.left(UP, 0), rests.resting(UP)) == (0, 0)
