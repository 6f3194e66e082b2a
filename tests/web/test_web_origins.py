import pytest

from relay_app.errors import ClientFault
from relay_app.web.origins import check_origin


def may(origin: str | None, *allowed: str) -> bool:
    return _may(origin, allowed)


def _may(origin: str | None, allowed: tuple[str, ...] | None) -> bool:
    environ = {} if origin is None else {"HTTP_ORIGIN": origin}
    try:
        check_origin(environ, allowed)
    except ClientFault as fault:
        return fault.status != 403
    return True


@pytest.mark.parametrize(
    ("origin", "pattern"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("HTTPS://App.Example.com", "https://app.example.com"),
        ("https://app.example.com", "https://app.example.com:443"),
        ("http://app.example.com:80", "http://app.example.com"),
        ("https://app.example.com:8443", "https://app.example.com:8443"),
        ("https://a.b.example.com", "https://*.example.com"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
        ("null", "null"),
        ("https://anything.example", "*"),
        ("null", "*"),
    ],
)
def test_an_origin_of_the_list_may(origin: str, pattern: str):
    assert may(origin, "https://other.example", pattern)


@pytest.mark.parametrize(
    ("origin", "pattern"),
    [
        ("http://app.example.com", "https://app.example.com"),
        ("https://app.example.com:8443", "https://app.example.com"),
        ("https://app.example.com.evil.example", "https://app.example.com"),
        ("https://evilexample.com", "https://*.example.com"),
        ("https://evil.example/.example.com", "https://*.example.com"),
        ("https://evil.example:1.example.com", "https://*.example.com"),
        ("https://evil.example?.example.com", "https://*.example.com"),
        ("https://example.com", "https://*.example.com"),
        ("https://a.example.com:444", "https://*.example.com"),
        ("http://a.example.com", "https://*.example.com"),
        ("https://a.example.com https://evil.example", "https://*.example.com:443"),
        ("null", "https://app.example.com"),
        ("", "https://app.example.com"),
        ("https://app.example.com,https://evil.example", "https://app.example.com"),
    ],
)
def test_any_other_may_not(origin: str, pattern: str):
    assert not may(origin, pattern)


def test_who_is_no_browser_is_not_asked():
    assert may(None, "https://app.example.com")
    assert _may(None, None)
    assert may(None)


def test_an_empty_list_is_no_browser_at_all():
    assert not may("https://app.example.com")


@pytest.mark.parametrize(
    ("origin", "here"),
    [
        ("http://localhost:5173", True),
        ("https://app.localhost", True),
        ("http://127.0.0.1:8000", True),
        ("http://127.8.9.1", True),
        ("http://[::1]:3000", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://127.0.0.1.evil.example", False),
        ("http://10.0.0.1", False),
        ("http://evil.example:localhost@x", False),
        ("http://localhost@evil.example", False),
        ("http://[::1", False),
        ("null", False),
        ("", False),
    ],
)
def test_without_a_list_pages_of_this_machine_may(origin: str, here: bool):
    assert _may(origin, None) is here
