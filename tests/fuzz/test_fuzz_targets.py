"""What fuzzing reached and found stays reached and mended; and hypothesis goes on from there."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.target import CORPUS, Target
from fuzz.targets import TARGETS

KILOBYTES = 1_000
each_target = pytest.mark.parametrize("name", TARGETS)


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Damaged journals say so, thousands of times."""
    log = logging.getLogger("relay_app.ledger.backlog")
    log.disabled = True
    yield
    log.disabled = False


def corpus(name: str) -> list[Path]:
    return sorted((CORPUS / name).iterdir())


@each_target
def test_what_was_found_once_breaks_no_law(name: str) -> None:
    for path in corpus(name):
        try:
            TARGETS[name].check(path.read_bytes())
        except Exception as error:
            error.add_note(f"the input is tests/corpus/{name}/{path.name}")
            raise


@each_target
def test_an_input_as_in_life_breaks_no_law_and_is_not_cut(name: str) -> None:
    target = TARGETS[name]
    for seed in target.seeds():
        assert len(seed) <= target.max_bytes
        target.check(seed)


def test_the_corpus_is_of_these_targets_and_small() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    sizes = [path.stat().st_size for name in TARGETS for path in corpus(name)]
    assert max(sizes) <= 3 * KILOBYTES
    assert sum(sizes) <= 800 * KILOBYTES


@st.composite
def near(draw: st.DrawFn, target: Target) -> bytes:
    """Inputs as in life, spliced, with bits flipped, pieces gone, said twice, or foreign."""
    seeds = list(target.seeds())
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        match draw(st.sampled_from(["flip", "cut", "twice", "word", "splice", "noise", "end"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at:end]
            case "twice":
                data[at:at] = data[at:end]
            case "word":
                data[at:at] = draw(st.sampled_from(target.words))
            case "splice":
                other = draw(st.sampled_from(seeds))
                data[at:end] = other[len(other) // 3 :]
            case "noise":
                data[at:at] = draw(st.binary(max_size=20))
            case "end":
                del data[end:]
    return bytes(data[: target.max_bytes])


@each_target
@settings(max_examples=60 if settings.default.max_examples <= 100 else 3_000)
@given(data=st.data())
def test_inputs_near_those_of_life_break_no_law(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    target.check(data.draw(near(target)))


@each_target
@given(noise=st.binary(max_size=300))
def test_noise_breaks_no_law(name: str, noise: bytes) -> None:
    TARGETS[name].check(noise)
