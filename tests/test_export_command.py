"""``relay-app export``: all records, in little memory, whole or not at all."""

import csv
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.ledgers import usage_record

from relay_app.ledger.stores import open_store

COMMAND = [sys.executable, "-m", "relay_app.cli", "export"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Settings and a ledger of 1,000 records, a second apart from the first of 2026 on."""
    (tmp_path / "relay.toml").write_text('[store]\nurl = "sqlite:///relay.db"\n')
    store = open_store(f"sqlite:///{tmp_path}/relay.db")
    store.write(
        [usage_record(f"{n:04}", ended_at=1_767_225_600.0 + n, model="=gpt") for n in range(1_000)]
    )
    store.close()
    return tmp_path


def export(folder: Path, *options: str, **more) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [*COMMAND, "--config", folder / "relay.toml", *options],
        capture_output=True, timeout=60, cwd=folder, **more,
    )  # fmt: skip


def start(folder: Path, *options: str, **more) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([*COMMAND, "--config", folder / "relay.toml", *options], **more)


def left_behind(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if not file.name.startswith("relay.")}


def test_every_record_is_one_object_a_line_in_order(folder):
    done = export(folder)
    assert (done.returncode, done.stderr) == (0, b"")
    ids = [json.loads(line)["unit_id"] for line in done.stdout.splitlines()]
    assert ids == sorted(ids)
    assert len(set(ids)) == 1_000


def test_csv_has_a_header_and_no_formula(folder):
    done = export(folder, "--format", "csv", "--since", "2026-01-01T00:16:39")
    head, *rows = csv.reader(done.stdout.decode().splitlines())
    assert [row[head.index("model")] for row in rows] == ["'=gpt"]


def test_records_are_cut_by_time(folder):
    span = ["--since", "2026-01-01T00:00:10", "--until", "2026-01-01T00:00:30"]
    assert len(export(folder, *span).stdout.splitlines()) == 20


def test_nothing_is_exported_as_nothing(folder):
    assert export(folder, "--since", "2030-01-01").stdout == b""
    head = export(folder, "--since", "2030-01-01", "--format", "csv").stdout
    assert head.startswith(b"id,session_id,")
    assert head.count(b"\n") == 1


def test_a_file_takes_the_place_of_the_old_one_and_is_its_owners(folder):
    assert export(folder, "--output", "all.jsonl").stdout == b""
    file = folder / "all.jsonl"
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    (folder / "link").symlink_to("all.jsonl")
    export(folder, "--output", "link", "--since", "2026-01-01T00:16:39")
    assert len(file.read_bytes().splitlines()) == 1
    assert file.stat().st_mode & 0o777 == 0o640
    assert left_behind(folder) == {"all.jsonl", "link"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_export_that_is_stopped_leaves_what_was_there(folder, number):
    (folder / "all.jsonl").write_text("yesterday's")
    process = start(
        folder, "--output", "all.jsonl", cwd=folder, stderr=subprocess.PIPE,
        # Slow enough to be stopped amid its work, and under way when the first page is there.
        env={**os.environ, "PYTHONPATH": str(_slow(folder))},
    )  # fmt: skip
    with process:
        while not any(part.stat().st_size for part in folder.glob(".all.jsonl.*.part")):
            assert process.poll() is None, process.stderr.read()
        process.send_signal(number)
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == 1
    assert (folder / "all.jsonl").read_text() == "yesterday's"
    assert not list(folder.glob("*.part")) + list(folder.glob(".*.part"))


def _slow(folder: Path) -> Path:
    """A folder whose ``sitecustomize`` makes each record take its time."""
    site = folder / "relay.site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import time\nfrom relay_app.ledger import usage_report\n"
        "fast = usage_report.record_line\n"
        "def slow(record):\n    time.sleep(0.01)\n    return fast(record)\n"
        "usage_report.record_line = slow\n"
    )
    return site


@pytest.mark.parametrize(
    ("output", "said"),
    [("none/all.jsonl", "No such file or directory"), ("/dev/null", "is no regular file")],
)
def test_a_file_that_cannot_be_is_named(folder, output, said):
    done = export(folder, "--output", output)
    assert done.returncode == 1
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("Error: ")
    assert said in line


def test_a_disk_that_is_full_leaves_what_was_there(folder):
    (folder / "all.jsonl").write_text("yesterday's")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    done = export(
        folder, "--output", "all.jsonl",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit)),
    )  # fmt: skip
    assert done.returncode == 1
    assert b"cannot be written: File too large" in done.stderr
    assert (folder / "all.jsonl").read_text() == "yesterday's"
    assert left_behind(folder) == {"all.jsonl"}


def test_a_reader_that_leaves_early_is_no_error(folder):
    process = start(folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        assert process.stdout.readline().startswith(b"{")
        process.stdout.close()
        assert process.stderr.read() == b""


def on_a_terminal(folder: Path, *options: str, stdout: str) -> tuple[bytes, bytes]:
    """What a terminal at standard error showed, and what came out elsewhere."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while data := os.read(ours, 65_536):
                shown.extend(data)
        except OSError:
            pass  # the last that had the terminal open has gone

    where = theirs if stdout == "terminal" else subprocess.PIPE
    process = start(folder, *options, stdout=where, stderr=theirs, cwd=folder)
    os.close(theirs)
    reader = threading.Thread(target=read)
    reader.start()
    with process:
        out = process.stdout.read() if process.stdout else b""
    reader.join(30)
    os.close(ours)
    assert process.returncode == 0, bytes(shown)
    return bytes(shown), out


def test_a_terminal_sees_how_far_it_is_and_the_output_nothing_of_it(folder):
    shown, out = on_a_terminal(folder, stdout="pipe")
    assert b"records" in shown
    assert b"1000/1000" in shown
    assert len(out.splitlines()) == 1_000
    assert all(line.startswith(b"{") for line in out.splitlines())
    shown, _ = on_a_terminal(folder, "--output", "all.jsonl", stdout="terminal")
    assert b"1000/1000" in shown


def test_records_on_a_terminal_have_it_for_themselves(folder):
    shown, _ = on_a_terminal(folder, "--since", "2026-01-01T00:16:39", stdout="terminal")
    assert re.fullmatch(rb"\{[^\n]*\}\r\n", shown)


def test_memory_does_not_grow_with_the_records(folder):
    """Peak memory of all records, each of 4 kB, against that of ten of them."""
    store = open_store(f"sqlite:///{folder}/relay.db")
    store.write(
        [
            usage_record(f"{n:04}", ended_at=1_767_225_600.0 + n, usage_raw="x" * 4_000)
            for n in range(3_000)
        ]
    )
    store.close()
    few, many = (peak_kilobytes(folder, *span) for span in (["--until", "2026-01-01T00:00:10"], []))
    assert many - few < 6_000  # two pages of the store's are 4 MB, all records 12 MB and more


def peak_kilobytes(folder: Path, *options: str) -> int:
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [*COMMAND, "--config", folder / "relay.toml", "--output", folder / "out", *options]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=True
    )
    return int(done.stdout)
