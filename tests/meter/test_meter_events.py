"""peek says what a parse would say, or nothing."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_app.meter import events, fields, names, skim
from relay_app.meter.events import HEAD_BYTES, looks_whole, peek, peek_usual

SPACES = st.text(" \t\n\r", max_size=2)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
KEYS = st.sampled_from(["type", "event_id", '"type"', "typ", "type ", "\\", ""]) | st.text(
    max_size=6
)


@st.composite
def objects(draw, keys=KEYS, values=VALUES):
    """JSON text of an object whose spacing, escapes and order are anyone's; keys may repeat."""
    ascii_only = draw(st.booleans())

    def key_text(key):
        if key and draw(st.integers(0, 5)) == 0:
            return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 65536 else c for c in key) + '"'
        return json.dumps(key, ensure_ascii=ascii_only)

    pairs = [
        draw(SPACES)
        + key_text(draw(keys))
        + draw(SPACES)
        + ":"
        + draw(SPACES)
        + json.dumps(draw(values), ensure_ascii=ascii_only)
        + draw(SPACES)
        for _ in range(draw(st.integers(0, 6)))
    ]
    return draw(SPACES) + "{" + ",".join(pairs) + "}" + draw(SPACES)


def test_a_type_that_comes_first_is_told():
    assert peek(b'{"type":"response.done","response":{') == "response.done"


def test_simple_values_may_stand_before_the_type():
    head = b' {"event_id" : "e\\"1\\u00e9", "n":-1.5e+3, "a":null,"b":true ,"type" :"ping"}'
    assert peek(head) == "ping"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"{",
        b"{}",
        b"null",
        b'[{"type":"a"}]',
        b'"type":"a"',
        b'{"session":{"type":"realtime"},"type":"session.updated"}',
        b'{"tools":[],"type":"a"}',
        b'{"type":"respon',
        b'{"type":"response.done"',
        b'{"type":5}',
        b'{"type":null}',
        b'{"type":{"type":"a"}}',
        b'{"type":"a\\u002eb"}',
        b'{"t\\u0079pe":"a"}',
        b'{"type":"a\nb"}',
        b'{"type":"\xff"}',
        b'{"x":"\\"type\\":\\"a\\","}',
        b'{"x" "type":"a"}',
    ],
)
def test_what_the_head_does_not_tell_is_none(head):
    assert peek(head) is None


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (b'{"type":"a","type":"b"}', "b"),
        (b'{"type":"a","x":1,"type":"b","delta":"AAAA', "b"),
        (b'{"type":1,"type":"b"}', None),
        (b'{"type":"a","type":1}', None),
        (b'{"type":"a","type":{"x":1}}', None),
        (b'{"type":"a","type":"b\\n"}', None),
        (b'{"type":"a","t\\u0079pe":"b"}', None),
        (b'{"type":"a","x":"say \\"type\\" now"}', "a"),
        (b'{"type":"a","item":{"type":"message"}}', "a"),
    ],
)
def test_of_several_types_the_last_wins(head, told):
    assert peek(head) == told


def test_a_type_beyond_the_head_is_none():
    padded = b'{"event_id":"' + b"x" * HEAD_BYTES + b'","type":"a"}'
    assert peek(padded) is None
    assert peek(padded[:HEAD_BYTES]) is None


@pytest.mark.parametrize("filler", [b'"', b"\\", b" ", b'"a":1,', b'{"a":', b"[", b'"type":'])
def test_no_head_makes_it_try_a_byte_twice(filler):
    # A pattern that backtracks would not return from these in the lifetime of the universe.
    assert peek((b"{" + filler * HEAD_BYTES)[:HEAD_BYTES]) is None
    assert peek((b'{"type":"a",' + filler * HEAD_BYTES)[:HEAD_BYTES]) in (None, "a")


@settings(deadline=None, max_examples=300)
@given(objects(values=SCALARS))
def test_peek_agrees_with_a_parse_of_flat_objects_even_with_repeated_keys(text):
    payload = text.encode("utf-8", "surrogatepass")
    told = peek(payload[:HEAD_BYTES])
    if len(payload) <= HEAD_BYTES and told is not None:
        assert json.loads(payload.decode("utf-8", "surrogatepass"))["type"] == told


