import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_app import codec

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_is_json_that_any_reader_reads_back(value):
    text = codec.dumps(value)
    assert json.loads(text) == value
    text.encode()
    assert "\n" not in text


def test_text_is_compact_and_its_slashes_stay():
    assert codec.dumps({"audio": "//8A+/", "é": [1, None]}) == '{"audio":"//8A+/","é":[1,null]}'


@pytest.mark.parametrize("value", [b"ab", {1, 2}, object(), Exception])
def test_what_json_cannot_say_is_a_type_error(value):
    with pytest.raises(TypeError):
        codec.dumps(value)


@pytest.mark.parametrize("text", ["NaN", "[Infinity,-Infinity]", '"\ud800"'])
def test_what_was_let_in_is_let_out_as_it_was(text):
    assert codec.dumps(codec.loads(text)) == text


def test_a_container_within_itself_is_a_type_error():
    value: list[object] = []
    value.append(value)
    with pytest.raises(TypeError, match="recursion"):
        codec.dumps(value)


def test_money_has_to_be_made_text_first():
    assert codec.dumps(str(Decimal("0.10"))) == '"0.10"'


@pytest.mark.parametrize(
    "payload",
    [
        "", b"", " ", "{", "[1,]", "{'a':1}", "tru", "1 2", '{"a":1}x', '"\n', '"\x00"', '"\\x"',
        b'"\xff"', b"\xef\xbb\xbf{}", "[" * 100_000, '{"a":' * 5_000,
        '"unfinished',
    ],
)  # fmt: skip
def test_what_is_not_json_is_a_value_error(payload):
    with pytest.raises(ValueError, match="not JSON") as caught:
        codec.loads(payload)
    assert type(caught.value) is ValueError


@pytest.mark.parametrize(
    ("payload", "value"),
    [("01", 1), ("-", 0), ("1.", 1.0), ("1e999", float("inf")), (b'"\xed\xa0\x80"', "\ud800")],
)
def test_what_ujson_lets_through_is_known(payload, value):
    assert codec.loads(payload) == value
    assert codec.loads("NaN") != codec.loads("NaN")


@given(st.binary(max_size=64) | st.text(max_size=64))
def test_no_input_raises_anything_else(payload):
    try:
        codec.loads_object(payload)
    except ValueError as error:
        assert type(error) is ValueError  # noqa: PT017 - success is fine too


@pytest.mark.parametrize("payload", ["1", '"a"', "[]", "null", "true"])
def test_only_an_object_is_an_object(payload):
    with pytest.raises(ValueError, match="not a JSON object but"):
        codec.loads_object(payload)
    assert codec.loads_object(b'{"a": 1}') == {"a": 1}
