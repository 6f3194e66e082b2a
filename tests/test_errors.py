import pytest

from relay_app.errors import ClientFault, Fault, RelayFault, UpstreamFault, close_reason


@pytest.mark.parametrize(
    ("kind", "status", "close_code", "type_"),
    [
        (ClientFault, 400, 1008, "invalid_request_error"),
        (UpstreamFault, 502, 1011, "server_error"),
        (RelayFault, 503, 1011, "server_error"),
    ],
)
def test_each_fault_knows_whose_it_is(kind, status, close_code, type_):
    fault = kind("why")
    assert isinstance(fault, Fault)
    assert (fault.status, fault.close_code, fault.type) == (status, close_code, type_)
    assert str(fault) == "why"


def test_what_is_given_goes_before_what_the_kind_says():
    fault = ClientFault(
        "why", status=402, close_code=4000, type="insufficient_quota", code="c", param="p"
    )
    assert (fault.status, fault.close_code) == (402, 4000)
    assert fault.body() == {
        "error": {"message": "why", "type": "insufficient_quota", "code": "c", "param": "p"}
    }
    assert fault.event() == {"type": "error", **fault.body()}
    assert ClientFault("other").status == 400


def test_the_headers_of_a_fault_are_its_own():
    headers = {"Retry-After": "1"}
    one, other = RelayFault("a", headers=headers), RelayFault("b")
    one.headers["X"] = "y"
    assert headers == {"Retry-After": "1"}
    assert other.headers == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", b""),
        ("short", b"short"),
        ("x" * 123, b"x" * 123),
        ("x" * 124, b"x" * 123),
        ("x" * 122 + "é", b"x" * 122),
        ("☎" * 50, "☎".encode() * 41),
        ("\ud800", b"?"),
    ],
)
def test_a_close_reason_is_cut_at_a_character_boundary(text, reason):
    assert close_reason(text) == reason
    assert len(close_reason(text)) <= 123
