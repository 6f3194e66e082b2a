"""Text is counted as its provider counts it, in bounded work whatever the text."""

import gzip
import subprocess
import sys
from base64 import b64decode
from hashlib import sha256
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_app.meter import tokens, vocabulary
from relay_app.meter.tokens import CHUNK_CHARS, MAX_CHARS, MIN_CHARGE, Counted, count_tokens

DATA = files("relay_app").joinpath("data", "o200k_base.tiktoken.gz")
HOSTILE = {
    "one letter": "a",
    "spaces": " ",
    "newlines": "\n",
    "tabs and spaces": "\t ",
    "joiners": "\u200d",
    "combining": "e\u0301",
    "punctuation": "!",
    "contractions": "'s",
    "mixed case": "aA",
    "digits": "1",
    "nul": "\0",
    "lone surrogate": "\ud800",
    "emoji": "\U0001f469\u200d",
}


class Recorder:
    """An encoder that answers one token a character and keeps the sizes it was asked for."""

    def __init__(self):
        self.sizes = []

    def __call__(self, text):
        self.sizes.append(len(text))
        return [0] * len(text)


def test_the_vocabulary_is_the_published_one_and_packed_without_a_time():
    packed = DATA.read_bytes()
    assert sha256(gzip.decompress(packed)).hexdigest() == vocabulary.SHA256
    assert packed[4:8] == b"\0\0\0\0"


def test_the_numbers_of_the_vocabulary_are_those_of_its_lines():
    lines = gzip.decompress(DATA.read_bytes()).splitlines()
    encode = vocabulary.load()
    for number in (0, 97, 5_000, 199_997):
        token, rank = lines[number].split()
        assert int(rank) == number
        if token.isascii() and b64decode(token).isascii() and b64decode(token).isalpha():
            assert encode(b64decode(token).decode()) == [number]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("Hello there!", 3),
        ("Reply in a few words.", 6),
        ("Hold the reset button for ten seconds.", 8),
        ("<|endoftext|>", 7),
    ],
)
def test_text_is_counted_as_recorded_sessions_were_billed(text, count):
    assert count_tokens([text]) == Counted(count)


def test_cutting_a_long_text_changes_no_count():
    text = "It's a fine day, isn't it?  Quite so:\n\n\tthe 12,345 birds (of Ulm) sing. " * 200
    text = text[: MAX_CHARS - 1]
    assert count_tokens([text]) == Counted(len(vocabulary.load()(text)))


@pytest.mark.parametrize("pattern", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_costs_bounded_work_and_never_raises(pattern):
    text = (pattern * 1_000_000)[:1_000_000]
    recorder = Recorder()
    counted = count_tokens([text], recorder)
    assert sum(recorder.sizes) <= MAX_CHARS
    assert max(recorder.sizes) <= CHUNK_CHARS
    assert len(recorder.sizes) <= 2 * MAX_CHARS // CHUNK_CHARS
    assert counted == Counted(1_000_000, exact=False)
    real = count_tokens([text])
    assert not real.exact
    assert 0 < real.tokens <= 3 * len(text)


def test_a_million_short_texts_cost_bounded_work_too():
    recorder = Recorder()
    counted = count_tokens(["a"] * 100_000, recorder)
    assert len(recorder.sizes) <= MAX_CHARS // MIN_CHARGE
    assert counted == Counted(100_000, exact=False)


def test_a_tokenizer_that_gives_up_is_replaced_by_four_bytes_a_token():
    def refuses(text):
        raise ValueError("regex stack")

    assert count_tokens(["abcdefghi"], refuses) == Counted(3, exact=False)


def test_without_a_vocabulary_four_bytes_are_a_token():
    script = (
        "from relay_app.meter.tokens import count_tokens\n"
        "import sys\n"
        "print(count_tokens(['abcde', '']), 'tiktoken' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "Counted(tokens=2, exact=False) False"


def test_what_is_said_again_is_not_tokenised_again():
    text = "You are a helpful, witty, and friendly AI. " * 20
    first = count_tokens([text])
    assert (len(text), hash(text)) in tokens._cache
    assert count_tokens([text]) == first
    for number in range(tokens.MAX_CACHED + 10):
        count_tokens([f"{number} " + text])
    assert len(tokens._cache) == tokens.MAX_CACHED


@settings(deadline=None)
@given(st.lists(st.text(max_size=3000), max_size=5))
def test_any_texts_are_counted(texts):
    counted = count_tokens(texts)
    assert counted.exact
    assert 0 <= counted.tokens <= sum(len(text.encode("utf-8", "replace")) for text in texts) * 3
