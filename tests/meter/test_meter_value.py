"""A value that is made quickly is the frozen dataclass that it was."""

import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace

import pytest

from relay_app.meter.usage import Usage, UsageRecord
from relay_app.meter.value import quickly_made


@dataclass(frozen=True, slots=True)
class Usual:
    one: int
    two: str = "b"
    three: tuple[int, ...] = ()


@quickly_made
@dataclass(frozen=True, slots=True)
class Quick:
    one: int
    two: str = "b"
    three: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("given", "named"), [((1,), {}), ((1, "c", (3,)), {}), ((), {"two": "d", "one": 2})]
)
def test_it_is_made_of_the_same_fields(given, named):
    usual, quick = Usual(*given, **named), Quick(*given, **named)
    assert repr(quick) == repr(usual).replace("Usual", "Quick")
    assert quick == Quick(quick.one, quick.two, quick.three)
    assert hash(quick) == hash(usual)


@pytest.mark.parametrize(
    ("given", "named"), [((), {}), ((1, "c", (), 4), {}), ((1,), {"one": 1}), ((1,), {"x": 1})]
)
def test_it_refuses_what_the_usual_one_refuses(given, named):
    for kind in (Usual, Quick):
        with pytest.raises(TypeError, match=r"__init__\(\)"):
            kind(*given, **named)


def test_it_is_frozen_and_can_be_replaced_and_copied():
    quick = Quick(1)
    with pytest.raises(FrozenInstanceError):
        quick.one = 2
    assert replace(quick, two="c") == Quick(1, "c")
    assert pickle.loads(pickle.dumps(quick)) == quick
    assert inspect.signature(Quick) == inspect.signature(Usual)


@pytest.mark.parametrize("kind", [Usage, UsageRecord])
def test_every_field_of_what_is_recorded_finds_its_place(kind):
    values = [f"value of {f.name}" for f in fields(kind)]
    made = kind(*values)
    assert [getattr(made, f.name) for f in fields(kind)] == values
    assert made == kind(**{f.name: v for f, v in zip(fields(kind), values, strict=True)})


def test_a_field_that_is_made_anew_each_time_is_refused_at_once():
    @dataclass(frozen=True, slots=True)
    class Anew:
        them: list[int] = field(default_factory=list)

    with pytest.raises(AssertionError):
        quickly_made(Anew)
