"""Taps: bounded, without audio, and never in anybody's way."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event
from session_support import SECONDS, until

from relay_app.session.tap import AuditSink, Entry, JsonLinesSink, Tap, open_sink
from relay_app.wire.frames import TEXT, Scanner, encode
from relay_app.wire.messages import Assembler, Message


def message(payload: bytes | str, *, opcode: int = TEXT) -> Message:
    data = encode(opcode, payload.encode() if isinstance(payload, str) else payload)
    run = Scanner(masked=False, max_message_bytes=10_000_000).feed(data)
    found = Assembler(0).add(run.data, run.frames[0])
    assert found is not None
    return found


class Kept:
    """A sink in memory that can be made to hang."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.go = Event()
        self.go.set()
        self.busy = False

    def write(self, session_id: str, entries: list[Entry]) -> None:
        assert session_id == "rs_1"
        self.busy = True
        self.go.wait()
        self.entries += entries

    def close(self) -> None:
        pass


def tap_on(sink: AuditSink) -> Tap:
    tap = Tap("sent", "rs_1", sink, clock=lambda: 5.0)
    tap.start()
    return tap


def test_an_entry_says_when_which_way_what_how_long_and_how_it_begins() -> None:
    sink = Kept()
    tap = tap_on(sink)
    payload = '{"type":"session.update","session":{}}'
    tap.offer(message(payload))
    tap.close(SECONDS)
    assert sink.entries == [Entry(5.0, "sent", "session.update", len(payload), payload)]


def test_of_a_payload_at_most_4_kb_are_kept() -> None:
    sink = Kept()
    tap = tap_on(sink)
    tap.offer(message(json.dumps({"type": "session.update", "text": "ab " * 5_000})))
    tap.close(SECONDS)
    (entry,) = sink.entries
    assert entry.payload is not None
    assert len(entry.payload) == 4_096
    assert entry.length > 15_000


AUDIO = "QUJD" * 2_000
CARRIERS = {
    "of the client": {"type": "input_audio_buffer.append", "audio": AUDIO},
    "of the client, type last": {"audio": AUDIO, "type": "input_audio_buffer.append"},
    "of the server": {"type": "response.output_audio.delta", "delta": AUDIO},
    "of the server, beta": {"type": "response.audio.delta", "delta": AUDIO},
    "of the server, type last": {"delta": AUDIO, "type": "response.output_audio.delta"},
    "of an item": {
        "type": "conversation.item.create",
        "item": {"content": [{"type": "input_audio", "audio": AUDIO[:400]}]},
    },
    "of an item, short": {"type": "conversation.item.create", "item": {"audio": AUDIO[:8]}},
    "of an image": {"type": "x", "image_url": "data:image/png;base64," + AUDIO},
    "of an event nobody knows": {"type": "response.sound.delta", "bytes": AUDIO},
}


@pytest.mark.parametrize("event", CARRIERS.values(), ids=CARRIERS.keys())
@pytest.mark.parametrize("escaped", [False, True])
def test_no_audio_is_in_an_entry(event: dict[str, Any], escaped: bool) -> None:
    sink = Kept()
    tap = tap_on(sink)
    text = json.dumps(event)
    if escaped:
        text = text.replace("QUJDQUJD", "QU\\/DQUJD")  # as some encoders write a slash
    tap.offer(message(text))
    tap.close(SECONDS)
    (entry,) = sink.entries
    assert entry.length == len(text)
    assert "QUJD" not in (entry.payload or "")
    assert "DQUJ" not in (entry.payload or "")


def test_binary_messages_are_noted_by_length_alone() -> None:
    sink = Kept()
    tap = tap_on(sink)
    tap.offer(message(b"\x00" * 50, opcode=2))
    tap.close(SECONDS)
    assert [(e.type, e.length, e.payload) for e in sink.entries] == [(None, 50, None)]


def test_a_sink_that_hangs_blocks_nobody_and_overflow_is_counted() -> None:
    sink = Kept()
    sink.go.clear()
    tap = tap_on(sink)
    tap.offer(message('{"type":"a"}'))
    until(lambda: sink.busy)
    with gevent.Timeout(SECONDS):
        for _ in range(150):
            tap.offer(message('{"type":"b"}'))
    # One is being written and 99 wait: 100 in memory.
    assert tap.dropped == 51
    with gevent.Timeout(SECONDS):
        tap.close(0.01)
    assert tap.dropped == 151
    assert sink.entries == []