@settings(deadline=None, max_examples=300)
@given(objects())
def test_peek_agrees_with_a_parse_where_no_type_is_repeated(text):
    repeated = []
    first_level = json.loads(text, object_pairs_hook=lambda pairs: repeated.append(pairs) or pairs)
    told = peek(text.encode("utf-8", "surrogatepass")[:HEAD_BYTES])
    types = [value for key, value in first_level if key == "type"]
    if told is not None and len(types) == 1:
        assert types == [told]
    if told is not None:
        assert told in types


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_peek_takes_any_bytes(data):
    assert peek(data) is None or isinstance(peek(data), str)


@settings(deadline=None)
@given(st.text('{}"type:,\\ 1a[]', max_size=60))
def test_what_peek_tells_of_near_json_a_parse_confirms(text):
    told = peek(text.encode())
    try:
        value = json.loads(text)
    except ValueError:
        return
    if told is not None:
        assert value["type"] == told


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (b'{"type":"ping"}', "ping"),
        (b'{"type":"response.audio.delta","delta":"AAAA', "response.audio.delta"),
        (b'{ "type":"ping"}', None),
        (b'{"type": "ping"}', None),
        (b'{"type":"ping" }', None),
        (b'{"type":"unheard of"}', None),
        (b'{"type":"ping"', None),
        (b'{"type":"pingx', None),
        (b'{"type":"ping","type":"error"}', None),
        (b'{"type":"ping","t\\u0079pe":"error"}', None),
        (b'{"type":"response.done","response":{"type":"x","a":"\\n', "response.done"),
        (b'{"type":"ping","a":[{"type":"error"}]}', "ping"),
        (b'{"type":"ping","a":"{","type":"error"}', None),
        (b'{"type":"ping","a":"{\\"{","type":"error"}', None),
        (b'{"type":"ping","type":{"a":"error"}}', None),
    ],
)
def test_the_usual_way_to_write_a_type_is_told_and_no_other(head, told):
    assert peek_usual(head) == told


@settings(deadline=None, max_examples=300)
@given(objects(), st.sampled_from(sorted(names.SERVER)), st.booleans())
def test_what_is_told_of_the_usual_way_peek_confirms(text, name, close):
    rest = text.strip()[1:]
    payload = f'{{"type":"{name}"{"}" if close else ","}{rest}'.encode("utf-8", "surrogatepass")
    told = peek_usual(payload[:HEAD_BYTES])
    assert told in (None, name)
    if told is not None:
        assert peek(payload[:HEAD_BYTES]) == told


@settings(deadline=None, max_examples=1000)
@given(st.lists(st.sampled_from(['"type"', '"a":', '"', "{", "}", "[", ",", ":", "\\", "1"])))
def test_what_is_told_of_the_usual_way_in_near_json_peek_confirms(pieces):
    head = ('{"type":"ping",' + "".join(pieces)).encode()
    assert peek_usual(head) in (None, peek(head))


@pytest.mark.parametrize(
    ("payload", "whole"),
    [
        (b"{}", True),
        (b' \n{"type":"ping"}\r\n', True),
        (b'{"type":"ping"', False),
        (b"{", False),
        (b"}", False),
        (b"", False),
        (b"[]", False),
        (b'{"type":"ping"}]', False),
    ],
)
def test_a_whole_object_has_both_its_braces(payload, whole):
    assert looks_whole(payload[:512], payload[-16:]) is whole


def test_a_tail_of_whitespace_tells_nothing():
    assert looks_whole(b'{"type":"ping"}' + b" " * 600, b" " * 16)


def test_every_audio_and_counted_type_is_known():
    assert names.AUDIO <= names.CLIENT | names.SERVER
    assert names.COUNTED <= names.SERVER
    assert names.ASKED <= names.CLIENT
    assert names.TEXT_DELTAS <= names.SERVER
    assert not names.AUDIO & names.COUNTED


@pytest.mark.parametrize("module", [events, fields, skim], ids=lambda module: module.__name__)
def test_no_group_is_repeated_possessively(module):
    """Python before 3.11.5 matches that wrongly (gh-106052), and Debian 12 has 3.11.2."""
    with open(module.__file__, encoding="utf-8") as source:
        assert re.findall(r"\)[*+?]\+", source.read()) == []
