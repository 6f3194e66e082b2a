"""Journal files that something happened to: what is whole is read once, in its order; the file is
kept; and nothing raises, hangs or grows."""

import logging
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fuzz.journal_file import adopted
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_support import make_record

from relay_app.ledger.entries import FILE_HEADER, MAX_READ_BYTES, encode
from relay_app.ledger.journal import Journal
from relay_app.meter.usage import UsageRecord

RECORDS = [make_record(str(n), usage_raw=f"[{n}]" * n) for n in range(6)]
ENTRIES = [encode(record) for record in RECORDS]


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    log = logging.getLogger("relay_app.ledger.backlog")
    log.disabled = True
    yield
    log.disabled = False


def read(content: bytes) -> list[UsageRecord]:
    with TemporaryDirectory() as folder:
        return adopted(content, Path(folder))


def test_the_file_is_one_that_a_journal_writes(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(RECORDS)
    (file,) = tmp_path.iterdir()
    assert file.read_bytes() == FILE_HEADER + b"".join(ENTRIES)
    journal.close()


pieces = st.lists(
    st.one_of(
        st.integers(0, 5),
        st.integers(0, 5),
        st.sampled_from([FILE_HEADER, b"\xffent", b"\0" * 512, b"\xffent" + b"\0" * 8]),
        st.builds(lambda n, end: ENTRIES[n][:end], st.integers(0, 5), st.integers(1, 600)).filter(
            lambda piece: piece not in ENTRIES
        ),
        st.binary(min_size=1, max_size=80),
    ),
    max_size=12,
)


@settings(max_examples=200)
@given(pieces, st.booleans())
def test_entries_said_twice_moved_or_glued_to_anything_are_all_read(
    glued: list[int | bytes], headed: bool
) -> None:
    content = b"".join(ENTRIES[p] if isinstance(p, int) else p for p in glued)
    expected = [RECORDS[p] for p in glued if isinstance(p, int)]
    assert read(FILE_HEADER + content if headed else content) == expected


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A file as a journal writes it, with bits flipped and stretches lost, zeroed or moved."""
    data = bytearray(FILE_HEADER + b"".join(ENTRIES))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        end = min(len(data), at + draw(st.sampled_from([1, 4, 12, 100, 1_000, 10_000])))
        match draw(st.sampled_from(["flip", "lost", "zeroed", "moved", "end", "said twice"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "lost":
                del data[at:end]
            case "zeroed":
                data[at:end] = bytes(end - at)
            case "moved":
                piece = data[at:end]
                del data[at:end]
                to = draw(st.integers(0, len(data)))
                data[to:to] = piece
            case "end":
                del data[end:]
            case "said twice":
                data[at:at] = data[at:end]
    return bytes(data)


@settings(max_examples=300)
@given(damaged())
def test_a_damaged_file_is_read_as_somebody_does_who_knows_the_format(content: bytes) -> None:
    assert {record.id for record in read(content)} <= {record.id for record in RECORDS}


@settings(max_examples=30)
@given(st.lists(damaged(), min_size=2, max_size=4), st.integers(0, 3_000))
def test_so_is_one_that_takes_many_reads(contents: list[bytes], padding: int) -> None:
    many = 1 + MAX_READ_BYTES // sum(map(len, contents)) if any(contents) else 0
    read(FILE_HEADER + b"\0" * padding + b"".join(contents * many))


@given(st.binary(max_size=500))
def test_a_file_of_noise_is_kept(content: bytes) -> None:
    assert read(content) == []


@pytest.mark.parametrize("piece", [b"\xff", b"\0", ENTRIES[0]], ids=["marks", "zeros", "entries"])
def test_however_large_a_file_memory_is_that_of_one_read(piece: bytes, tmp_path: Path) -> None:
    (tmp_path / "1.journal").write_bytes(piece * (6_000_000 // len(piece)))
    journal = Journal(tmp_path)
    journal.backlog.adopt()
    reads = 0
    tracemalloc.start()
    try:
        while (batch := journal.backlog.read()) is not None:
            journal.backlog.shipped(batch)
            reads += 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        journal.close()
    assert reads <= 6_000_000 // MAX_READ_BYTES + 2
    assert peak < 12 * MAX_READ_BYTES  # of which records are most
