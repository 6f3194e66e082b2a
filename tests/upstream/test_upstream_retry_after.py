from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_app.upstream.retry_after import retry_after_seconds

NOW = datetime(2026, 10, 21, 7, 27, 30, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0), ("7", 7), ("99999999999", 99_999_999_999),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 30),
        ("Wednesday, 21-Oct-26 07:28:00 GMT", 30),
        ("Wed, 21 Oct 2026 07:28:00 -0000", 30),
        ("Wed, 21 Oct 2026 09:28:00 +0200", 30),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("", None), ("-1", None), ("1.5", None), ("soon", None), ("9" * 21, None),
        ("\u0663", None), ("Wed, 99 Oct 2026 07:28:00 GMT", None),
    ],
)  # fmt: skip
def test_it_is_seconds_or_a_date(value, seconds):
    assert retry_after_seconds(value, NOW) == seconds


@given(st.text() | st.from_regex(r"Wed, \d+ Oct \d+ \d+:\d+:\d+ (GMT|[+-]\d{4})", fullmatch=True))
def test_whatever_is_said_it_is_a_wait_or_nothing(value):
    seconds = retry_after_seconds(value, NOW)
    assert seconds is None or seconds >= 0
