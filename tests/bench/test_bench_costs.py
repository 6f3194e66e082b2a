"""The gate: what the pump asks of the kernel and of the allocator stays as it was agreed on."""

import sysconfig
from pathlib import Path

import pytest

from bench.costs import PATHS, WRITE, agreed, compare, measured, python_version, table, write
from bench.counters import NoCompiler, build

TOLD = f"if that is meant, agree on it: {WRITE}"
WASTE = {
    "allocations": "memoryview(data)",
    "send": "ours.send(b'x', socket.MSG_DONTWAIT), theirs.recv(9)",
    "epoll_ctl": "poll.register(ours), poll.unregister(ours)",
}
PATCH = """\
import select
import socket

from relay_app.meter.meter import Meter

ours, theirs = socket.socketpair()
poll = select.epoll()
made = Meter.__init__


def make(meter, *args, **options):
    made(meter, *args, **options)
    meter.skim_sent = wasteful(meter.skim_sent)
    meter.skim_received = wasteful(meter.skim_received)


def wasteful(skim):
    def look(data, frames, begin):
        {waste}
        return skim(data, frames, begin)

    return look


Meter.__init__ = make
"""


@pytest.mark.parametrize("path", PATHS)
def test_the_pump_asks_for_as_much_as_was_agreed_on(path: str) -> None:
    expected = agreed(path)
    off = compare(measured(path), expected)
    assert not off, "\n".join([f"{path}:", *off, TOLD])
    if not all("allocations" in each for each in expected.values()):
        pytest.skip(f"no allocations were agreed on for Python {python_version()}: {WRITE}")


@pytest.mark.parametrize("what", WASTE)
def test_a_memoryview_or_a_call_more_for_each_message_is_noticed(what: str, tmp_path: Path) -> None:
    expected = agreed("compiled")
    if not all(what in each for each in expected.values()):
        pytest.skip(f"no allocations were agreed on for Python {python_version()}: {WRITE}")
    (tmp_path / "sitecustomize.py").write_text(PATCH.format(waste=WASTE[what]))
    off = compare(measured("compiled", {"PYTHONPATH": str(tmp_path)}), expected)
    assert any(line.startswith(f"audio and text, one by one: {what} ") for line in off), off


def test_less_is_to_be_agreed_on_as_well_as_more() -> None:
    expected = {"a turn": {"send": 100, "recv": 100, "wakeups": 0}}
    assert compare({"a turn": {"send": 95, "recv": 105, "wakeups": 0}}, expected) == []
    assert compare({"a turn": {"send": 94, "recv": 106, "wakeups": 1}}, expected) == [
        "a turn: send 100 -> 94 (-6.0%)",
        "a turn: recv 100 -> 106 (+6.0%)",
        "a turn: wakeups 0 -> 1 (was none)",
    ]


def test_a_case_that_nobody_agreed_on_is_named() -> None:
    assert compare({"new": {}}, {"old": {}}) == [
        "new: measured or agreed on, not both",
        "old: measured or agreed on, not both",
    ]


def test_what_was_written_is_agreed_on(tmp_path: Path) -> None:
    each = {
        "messages": 2,
        "recv": 1,
        "send": 1,
        "epoll_ctl": 0,
        "wakeups": 1,
        "allocations": 9,
        "bytes": 64,
    }
    figures = {path: {"a turn": each} for path in PATHS}
    file = tmp_path / "costs.json"
    write(figures, file)
    assert agreed("pure", file) == {"a turn": each}
    assert "| a turn | compiled | 0.50 | 0.50 | 0.00 | 0.50 | 4.5 | 32 |" in table(figures)


def test_without_a_compiler_nothing_is_counted_and_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: "no-such-compiler")
    with pytest.raises(NoCompiler, match="no-such-compiler -shared"):
        build("calls", tmp_path)
