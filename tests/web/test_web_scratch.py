import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relay_app.settings import Store
from relay_app.web.scratch import NEW_SECONDS, Scratch, is_scratch, records_place, scratch_place

MAKE = """
import os, signal, sys
from pathlib import Path
from relay_app.web.scratch import Scratch
scratch = Scratch(Path(sys.argv[1]))
(scratch.path / "figures.db").touch()
print(scratch.path, flush=True)
if "worker" in sys.argv and os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(place: Path, *options: str) -> tuple[Path, subprocess.Popen]:
    """What a master left that was killed, a while ago."""
    master = subprocess.Popen(
        [sys.executable, "-c", MAKE, str(place), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    left = Path(master.stdout.readline().strip())
    assert master.wait(30) == -signal.SIGKILL
    make_old(left)
    return left, master


def make_old(folder: Path) -> None:
    then = time.time() - 2 * NEW_SECONDS
    os.utime(folder, (then, then))


@pytest.mark.parametrize(
    ("store", "place"),
    [
        (Store(url="sqlite:////srv/var/relay.db", journal="/srv/else/journal"), "/srv/var"),
        (Store(url="redis://h/0", journal="/srv/var/journal"), "/srv/var"),
        (Store(url="memory://", journal="/srv/var/journal"), None),
    ],
    ids=["SQLite", "journal", "neither"],
)
def test_it_is_in_memory_or_else_beside_the_records(tmp_path: Path, store: Store, place: str):
    assert scratch_place(store, tmp_path) == tmp_path
    elsewhere = None if place is None else Path(place)
    assert records_place(store) == elsewhere
    assert scratch_place(store, tmp_path / "no such folder") == elsewhere


def test_it_is_its_users_alone_and_gone_when_removed(tmp_path: Path):
    scratch = Scratch(tmp_path)
    assert scratch.path.stat().st_mode & 0o777 == 0o700
    assert is_scratch(str(scratch.path))
    scratch.remove()
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_gone_can_be_mended(tmp_path: Path):
    scratch = Scratch(tmp_path)
    for _ in range(2):
        scratch.mend()
        assert scratch.path.stat().st_mode & 0o777 == 0o700
        shutil.rmtree(scratch.path)
    scratch.remove()


def test_what_a_killed_master_left_goes_at_the_next_start(tmp_path: Path):
    left, master = killed(tmp_path)
    with master:
        scratch = Scratch(tmp_path)
    assert not left.exists()
    scratch.remove()


def test_but_not_while_one_of_its_workers_lives(tmp_path: Path):
    left, master = killed(tmp_path, "worker")
    with master:
        first = Scratch(tmp_path)
        assert (left / "figures.db").exists()
        master.stdin.close()
        assert master.stdout.read() == ""  # the worker has ended
    make_old(left)
    second = Scratch(tmp_path)
    assert not left.exists()
    for scratch in (first, second):
        scratch.remove()


def test_a_folder_that_was_just_made_is_left_alone(tmp_path: Path):
    """Another master may be between making it and locking it."""
    new = tmp_path / "relay_app-scratch-new"
    new.mkdir()
    Scratch(tmp_path).remove()
    assert new.exists()
    make_old(new)
    Scratch(tmp_path).remove()
    assert not new.exists()


def test_others_files_are_left_alone(tmp_path: Path):
    other = tmp_path / "somebody"
    other.mkdir()
    make_old(other)
    Scratch(tmp_path).remove()
    assert other.exists()
