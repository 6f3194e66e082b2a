import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay_app import snapshot


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    yield
    with snapshot.taken_anew():
        pass


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "file"
    made.write_text("old")
    return made


def test_where_nothing_was_taken_the_file_counts(file: Path):
    assert snapshot.read(file) == b"old"
    file.write_text("new")
    assert snapshot.read(file) == b"new"


def test_what_was_taken_counts_whatever_becomes_of_the_file(file: Path, monkeypatch):
    monkeypatch.chdir(file.parent)
    with snapshot.taken_anew():
        snapshot.read("file")
    file.unlink()
    assert snapshot.read(file) == b"old"


def test_a_forked_process_reads_what_was_taken(file: Path):
    with snapshot.taken_anew():
        snapshot.read(file)
    file.write_text("new")
    forked = multiprocessing.get_context("fork")
    here, there = forked.Pipe()
    child = forked.Process(target=lambda: there.send_bytes(snapshot.read(file)))
    child.start()
    assert here.recv_bytes() == b"old"
    child.join(10)
    here.close()
    there.close()


def test_a_taking_that_fails_leaves_what_there_was(file: Path):
    with snapshot.taken_anew():
        snapshot.read(file)
    file.write_text("bad")

    def check() -> None:
        with snapshot.taken_anew():
            with snapshot.taken_anew():
                assert snapshot.read(file) == b"bad"
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        check()
    assert snapshot.read(file) == b"old"


def test_a_new_taking_forgets_the_files_that_nobody_names_any_more(file: Path):
    with snapshot.taken_anew():
        snapshot.read(file)
    with snapshot.taken_anew():
        pass
    file.write_text("new")
    assert snapshot.read(file) == b"new"


def test_a_file_that_is_too_large_is_not_read_to_its_end(file: Path):
    assert snapshot.read(file, 1) == b"ol"
