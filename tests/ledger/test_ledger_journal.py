"""The journal's files: what was taken is on disk, whatever the disk does; nobody's is lost."""

import errno
import logging
import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ledger_support import finish, make_record, python

from relay_app.ledger import entries
from relay_app.ledger.entries import MAX_READ_BYTES, encode
from relay_app.ledger.journal import MOST_FILES, Journal
from relay_app.ledger.stores import StoreError
from relay_app.meter.usage import UsageRecord

Maker = Callable[..., Journal]


class Disk:
    """The two calls that can fail, failing as told: the next ``failures`` of each kind."""

    def __init__(self) -> None:
        self.writes: list[OSError] = []
        self.syncs: list[OSError] = []
        self.synced = 0
        self.partial = 0

    def write(self, descriptor: int, data: memoryview) -> int:
        if self.writes:
            if self.partial:
                os.write(descriptor, data[: self.partial])
            raise self.writes.pop(0)
        return os.write(descriptor, data[:1000])  # never all at once

    def sync(self, descriptor: int) -> None:
        if self.syncs:
            raise self.syncs.pop(0)
        os.fdatasync(descriptor)
        self.synced += 1


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Maker]:
    """A maker of journals in one folder, each as if in a process of its own."""
    made: list[Journal] = []

    def make(**options: object) -> Journal:
        made.append(Journal(tmp_path / "journal", **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def files(folder: Path, suffix: str = ".journal") -> list[Path]:
    return sorted(folder.glob(f"journal/*{suffix}"))


def ship(journal: Journal) -> list[UsageRecord]:
    """Everything there is to ship."""
    records: list[UsageRecord] = []
    while (batch := journal.backlog.read()) is not None:
        records += batch.records
        journal.backlog.shipped(batch)
    return records


def die(journal: Journal) -> None:
    """As far as the files know: descriptors closed, and with them the locks gone."""
    journal.forget()


def some(count: int, session: str = "sess_1", **changes: object) -> list[UsageRecord]:
    return [make_record(f"{n}", session, **changes) for n in range(count)]


def test_building_and_closing_a_journal_touches_no_file(journal: Maker, tmp_path: Path) -> None:
    made = journal()
    assert made.backlog.adopt() == 0
    assert made.backlog.read() is None
    made.close()
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_is_read_in_order(journal: Maker) -> None:
    made = journal()
    records = some(20)
    made.write(records[:1])
    made.write(records[1:])
    assert ship(made) == records
    assert made.backlog.read() is None
    assert made.backlog.unshipped_bytes == 0
    assert (made.entries, made.syncs) == (20, 3)  # one of them for the new file


def test_nothing_leaves_before_it_is_shipped(journal: Maker) -> None:
    made = journal()
    made.write(some(3))
    for _ in range(3):
        batch = made.backlog.read()
        assert batch is not None
        assert batch.records == some(3)
    assert made.backlog.unshipped_bytes == sum(len(encode(record)) for record in some(3))


def test_file_and_folders_are_the_owners_alone(journal: Maker, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = Journal(tmp_path / "a" / "journal")
        made.write(some(1))
    finally:
        os.umask(before)
    (file,) = (tmp_path / "a" / "journal").iterdir()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (file, *file.parents[:2])]
    assert modes == [0o600, 0o700, 0o700]
    made.close()


def test_a_closed_journal_leaves_only_what_is_not_shipped(journal: Maker, tmp_path: Path) -> None:
    first, second = journal(), journal()
    first.write(some(2))
    ship(first)
    second.write(some(3))
    first.close()
    second.close()
    assert len(files(tmp_path)) == 1
    with pytest.raises(StoreError, match="closed"):
        second.write(some(1))
    third = journal()
    assert third.backlog.adopt() == 1
    assert ship(third) == some(3)
    assert files(tmp_path) == []


def test_a_large_backlog_is_read_in_bounded_batches(journal: Maker) -> None:
    made = journal()
    records = some(400, usage_raw="x" * 4000)
    made.write(records)
    sizes: list[int] = []
    read: list[UsageRecord] = []
    while (batch := made.backlog.read()) is not None:
        sizes.append(batch.length)
        read += batch.records
        made.backlog.shipped(batch)
    assert read == records
    assert max(sizes) <= MAX_READ_BYTES
    assert len(sizes) == -(-sum(sizes) // (MAX_READ_BYTES - 5000))


# Rotation, and the bound.


def test_files_rotate_and_go_once_they_are_shipped(journal: Maker, tmp_path: Path) -> None:
    made = journal(max_bytes=1 << 20)  # 16 kB a file
    records = some(200)
    for record in records:
        made.write([record])
    assert 7 <= len(files(tmp_path)) <= 9
    assert max(file.stat().st_size for file in files(tmp_path)) < 18_000
    assert ship(made) == records
    assert len(files(tmp_path)) == 1  # the current one


def test_a_full_journal_refuses_and_takes_again_what_was_refused(journal: Maker) -> None:
    made = journal(max_bytes=50_000)
    taken: list[UsageRecord] = []
    for n in range(1_000):
        record = make_record(str(n))
        try:
            made.write([record])
        except StoreError as error:
            refusal = error
            break
        taken.append(record)
        assert made.crowded == (made.backlog.unshipped_bytes >= 45_000)
    assert "the journal is full" in str(refusal)
    assert not refusal.rejected
    assert 45_000 < made.backlog.unshipped_bytes <= 50_000
    batch = made.backlog.read()
    assert batch is not None
    made.backlog.shipped(batch)
    made.write([record])
    assert made.crowded
    assert batch.records + ship(made) == [*taken, record]
    assert not made.crowded


def test_one_write_larger_than_the_bound_is_taken_by_an_empty_journal(journal: Maker) -> None:
    made = journal(max_bytes=1_000)
    made.write(some(10))
    with pytest.raises(StoreError, match="full"):
        made.write(some(1))
    assert ship(made) == some(10)
    made.write(some(1))


# Disks that fail.


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("partial", [0, 1, 700])
def test_a_write_that_fails_leaves_no_trace_and_can_be_repeated(
    journal: Maker, tmp_path: Path, code: int, partial: int
) -> None:
    disk = Disk()
    made = journal(write_bytes=disk.write, sync=disk.sync)
    made.write(some(5))
    disk.partial = partial
    disk.writes = [OSError(code, os.strerror(code)) for _ in range(20)]
    for _ in range(20):
        with pytest.raises(OSError, match=os.strerror(code)):
            made.write(some(3, "later"))
        assert len(files(tmp_path)) == 1
    made.write(some(3, "later"))
    assert ship(made) == some(5) + some(3, "later")
    assert made.backlog.damaged_bytes == 0
    assert files(tmp_path, ".bad") == []


def test_a_write_that_was_cut_short_is_no_damage_to_whoever_adopts(
    journal: Maker, tmp_path: Path
) -> None:
    disk = Disk()
    made = journal(write_bytes=disk.write)
    made.write(some(5))
    disk.partial, disk.writes = 700, [OSError(errno.ENOSPC, "full")]
    with pytest.raises(OSError, match="full"):
        made.write(some(3))
    die(made)
    adopter = journal()
    adopter.backlog.adopt()
    assert ship(adopter) == some(5)
    assert list((tmp_path / "journal").iterdir()) == []


def test_a_disk_with_room_for_headers_alone_does_not_fill_with_them(
    journal: Maker, tmp_path: Path
) -> None:
    def write(descriptor: int, data: memoryview) -> int:
        if data[:1] != entries.FILE_HEADER[:1]:
            raise OSError(errno.ENOSPC, "full")
        return os.write(descriptor, data)

    made = journal(write_bytes=write)
    for _ in range(20):
        with pytest.raises(OSError, match="full"):
            made.write(some(1))
        assert files(tmp_path) == []


def test_after_a_failed_sync_the_same_file_is_not_trusted_again(
    journal: Maker, tmp_path: Path
) -> None:
    disk = Disk()
    made = journal(write_bytes=disk.write, sync=disk.sync)
    made.write(some(2))
    disk.syncs = [OSError(errno.EIO, "broken")]
    with pytest.raises(OSError, match="broken"):
        made.write(some(2, "later"))
    made.write(some(2, "later"))
    assert len(files(tmp_path)) == 2
    assert ship(made) == some(2) + some(2, "later")


def test_a_disk_that_fails_now_and_then_does_not_use_up_the_files(
    journal: Maker, tmp_path: Path
) -> None:
    disk = Disk()
    made = journal(write_bytes=disk.write, sync=disk.sync)
    for _ in range(MOST_FILES):
        made.write(some(1))
        disk.syncs = [OSError(errno.EIO, "broken")]
        with pytest.raises(OSError, match="broken"):
            made.write(some(1))
    with pytest.raises(StoreError, match="files wait"):
        made.write(some(1))
    assert len(files(tmp_path)) == MOST_FILES
    ship(made)
    made.write(some(1))


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = Journal(tmp_path / "file" / "journal")
    with pytest.raises(OSError, match="File exists"):
        made.write([])
    made.close()


def test_a_file_deleted_under_us_is_noticed_at_the_next_write(
    journal: Maker, tmp_path: Path
) -> None:
    made = journal()
    made.write(some(2))
    files(tmp_path)[0].unlink()
    made.write(some(2, "later"))
    assert len(files(tmp_path)) == 1
    assert ship(made) == some(2) + some(2, "later")


def test_a_file_that_cannot_be_read_is_set_aside_and_those_behind_it_are_shipped(
    journal: Maker, tmp_path: Path
) -> None:
    made = journal()
    made.write(some(2))
    (first,) = files(tmp_path)
    os.truncate(first, 100)
    assert ship(made) == []
    made.write(some(2, "later"))
    assert ship(made) == some(2, "later")
    assert [path.stem for path in files(tmp_path, ".bad")] == [first.stem]
    assert made.backlog.damaged_bytes > 0


def test_a_bad_record_costs_no_other(journal: Maker) -> None:
    made = journal()
    bad = make_record("bad", key="\udc80")
    with pytest.raises(StoreError) as caught:
        made.write([*some(2), bad])
    assert list(caught.value.rejected) == [bad.id]
    assert ship(made) == some(2)


def test_a_limit_on_file_size_is_a_failed_write(tmp_path: Path) -> None:
    script = """
import resource
from ledger_support import make_record
from relay_app.ledger.journal import Journal
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
journal = Journal(sys.argv[1])
taken, refused = [], 0
for n in range(30):
    record = make_record(str(n))
    try:
        journal.write([record])
    except OSError as error:
        assert "File too large" in str(error), error
        refused += 1
        journal.write([record])
    taken.append(record)
assert refused > 3
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
try:
    while True:
        journal.write([make_record("lost")])
except OSError:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
shipped = []
while (batch := journal.backlog.read()) is not None:
    shipped += batch.records
    journal.backlog.shipped(batch)
assert [r for r in shipped if r.unit_id != "lost"] == taken
assert journal.backlog.damaged_bytes == 0
journal.close()
"""
    finish(python(script, str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


# Adoption.


def test_what_a_dead_worker_left_is_adopted_oldest_first(journal: Maker, tmp_path: Path) -> None:
    for n in range(3):
        worker = journal()
        worker.write(some(2, f"sess_{n}"))
        die(worker)
    made = journal()
    made.write(some(2, "own"))
    assert made.backlog.adopt() == 3
    expected = [
        record for name in ("sess_0", "sess_1", "sess_2", "own") for record in some(2, name)
    ]
    assert ship(made) == expected
    assert len(files(tmp_path)) == 1


def test_two_live_workers_never_adopt_each_others(journal: Maker, tmp_path: Path) -> None:
    first, second = journal(max_bytes=1 << 18), journal(max_bytes=1 << 18)
    for n in range(20):
        first.write(some(5, f"first {n}"))
        second.write(some(5, f"second {n}"))
        assert first.backlog.adopt() == second.backlog.adopt() == 0
    die(first)
    assert second.backlog.adopt() > 2
    assert len(ship(second)) == 200


def test_a_file_is_adopted_once_and_its_replay_survives_the_adopters_death(
    journal: Maker, tmp_path: Path
) -> None:
    worker = journal()
    worker.write(some(5))
    die(worker)
    first, second = journal(), journal()
    assert (first.backlog.adopt(), second.backlog.adopt()) == (1, 0)
    batch = first.backlog.read()
    assert batch is not None
    assert batch.records == some(5)
    die(first)
    assert second.backlog.adopt() == 1
    assert ship(second) == some(5)
    assert files(tmp_path) == []


def test_more_than_the_bound_is_left_to_others(journal: Maker, tmp_path: Path) -> None:
    for n in range(4):
        worker = journal()
        worker.write(some(10, f"sess_{n}"))
        die(worker)
    size = files(tmp_path)[0].stat().st_size
    made = journal(max_bytes=int(size * 2.5))
    assert made.backlog.adopt() == 2
    assert journal(max_bytes=size // 2).backlog.adopt() == 1  # one always fits where none is
    ship(made)
    assert made.backlog.adopt() == 1


@pytest.mark.parametrize("size", [0, 1, len(entries.FILE_HEADER)])
def test_a_file_without_entries_goes(journal: Maker, tmp_path: Path, size: int) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "x.journal").write_bytes(entries.FILE_HEADER[:size])
    made = journal()
    made.backlog.adopt()
    assert ship(made) == []
    assert files(tmp_path) == []


def test_a_file_torn_anywhere_in_its_last_record_gives_all_others_and_is_set_aside(
    journal: Maker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "journal").mkdir()
    last = encode(make_record("last"))
    whole = entries.FILE_HEADER + b"".join(encode(record) for record in some(3))
    cuts = range(1, len(last))
    for cut in cuts:
        (tmp_path / "journal" / f"{cut:06}.journal").write_bytes(whole + last[:cut])
    made = journal()
    torn = 0
    while adopted := made.backlog.adopt():  # so many at a time
        assert ship(made) == some(3) * adopted
        torn += adopted
    assert len(files(tmp_path, ".bad")) == torn == len(cuts)
    assert files(tmp_path, ".bad")[0].read_bytes() == whole + last[:1]
    assert made.backlog.damaged_bytes == sum(cuts)
    assert "000001.journal: 1 bytes are damaged" in caplog.text
    assert journal().backlog.adopt() == 0


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_file_never_raises_and_is_never_deleted(
    journal: Maker, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    (tmp_path / "journal").mkdir()
    whole = entries.FILE_HEADER + b"".join(encode(record) for record in some(300))
    data = bytearray(whole)
    for _ in range(dice.randrange(1, 6)):
        data[dice.randrange(len(data))] ^= dice.randrange(1, 256)
    (tmp_path / "journal" / "x.journal").write_bytes(data)
    made = journal()
    made.backlog.adopt()
    found = ship(made)
    assert len(found) >= 295
    assert [record for record in some(300) if record in found] == found
    (bad,) = files(tmp_path, ".bad")
    assert bad.read_bytes() == data


def test_a_file_of_a_newer_version_is_left_where_it_is_and_told_once(
    journal: Maker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "journal").mkdir()
    newer = tmp_path / "journal" / "0.journal"
    newer.write_bytes(entries._header(2) + b"whatever")
    worker = journal()
    worker.write(some(2))
    die(worker)
    made = journal()
    assert made.backlog.adopt() == 1
    assert made.backlog.adopt() == 0
    assert ship(made) == some(2)
    assert newer.exists()
    assert made.backlog.files_in_trouble == 1
    assert caplog.text.count("version 2, we read 1") == 1


def test_an_entry_that_is_no_record_is_kept_for_somebody_to_look_at(
    journal: Maker, tmp_path: Path
) -> None:
    payload = b'{"from":"another age"}'
    entry = entries._ENTRY.pack(entries.MARK, len(payload), entries._checksum(payload)) + payload
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "x.journal").write_bytes(
        entries.FILE_HEADER + entry + encode(make_record())
    )
    made = journal()
    made.backlog.adopt()
    assert ship(made) == [make_record()]
    assert len(files(tmp_path, ".bad")) == 1


def test_a_folder_without_permission_costs_nothing_but_a_line(
    journal: Maker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "journal" / "x.journal").mkdir(parents=True)  # opens for nobody
    made = journal()
    assert made.backlog.adopt() == 0
    assert made.backlog.adopt() == 0
    assert caplog.text.count("Is a directory") == 1


# Forks.


def test_a_forked_child_has_a_journal_of_its_own(tmp_path: Path) -> None:
    script = """
import os
from ledger_support import make_record
from relay_app.ledger.journal import Journal
journal = Journal(sys.argv[1])
journal.write([make_record("before")])
child = os.fork()
journal.write([make_record("parent" if child else "child")])
found = []
while (batch := journal.backlog.read()) is not None:
    found += batch.records
    journal.backlog.shipped(batch)
found = [record.unit_id for record in found]
assert found == (["before", "parent"] if child else ["child"]), found
journal.close()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    finish(python(script, str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_a_child_does_not_hold_its_parents_files(tmp_path: Path) -> None:
    script = """
import os, signal
from ledger_support import make_record
from relay_app.ledger.journal import Journal
journal = Journal(sys.argv[1])
journal.write([make_record()])
ready, say = os.pipe()
child = os.fork()
if child:
    os.read(ready, 1)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
os.write(say, b".")
signal.pause()
"""
    process = python(script, str(tmp_path))
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.wait(60)
    adopter = Journal(tmp_path)
    assert adopter.backlog.adopt() == 1
    assert ship(adopter) == [make_record()]
    adopter.close()
    os.kill(child, 9)
    process.communicate()
