import logging
import re
import shlex
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_app.observe.logs import FORMAT, SessionLog, _Formatter, line


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain", "plain"), (3, "3"), (1.5, "1.5"), (True, "True"), ("ünï", "ünï"),
        ("", '""'), ("two words", '"two words"'), ("a=b", '"a=b"'),
        ('say "hi"', '"say \\"hi\\""'), ("back\\slash", "back\\slash"),
        ("back\\ slash", '"back\\\\ slash"'), ("line\nbreak", '"line\\nbreak"'),
        ("\r\n2026 INFO forged", '"\\r\\n2026 INFO forged"'), ("\x1b[31m", '"\\x1b[31m"'),
        ("\u2028", '"\\u2028"'), ("\ud800", '"\\ud800"'), ("\x00", '"\\x00"'),
    ],
)  # fmt: skip
def test_values_are_quoted_where_they_need_to_be(value, written):
    assert line("event", key=value) == f"event key={written}"


def test_what_is_none_is_left_out():
    assert line("opened", a=None, b="", c=0) == 'opened b="" c=0'


@given(st.text(), st.text())
def test_no_value_ends_its_line_or_its_quotes(one, other):
    written = line("event", one=one, other=other)
    assert written.isprintable()
    assert len(written.splitlines()) == 1
    if "\\" not in one + other and "'" not in one + other:
        event, *pairs = shlex.split(written)
        assert event == "event"
        assert [pair.split("=", 1)[0] for pair in pairs] == ["one", "other"]


def test_every_line_of_a_session_bears_its_id(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("relay_app"), "propagate", True)
    log = SessionLog("rs_1")
    with caplog.at_level(logging.INFO, "relay_app"):
        log.info("opened", key="a")
        log.warning("slow")
        log.error("bad", code=3)
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("failed")
    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("INFO", "opened session=rs_1 key=a"),
        ("WARNING", "slow session=rs_1"),
        ("ERROR", "bad session=rs_1 code=3"),
        ("ERROR", "failed session=rs_1"),
    ]
    assert caplog.records[-1].exc_info is not None


def test_times_are_written_as_by_the_standard_library():
    ours, stock = _Formatter(FORMAT), logging.Formatter(FORMAT)
    for created in (0.0, 1_700_000_000.0, 1_700_000_000.9996, 1_700_000_001.25, 1_700_000_000.5):
        record = logging.makeLogRecord({"msg": "x", "levelname": "INFO", "created": created})
        record.msecs = (created % 1) * 1000
        assert ours.format(record) == stock.format(record)
        assert re.fullmatch(r"[-0-9]{10} [:0-9]{8},[0-9]{3} INFO x", ours.format(record))


@pytest.mark.parametrize(
    ("before", "lines"),
    [
        ("", 1),
        ("configure()", 1),
        ("logging.basicConfig(format='host %(message)s', level=20)", 1),
        ("logging.getLogger('relay_app').addHandler(logging.NullHandler())", 0),
    ],
)
def test_the_relay_logs_once_and_leaves_a_hosts_logging_alone(before, lines):
    script = (
        "import logging\nfrom relay_app.observe.logs import configure, logger\n"
        f"{before}\nconfigure()\nlogger.info('hello')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30
    )
    assert len(done.stderr.splitlines()) == lines
    assert ("host hello" in done.stderr) == ("basicConfig" in before)
