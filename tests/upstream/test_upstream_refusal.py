import json
import time

import pytest

from relay_app.errors import UpstreamFault
from relay_app.upstream.refusal import refusal, scrubbed

SECRET = "azure0secret0hex0123456789"


def refused(
    status: int, body: object = b"", headers: dict[str, str] | None = None
) -> UpstreamFault:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return refusal("up", status, headers or {}, raw, SECRET)


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 502, 503, 529, 599])
def test_a_status_that_clients_act_on_is_kept(status):
    fault = refused(status, {"error": {"message": "m", "type": "t", "code": "c", "param": "p"}})
    assert fault.status == status
    assert fault.body() == {"error": {"message": "m", "type": "t", "code": "c", "param": "p"}}


@pytest.mark.parametrize("status", [200, 204, 301, 302, 400, 402, 405, 418, 426])
def test_any_other_answer_is_a_bad_gateway_that_names_it(status):
    fault = refused(status, {"error": {"message": "no"}}, {"location": "https://evil/"})
    assert fault.status == 502
    assert fault.code == "upstream_bad_answer"
    assert fault.message == f"The upstream up answered {status} to the WebSocket upgrade: no"
    assert fault.headers == {}


@pytest.mark.parametrize(
    "body", [b"", b"<html>Forbidden</html>", b"\xff\xfe", b"[]", b"3", b'{"error":"no"}',
             b'{"error":{"message":3,"code":7,"type":null}}']
)  # fmt: skip
def test_a_body_that_says_nothing_leaves_the_status(body):
    fault = refused(403, body)
    assert fault.status == 403
    assert fault.message == "The upstream up refused the connection with status 403."
    assert fault.code == "upstream_refused"
    assert fault.type == "server_error"


def test_fields_at_the_top_are_found():
    assert refused(403, {"message": "no", "code": "denied"}).message == "no"


@pytest.mark.parametrize(
    ("value", "passed"),
    [
        ("7", {"Retry-After": "7"}),
        ("Wed, 21 Oct 2026 07:28:00 GMT", {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}),
        ("9" * 65, {}),
        ("-5", {}),
        ("1e3", {}),
        ("soon", {}),
        ("caf\xe9", {}),
        (f"Wed, 21 Oct 2026 {SECRET} GMT", {}),
        ("in 7 s, sk-proj-abcd1234", {}),
        ("", {}),
    ],
)
def test_only_a_retry_after_is_passed_on(value, passed):
    headers = {"retry-after": value, "set-cookie": "a=b", "www-authenticate": "Bearer"}
    assert refused(429, b"", headers).headers == passed


@pytest.mark.parametrize(
    "said",
    [
        f"Incorrect API key provided: {SECRET}.",
        "Incorrect API key provided: sk-proj-********************abcd.",
        "Incorrect API key provided: azure***************6789.",
        "key ************6789 is expired",
        "Organization org-AbCdEf123456 is out of credits (project proj_AbCdEf123456)",
    ],
)
def test_no_key_or_account_of_ours_is_passed_on(said):
    fault = refused(401, {"error": {"message": said, "code": said, "param": said, "type": said}})
    for text in (fault.message, fault.code, fault.param, fault.type):
        assert "[redacted]" in text
        for part in (SECRET, "abcd", "6789", "AbCdEf"):
            assert part not in text


def test_the_key_is_gone_before_the_message_is_cut():
    fault = refused(401, {"error": {"message": "x" * 495 + SECRET}})
    assert len(fault.message) <= 500
    assert SECRET[:5] not in fault.message


def test_what_no_answer_could_say_is_replaced():
    fault = refused(403, b'{"error":{"message":"half \\ud800 a pair","code":"\\udc00"}}')
    assert (fault.message, fault.code) == ("half ? a pair", "?")


@pytest.mark.parametrize("word", ["a", "-", "*", "sk-", "a*", "**a", "org-", "a ** "])
def test_endless_words_take_no_longer_than_others(word):
    text = word * (400_000 // len(word))

    def seconds(text: str) -> float:
        begun = time.process_time()
        scrubbed(text, SECRET)
        return time.process_time() - begun

    assert seconds(text) < max(0.25, 20 * seconds("plain words " * (len(text) // 12)))


def test_plain_words_stay():
    text = "You exceeded your quota on task-based risk-free **bold** user_id."
    assert scrubbed(text, "") == scrubbed(text, SECRET) == text