def test_payloads_of_a_tap_are_bounded_together() -> None:
    sink = Kept()
    sink.go.clear()
    tap = tap_on(sink)
    large = json.dumps({"type": "session.update", "text": "ab " * 5_000})
    for _ in range(100):
        tap.offer(message(large))
    assert tap.dropped == 36  # 64 of 4 kB are 256 kB
    sink.go.set()
    tap.close(SECONDS)
    assert len(sink.entries) == 64
    assert tap.dropped == 36


def test_there_is_room_again_once_entries_are_written() -> None:
    sink = Kept()
    tap = tap_on(sink)
    for n in range(350):
        tap.offer(message(f'{{"type":"a{n}"}}'))
        if n % 50 == 0:
            until(lambda: len(sink.entries) == n + 1)  # noqa: B023
    tap.close(SECONDS)
    assert [entry.type for entry in sink.entries] == [f"a{n}" for n in range(350)]
    assert tap.dropped == 0


def test_a_tap_that_was_never_started_closes_at_once() -> None:
    tap = Tap("sent", "rs_1", Kept())
    tap.offer(message("{}"))
    with gevent.Timeout(1):
        tap.close(SECONDS)


class Raising:
    """A sink whose first writes fail."""

    def __init__(self) -> None:
        self.left = 1
        self.written = 0

    def write(self, session_id: str, entries: list[Entry]) -> None:
        if self.left:
            self.left -= 1
            raise RuntimeError("a bug of somebody's")
        self.written += len(entries)

    def close(self) -> None:
        pass


def test_a_sink_that_raises_is_counted_and_tried_again() -> None:
    sink = Raising()
    tap = tap_on(sink)
    tap.offer(message("{}"))
    until(lambda: tap.dropped == 1)
    tap.offer(message("{}"))
    tap.close(SECONDS)
    assert (sink.written, tap.dropped) == (1, 1)


WRITER = """
import sys
from pathlib import Path
from relay_app.session.tap import Entry, JsonLinesSink
sink = JsonLinesSink(Path(sys.argv[1]))
for n in range(300):
    sink.write(sys.argv[2], [Entry(0.0, "sent", "t", n, sys.argv[2] * 3_000)] * 3)
sink.close()
assert sink.failures == 0
"""


def test_two_processes_append_to_one_file_without_mixing_lines(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "audit.jsonl"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in ("a", "b")
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(entries) == 1_800
    for entry in entries:
        assert entry["payload"] == entry["session"] * 3_000
    assert {key for entry in entries for key in entry} == {
        "time", "session", "direction", "type", "length", "payload",
    }  # fmt: skip
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_disk_error_is_counted_and_the_next_write_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sink = JsonLinesSink(tmp_path / "audit.jsonl")
    entry = Entry(0.0, "sent", "t", 1, "x")
    write = os.write

    def full(file: int, data: bytes) -> int:
        if data.startswith(b'{"time"'):
            raise OSError(errno.ENOSPC, "disk full")
        return write(file, data)

    monkeypatch.setattr("relay_app.session.tap.os.write", full)
    sink.write("rs_1", [entry])
    sink.write("rs_1", [entry])
    monkeypatch.undo()
    sink.write("rs_1", [entry])
    sink.close()
    sink.close()
    assert sink.failures == 2
    assert len((tmp_path / "audit.jsonl").read_text().splitlines()) == 1
    assert "Traceback" not in capfd.readouterr().err


def test_a_disk_that_hangs_takes_no_thread_but_its_own(tmp_path: Path) -> None:
    fifo = tmp_path / "nobody-reads"
    os.mkfifo(fifo)
    sink = JsonLinesSink(fifo)  # the open of it blocks until somebody reads
    writers = [
        gevent.spawn(sink.write, "rs_1", [Entry(0.0, "sent", "t", 1, "x")]) for _ in range(20)
    ]
    gevent.idle()
    for writer in writers:
        writer.kill()
    assert gevent.get_hub().threadpool.apply(lambda: "free") == "free"
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    sink.close()
    os.close(reader)


@pytest.mark.parametrize("url", ["", "jsonl", "jsonl:", "csv:x"])
def test_a_sink_that_is_not_known_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected jsonl:PATH"):
        open_sink(url)


def test_a_sink_is_opened_by_its_url(tmp_path: Path) -> None:
    assert isinstance(open_sink(f"jsonl:{tmp_path}/audit.jsonl"), JsonLinesSink)
    assert list(tmp_path.iterdir()) == []  # not before there is something to write
