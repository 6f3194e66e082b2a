import pytest

from relay_app.errors import UpstreamFault
from relay_app.upstream.blame import Blame, blame, blame_of_close, blame_of_event, result
from relay_app.upstream.refusal import refusal


def answered(status: int, body: bytes = b"") -> UpstreamFault:
    return refusal("up", status, {}, body, "sk-secret-00000")


@pytest.mark.parametrize(
    ("status", "due_to"),
    [
        (200, Blame.UPSTREAM), (302, Blame.UPSTREAM), (400, Blame.REQUEST), (401, Blame.KEY),
        (402, Blame.KEY), (403, Blame.KEY), (404, Blame.MODEL), (405, Blame.REQUEST),
        (408, Blame.UPSTREAM), (413, Blame.REQUEST), (422, Blame.REQUEST), (425, Blame.UPSTREAM),
        (426, Blame.REQUEST), (429, Blame.LIMIT), (431, Blame.REQUEST), (500, Blame.UPSTREAM),
        (502, Blame.UPSTREAM), (503, Blame.UPSTREAM), (529, Blame.UPSTREAM),
    ],
)  # fmt: skip
def test_a_status_says_who_is_to_blame(status, due_to):
    fault = answered(status)
    assert blame(fault) is due_to
    assert result(fault) == str(status)


@pytest.mark.parametrize(
    ("status", "error", "due_to"),
    [
        (429, '"code":"insufficient_quota"', Blame.KEY),
        (429, '"type":"insufficient_quota"', Blame.KEY),
        (429, '"code":"rate_limit_exceeded"', Blame.LIMIT),
        (403, '"code":"model_not_found"', Blame.MODEL),
        (401, '"param":"model"', Blame.MODEL),
        (401, '"code":"invalid_api_key"', Blame.KEY),
        (500, '"code":"insufficient_quota"', Blame.UPSTREAM),
    ],
)
def test_the_words_of_a_refusal_tell_keys_from_limits_and_models(status, error, due_to):
    assert blame(answered(status, b'{"error":{%s}}' % error.encode())) is due_to


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("upstream_unreachable", 502, "unreachable"),
        ("upstream_timeout", 504, "timeout"),
        ("upstream_proxy_refused", 502, "proxy_refused"),
        ("a word of somebody's", 502, "502"),
        (None, 502, "502"),
    ],
)
def test_what_never_answered_is_its_upstreams_fault(code, status, said):
    fault = UpstreamFault("m", status=status, code=code)
    assert blame(fault) is Blame.UPSTREAM
    assert result(fault) == said


def test_no_word_of_a_provider_becomes_a_label():
    assert result(answered(403, b'{"error":{"code":"upstream_x"}}')) == "403"


@pytest.mark.parametrize(
    ("code", "kind", "due_to"),
    [
        ("insufficient_quota", "insufficient_quota", Blame.KEY),
        ("invalid_api_key", "invalid_request_error", Blame.KEY),
        ("", "authentication_error", Blame.KEY),
        ("rate_limit_exceeded", "", Blame.LIMIT),
        ("", "server_error", Blame.UPSTREAM),
        ("model_not_found", "invalid_request_error", Blame.MODEL),
        ("beta_api_shape_disabled", "invalid_request_error", Blame.REQUEST),
        ("", "", Blame.REQUEST),
    ],
)
def test_an_error_event_says_who_is_to_blame(code, kind, due_to):
    assert blame_of_event(code, kind) is due_to


@pytest.mark.parametrize(
    ("code", "due_to"),
    [(1006, Blame.UPSTREAM), (1008, Blame.KEY), (1011, Blame.UPSTREAM), (1013, Blame.UPSTREAM),
     (1000, None), (1005, None), (1007, None), (1009, None), (4000, None)],
)  # fmt: skip
def test_a_close_code_says_who_is_to_blame(code, due_to):
    assert blame_of_close(code) is due_to
