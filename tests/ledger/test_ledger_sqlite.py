"""What is SQLite's own: the file, its neighbours, and what survives a kill."""

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from ledger_support import OnThread, finish, kill, lines, make_record, python

from relay_app.ledger.stores import StoreError, open_store
from relay_app.ledger.stores.memory import MemoryStore

WRITER = """
import itertools
from ledger_support import make_record
from relay_app.ledger.stores import open_store
url, name, count = sys.argv[1:]
store = open_store(url)
for n in itertools.count() if count == "forever" else range(int(count)):
    units = [f"{name}-{n}-{part}" for part in range(3)]
    store.write([make_record("shared")])  # of one record it makes no transaction of its own
    store.write([make_record("shared"), *(make_record(unit, name) for unit in units[1:])])
    store.write([make_record(units[0], name)])
    print("\\n".join(units), flush=True)
store.close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "relay.db"


def sound(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_building_and_closing_a_store_touches_no_file(path: Path) -> None:
    open_store(f"sqlite:///{path}").close()
    assert not path.parent.exists()


def test_file_and_folder_are_the_owners_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        store = OnThread(open_store(f"sqlite:///{path}"))
        store.write(make_record())
        modes = {
            p.name: stat.S_IMODE(p.stat().st_mode) for p in [path.parent, *path.parent.iterdir()]
        }
        store.close()
    finally:
        os.umask(before)
    assert modes.pop("var") == 0o700
    assert modes == {"relay.db": 0o600, "relay.db-wal": 0o600, "relay.db-shm": 0o600}


def test_a_relative_path_is_the_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = OnThread(open_store("sqlite:///relay.db"))
    store.ping()
    store.close()
    assert (tmp_path / "relay.db").exists()


def test_commits_are_synced_and_readers_do_not_block_the_writer(path: Path) -> None:
    store = OnThread(open_store(f"sqlite:///{path}"))
    store.ping()
    with store.direct._dialect.open().connect() as connection:  # type: ignore[attr-defined]
        read = lambda name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()  # noqa: E731
        assert read("journal_mode") == "wal"
        assert read("synchronous") == 2
        assert read("busy_timeout") == 5000
    store.close()


def test_records_outlive_the_store(path: Path) -> None:
    for n in range(3):
        store = OnThread(open_store(f"sqlite:///{path}"))
        store.write(make_record(str(n), ended_at=float(n)))
        store.close()
    store = OnThread(open_store(f"sqlite:///{path}"))
    assert [record.unit_id for record in store.records()] == ["0", "1", "2"]
    store.close()


def test_a_file_of_a_newer_version_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=99")
    store = OnThread(open_store(f"sqlite:///{path}"))
    with pytest.raises(StoreError, match="newer relay_app"):
        store.write(make_record())
    with pytest.raises(StoreError, match="newer relay_app"):
        store.ping()
    store.close()


def test_what_is_no_database_is_a_store_error(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("not a database, and longer than a header of one hundred bytes " * 4)
    store = OnThread(open_store(f"sqlite:///{path}"))
    with pytest.raises(StoreError, match="not a database") as caught:
        store.write(make_record())
    assert not caught.value.rejected
    store.close()


def test_a_folder_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = OnThread(open_store(f"sqlite:///{tmp_path}/file/relay.db"))
    with pytest.raises(StoreError) as caught:
        store.write(make_record())
    assert not caught.value.rejected
    store.close()


@pytest.mark.parametrize(
    "flaw",
    [
        {"key": "\udc80"},
        {"usage_raw": "\ud800"},
        {"session_id": None},
        {"started_at": float("nan")},
        {"model": object()},
    ],
)
def test_a_value_no_column_takes_costs_only_its_own_record(
    path: Path, flaw: dict[str, object]
) -> None:
    store = OnThread(open_store(f"sqlite:///{path}"))
    good = [make_record(str(n), ended_at=float(n)) for n in range(20)]
    bad = [make_record(f"bad{n}", **flaw) for n in range(2)]
    with pytest.raises(StoreError) as caught:
        store.write(bad[0], *good, bad[1])
    assert sorted(caught.value.rejected) == sorted(record.id for record in bad)
    assert store.records() == good
    store.close()


def test_a_nul_is_a_character_like_any_other(path: Path) -> None:
    store = OnThread(open_store(f"sqlite:///{path}"))
    store.write(make_record(model="a\x00b"))
    assert [record.model for record in store.records()] == ["a\x00b"]
    store.close()


def test_a_number_beyond_64_bits_costs_only_its_own_record(path: Path) -> None:
    store = OnThread(open_store(f"sqlite:///{path}"))
    bad = make_record("bad", usage=make_record().usage.__class__(input_text_tokens=2**63))
    with pytest.raises(StoreError) as caught:
        store.write(make_record("good"), bad)
    assert list(caught.value.rejected) == [bad.id]
    store.close()


def test_a_broken_database_is_never_blamed_on_a_record(path: Path) -> None:
    store = OnThread(open_store(f"sqlite:///{path}"))
    store.write(make_record())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE usage_records")
    with pytest.raises(StoreError, match="no such table") as caught:
        store.write(make_record())
    assert not caught.value.rejected
    store.close()


def test_a_file_deleted_under_us_is_noticed_and_made_anew(path: Path) -> None:
    store = OnThread(open_store(f"sqlite:///{path}"))
    store.write(make_record("before"))
    for file in path.parent.iterdir():
        file.unlink()
    with pytest.raises(StoreError, match="moved or deleted"):
        store.write(make_record("after"))
    store.write(make_record("after"))
    assert [record.unit_id for record in store.records()] == ["after"]
    store.close()


def test_one_record_is_a_transaction(path: Path) -> None:
    store = OnThread(open_store(f"sqlite:///{path}"))
    store.write(make_record("before"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        refuse = "BEGIN SELECT raise(ABORT, 'amid its triggers'); END"
        other.execute(f"CREATE TRIGGER refuse AFTER INSERT ON usage_days {refuse}")
        with pytest.raises(StoreError) as caught:
            store.write(make_record("amid", "sess_2"))
        assert "amid its triggers" in str(caught.value.rejected)
        other.execute("DROP TRIGGER refuse")
    assert [record.unit_id for record in store.records()] == ["before"]
    store.write(make_record("after"))
    assert len(store.records()) == 2
    store.close()


def test_an_error_shows_neither_statement_nor_values(path: Path) -> None:
    store = OnThread(open_store(f"sqlite:///{path}"))
    with pytest.raises(StoreError) as caught:
        store.write(make_record(key="\udc80", usage_raw="PRIVATE"))
    assert "PRIVATE" not in str(caught.value) + str(caught.value.rejected)
    store.close()


def test_several_processes_create_and_write_one_file_at_once(path: Path) -> None:
    url = f"sqlite:///{path}"
    processes = [python(WRITER, url, f"p{n}", "40") for n in range(3)]
    acknowledged = {unit for each in processes for unit in finish(each).split()}
    store = OnThread(open_store(url))
    found = [record.unit_id for record in store.records()]
    store.close()
    assert len(found) == len(set(found)) == 3 * 40 * 3 + 1
    assert set(found) == acknowledged | {"shared"}
    assert sound(path)


def test_a_kill_amid_writing_loses_nothing_that_was_acknowledged(path: Path) -> None:
    url = f"sqlite:///{path}"
    for life in range(3):
        process = python(WRITER, url, f"life{life}", "forever")
        seen = lines(process)
        acknowledged = {next(seen) for _ in range(30)}
        acknowledged |= set(kill(process))
        store = OnThread(open_store(url))
        found = {record.unit_id for record in store.records(session_id=f"life{life}")}
        store.close()
        assert acknowledged <= found
        assert sound(path)


FORKED = """
import os
from ledger_support import make_record
from relay_app.ledger.stores import StoreError, open_store
url, before = sys.argv[1:]
store = open_store(url)
store.ping() if before == "read" else store.write([make_record("before")])
child = os.fork()
try:
    store.write([make_record("parent" if child else "child")])
except StoreError as error:
    print(error)
if child:
    assert os.waitpid(child, 0)[1] == 0
    store.write([make_record("parent again")])
store.close()
"""


@pytest.mark.parametrize(
    ("before", "answer", "units"),
    [
        ("read", "", {"parent", "child", "parent again"}),
        ("write", "in use when this process was forked", {"before", "parent", "parent again"}),
    ],
)
def test_a_fork_shares_the_file_or_is_refused_but_loses_nothing(
    path: Path, before: str, answer: str, units: set[str]
) -> None:
    out = finish(python(FORKED, f"sqlite:///{path}", before))
    assert answer in out
    assert bool(answer) == bool(out)
    store = OnThread(open_store(f"sqlite:///{path}"))
    assert {record.unit_id for record in store.records()} == units
    store.close()
    assert sound(path)


def test_a_full_memory_store_counts_what_it_forgets() -> None:
    store = MemoryStore(max_records=3)
    store.write([make_record(str(n), ended_at=float(n)) for n in range(5)])
    assert [record.unit_id for record in store.records()] == ["2", "3", "4"]
    assert store.forgotten == 2
