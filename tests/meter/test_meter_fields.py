"""The length of a message's audio is found from its ends, and is what a parse would say."""

import base64
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from meter_fakes import Unparsed, event

from relay_app.meter.events import HEAD_BYTES, peek_end
from relay_app.meter.fields import AudioField, response_id, text_bytes
from relay_app.meter.names import CLIENT, SERVER
from relay_app.meter.reading import NEAR_BYTES, read

DELTA = "response.output_audio.delta"
APPEND = "input_audio_buffer.append"


def size(payload, field=b"delta"):
    message = Unparsed(payload)
    return AudioField(field).bytes_in(message, message.head(HEAD_BYTES))


def encoded(data, **options):
    return json.dumps(data, **options).encode()


def audio_of(length):
    return base64.b64encode(bytes(length)).decode()


@pytest.mark.parametrize("length", [0, 1, 2, 3, 299, 300, 301, 700, 12_000, 12_001, 19_201])
@pytest.mark.parametrize(
    "order",
    [
        ["type", "response_id", "delta"],
        ["type", "delta", "response_id"],
        ["delta", "event_id", "item_id", "response_id", "type"],
        ["type", "response_id", "delta", "event_id", "item_id", "null", "number"],
    ],
)
@pytest.mark.parametrize("separators", [(",", ":"), (" , ", " : ")])
def test_audio_is_as_long_as_its_base64_says_wherever_it_stands(length, order, separators):
    values = {
        "type": DELTA,
        "response_id": "resp_JfZbWiJO2BhmS0pV5YUCJ",
        "item_id": "item_GTof3dQSyqnPyQ1Okq9MP",
        "event_id": "73ab4876-7734-47c1-87fd-e805ec99108d",
        "delta": audio_of(length),
        "null": None,
        "number": 0,
    }
    payload = encoded({key: values[key] for key in order}, separators=separators)
    message = Unparsed(payload)
    name, _, head = read(message, SERVER)
    assert name == DELTA
    assert AudioField(b"delta").bytes_in(message, head) == length
    expected = values["response_id"] if "response_id" in order else None
    assert response_id(message, head) == expected


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=2000), st.dictionaries(st.sampled_from("abcdefgh"), st.text(max_size=6)))
def test_audio_among_any_other_fields_is_never_counted_short(data, others):
    text = base64.b64encode(data).decode()
    before = dict(list(others.items())[: len(others) // 2])
    assert size(encoded(before | {"delta": text} | others)) >= len(data)


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 900),
    # Escaped, a character takes up to 12 bytes: the audio has to begin within the first 512.
    st.dictionaries(st.sampled_from(["event_id", "x", "delta"]), st.text(max_size=10)),
    st.dictionaries(st.sampled_from(["y", "z"]), st.text(max_size=90)),
)
@example(1, {"event_id": "\U00010000" * 18, "x": "\U00010000" * 19}, {})
def test_the_first_128_bytes_tell_of_a_clients_audio_what_all_would(length, before, after):
    values = {"type": APPEND, **before, "audio": audio_of(length), **after}
    message = Unparsed(encoded(values, separators=(",", ":")))
    name, _, near = read(message, CLIENT, near_bytes=NEAR_BYTES)
    assert name == APPEND
    _, _, head = read(message, CLIENT)
    assert AudioField(b"audio").bytes_in(message, near) >= length
    assert AudioField(b"audio").bytes_in(message, head) >= length
    if not after:
        assert AudioField(b"audio").bytes_in(message, near) == length


def test_of_a_clients_audio_no_more_than_128_bytes_are_unmasked():
    class Near(Unparsed):
        def head(self, n, /):
            assert n <= NEAR_BYTES
            return self.data[:n]

    message = Near(encoded({"type": APPEND, "audio": audio_of(700)}, separators=(",", ":")))
    assert read(message, CLIENT, near_bytes=NEAR_BYTES)[0] == APPEND


def test_escaped_slashes_and_missing_padding_are_taken():
    text = base64.b64encode(bytes(range(256)) * 20).decode().rstrip("=")
    assert size(f'{{"delta":"{text}"}}'.encode()) == 5120
    escaped = text.replace("/", "\\/")
    assert 5120 <= size(f'{{"delta":"{escaped}"}}'.encode()) <= 5120 * 1.02


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b'{"audio":"AAAA"}', b'{"delta":null}', b'{"delta":7}', b'{"x":"\\"delta\\":"}'],
)
def test_where_there_is_no_audio_there_is_none(payload):
    assert size(payload) == 0


def test_what_follows_beyond_the_tail_counts_as_audio():
    payload = encoded({"delta": "A" * 4000, "other": "x" * 400})
    assert 3000 < size(payload) < 3400


def test_a_stream_of_like_chunks_is_looked_at_once():
    class Head(Unparsed):
        def tail(self, n, /):
            raise AssertionError("the tail was read")

    field = AudioField(b"audio")
    for kind in (Unparsed, Head, Head):
        payload = encoded({"type": "input_audio_buffer.append", "audio": audio_of(700)})
        message = kind(payload)
        assert field.bytes_in(message, message.head(HEAD_BYTES)) == 700
    longer = Unparsed(encoded({"type": "input_audio_buffer.append", "audio": audio_of(703)}))
    assert field.bytes_in(longer, longer.head(HEAD_BYTES)) == 703


def test_audio_cut_off_counts_as_far_as_it_goes():
    assert size(b'{"delta":"' + b"A" * 4000) == 3000
    assert size(b'{"delta":"AAAA') == 3


def test_the_length_of_text_is_that_of_its_json():
    for text in ("Hello", "", 'say "hi"', "é\n", "x" * 300):
        payload = encoded({"type": "t", "delta": text, "obfuscation": "abc"})
        assert text_bytes(event({}), payload) == len(json.dumps(text)) - 2
    long = Unparsed(encoded({"delta": "x" * 4000, "obfuscation": "abc"}))
    assert 4000 <= text_bytes(long, long.head(HEAD_BYTES)) <= 4100


@pytest.mark.parametrize(
    ("tail", "told"),
    [
        (b'AAAA","type":"input_audio_buffer.append"}', "input_audio_buffer.append"),
        (b'A==" , "x" : null , "type" : "a" } \n', "a"),
        (b'AAAA","type":"a","type":"b"}', "b"),
        (b'AAAA","type":"a"}}', None),
        (b'AAAA","y":{"type":"a"}}', None),
        (b'AAAA","type":7}', None),
        (b'AAAA"}', None),
        (b'A A","type":"a"}', None),
        (b"", None),
    ],
)
def test_a_type_behind_the_audio_is_told(tail, told):
    assert peek_end(tail) == told


@settings(deadline=None)
@given(st.binary(max_size=700))
def test_any_bytes_are_taken(data):
    message = Unparsed(data)
    head = message.head(HEAD_BYTES)
    assert 0 <= AudioField(b"audio").bytes_in(message, head) <= len(data)
    assert 0 <= text_bytes(message, head) <= len(data)
    response_id(message, head)
    peek_end(data)
