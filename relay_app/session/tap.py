"""Taps: what is said in a session, copied for an audit, at the price of nobody's audio.

The rule: a tap never blocks the pump it listens to. What does not fit is dropped and counted.
Entries carry no audio: of an audio event only its length is kept.
"""

import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gevent
from gevent.lock import Semaphore
from gevent.queue import Queue
from gevent.threadpool import ThreadPool

from relay_app import codec
from relay_app.ledger.threads import call
from relay_app.meter.events import AUDIO, peek
from relay_app.meter.message import Message

__all__ = ["AuditSink", "JsonLinesSink", "Tap", "open_sink"]

TAP_ENTRIES = 100
"""The ancestor's channel capacity; at 4 kB each more than the byte limit ever lets in."""
TAP_BYTES = 262_144
PAYLOAD_BYTES = 4_096
CLOSE_SECONDS = 1.0
_AUDIO_FIELD = re.compile(r'("audio"\s*:\s*")[^"]+')
"""Items carry audio too: ``conversation.item.create`` and ``.retrieved``."""
_BASE64 = re.compile(r"[A-Za-z0-9+/=\\]{200,}")
"""Audio and images wherever else they stand, as in an event that names its type behind them."""

_log = logging.getLogger("relay_app")


@dataclass(frozen=True, slots=True)
class Entry:
    """One message: when, which way, what type, how long, and the beginning of what it said."""

    time: float
    direction: str
    type: str | None
    length: int
    payload: str | None


class AuditSink(Protocol):
    """Where entries go. ``write`` may block its greenlet, never the hub."""

    def write(self, session_id: str, entries: list[Entry]) -> None: ...

    def close(self) -> None: ...


class Tap:
    """One direction's bounded queue between a pump and the sink.

    Memory: 100 entries and 256 kB of payload, those that the sink is writing included.
    """

    def __init__(
        self,
        direction: str,
        session_id: str,
        sink: AuditSink,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.dropped = 0
        self._direction = direction
        self._session_id = session_id
        self._sink = sink
        self._clock = clock
        self._entries = 0
        self._bytes = 0
        # Entries are counted until they are written, so the end mark always finds a place.
        self._queue: Queue[Entry | None] = Queue()
        self._drainer: gevent.Greenlet[[], None] | None = None

    def start(self) -> None:
        """Begins to write what is offered."""
        self._drainer = gevent.spawn(self._drain)

    def offer(self, message: Message) -> None:
        """Takes note of ``message`` if there is room; never blocks."""
        if self._entries >= TAP_ENTRIES:
            self.dropped += 1
            return
        entry = self._entry(message)
        size = len(entry.payload or "")
        if self._bytes + size > TAP_BYTES:
            self.dropped += 1
            return
        self._entries += 1
        self._bytes += size
        self._queue.put_nowait(entry)

    def close(self, seconds: float) -> None:
        """Waits until what was taken is with the sink, at most ``seconds``; drops the rest."""
        if self._drainer is None:
            return
        self._queue.put_nowait(None)
        try:
            self._drainer.join(seconds)
        finally:
            self._drainer.kill(block=False)
            self.dropped += self._entries
            self._entries = 0

    def _entry(self, message: Message) -> Entry:
        head = message.head(PAYLOAD_BYTES)
        kind = peek(head) if message.text else None
        payload = None
        if message.text and kind not in AUDIO:
            text = head.decode("utf-8", "replace")
            payload = _BASE64.sub("...", _AUDIO_FIELD.sub(r"\1...", text))
        return Entry(self._clock(), self._direction, kind, message.length, payload)

    def _drain(self) -> None:
        more = True
        while more:
            entries = [self._queue.get()]
            while not self._queue.empty():
                entries.append(self._queue.get_nowait())
            taken = [entry for entry in entries if entry is not None]
            more = len(taken) == len(entries)
            if taken:
                self._write(taken)

    def _write(self, entries: list[Entry]) -> None:
        try:
            self._sink.write(self._session_id, entries)
        except Exception as error:  # noqa: BLE001 - an audit must not end because of one write
            self.dropped += len(entries)
            _log.error("audit sink failed: %r", error)
        self._entries -= len(entries)
        self._bytes -= sum(len(entry.payload or "") for entry in entries)


class JsonLinesSink:
    """Appends entries to a file, one JSON object a line; several workers may share the file.

    Writes go through one thread of its own: a disk that hangs stops the audit, and nothing that
    shares the hub's threads. Each write is one ``write(2)`` on a file opened for appending, so
    lines of different workers do not mix. ``failures`` counts writes that did not succeed.
    """

    def __init__(self, path: Path) -> None:
        self.failures = 0
        self._path = path
        self._lock = Semaphore(1)
        self._file: int | None = None
        self._writer: ThreadPool | None = None

    def write(self, session_id: str, entries: list[Entry]) -> None:
        lines = "".join(codec.dumps(_as_dict(session_id, entry)) + "\n" for entry in entries)
        data = lines.encode("utf-8", "replace")
        with self._lock:
            if self._writer is None:
                self._writer = ThreadPool(1)
            try:
                call(self._writer, self._append, data)
            except OSError as error:
                self.failures += 1
                if self.failures == 1:
                    _log.error("audit not written: %s", error)

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            gevent.with_timeout(CLOSE_SECONDS, writer.kill, timeout_value=None)
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _append(self, data: bytes) -> None:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        while data:
            data = data[os.write(self._file, data) :]


def _as_dict(session_id: str, entry: Entry) -> dict[str, Any]:
    return {
        "time": entry.time,
        "session": session_id,
        "direction": entry.direction,
        "type": entry.type,
        "length": entry.length,
        "payload": entry.payload,
    }


def open_sink(url: str) -> AuditSink:
    """The sink that ``url`` names: ``jsonl:PATH``. Raises ValueError for any other."""
    kind, _, rest = url.partition(":")
    if kind != "jsonl" or not rest:
        raise ValueError(f"audit sink {url!r}: expected jsonl:PATH")
    return JsonLinesSink(Path(rest))
