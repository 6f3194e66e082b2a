"""The quickstart as a new user meets it: a process, in an empty home, and its lines pasted."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from support.processes import Process, python

from relay_app import quickstart as quickstart_module
from relay_app.settings_file import settings_from_file


def start(folder: Path, *options: str | Path, **env: str) -> Process:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    command = python("-m", "relay_app.cli", "quickstart", "--bind", "127.0.0.1:0", *options)
    return Process(command, cwd=folder, env={"HOME": str(home), "OPENAI_API_KEY": "", **env})


def wait_for_all(process: Process) -> None:
    """Until a worker answers; connections are taken a moment before there is one."""
    process.wait_for("Stop with Ctrl-C.")
    url = re.search(r"relays (http://\S+)/v1 to", process.output)[1]
    with urlopen(f"{url}/healthz", timeout=30) as answer:
        assert answer.status == 200


@pytest.fixture
def quickstart(tmp_path: Path) -> Iterator[Process]:
    process = start(tmp_path)
    wait_for_all(process)
    yield process
    process.stop()


def descendants(pid: int) -> set[int]:
    """The processes that ``pid`` and its children have started."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(entry.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


def paste(line: str, folder: Path) -> str:
    """What a line of the output prints when it is run in a shell, in the same folder."""
    done = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        cwd=folder,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def pasted(output: str, start: str) -> str:
    """The whole of the command that begins with ``start``, over its lines."""
    lines = output.splitlines()
    first = next(i for i, line in enumerate(lines) if line.strip().startswith(start))
    end = next(i for i in range(first, len(lines) + 1) if i == len(lines) or not lines[i].strip())
    return "\n".join(lines[first:end])


def usage_line(output: str) -> str:
    return next(line.strip() for line in output.splitlines() if " usage --config " in line)


def test_every_line_it_prints_works(quickstart, tmp_path):
    output = quickstart.output
    assert re.search(r"relay_app relays http://127.0.0.1:\d+/v1 to its simulator\.", output)
    answer = paste(pasted(output, "curl "), tmp_path)
    assert answer.startswith("HTTP/1.1 101")
    assert '"type":"session.created"' in answer
    said = paste(pasted(output, sys.executable), tmp_path)
    assert said.strip()
    line = usage_line(output)
    table = paste(line, tmp_path)
    assert table.splitlines()[0].startswith("model")
    totals = json.loads(paste(f"{line} --json", tmp_path))["totals"]
    assert sum(total["records"] for total in totals) == 1
    assert sum(total["output_text_tokens"] for total in totals) > 0


def test_nothing_lands_outside_its_folder_and_no_key_in_it(quickstart, tmp_path):
    key = re.search(r"Throw-away key: (\S+)", quickstart.output)[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "var"]
    assert list((tmp_path / "home").iterdir()) == []
    config = tmp_path / "var/quickstart/relay.toml"
    assert key not in config.read_text()
    assert settings_from_file(config).keys[0].name == "quickstart"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_of_it(quickstart, number):
    family = descendants(quickstart.pid)
    assert len(family) >= 3  # the simulator, gunicorn and its worker
    quickstart.signal(number)
    assert quickstart.wait() == 0
    assert "Traceback" not in quickstart.output
    assert alive(family) == set()


@pytest.mark.parametrize("victim", ["simulate", "gunicorn"])
def test_when_one_of_them_ends_all_end(quickstart, victim):
    family = descendants(quickstart.pid)
    child = next(
        pid
        for pid in sorted(family)
        if victim in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    )
    os.kill(child, signal.SIGTERM)
    assert quickstart.wait() != 0
    assert "Traceback" not in quickstart.output
    assert alive(family) == set()


def complaint(folder: Path, *options: str | Path) -> str:
    process = start(folder, *options)
    assert process.wait() == 1
    process.popen.stdout.close()
    [line] = process.output.splitlines()
    return line


def test_a_port_that_is_taken_is_one_line_and_nothing_is_started(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        said = complaint(tmp_path, "--bind", bind)
    assert said == (
        f"Error: cannot listen on {bind}: Address already in use; choose another with --bind"
    )
    assert not (tmp_path / "var").exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    said = complaint(tmp_path, "--folder", tmp_path / "file" / "below")
    assert said.endswith("Not a directory; choose another folder with --folder")


def test_a_folder_with_a_space_in_its_name_is_quoted(tmp_path):
    process = start(tmp_path, "--folder", "my folder")
    try:
        wait_for_all(process)  # the ledger is made by the worker
        line = usage_line(process.output)
        assert paste(line, tmp_path) == "no usage recorded\n"
    finally:
        process.stop()


def test_with_a_key_of_openai_it_relays_to_openai(tmp_path):
    process = start(tmp_path, OPENAI_API_KEY="sk-not-a-key-0000")
    try:
        wait_for_all(process)
        assert "/v1 to OpenAI." in process.output
        assert len(descendants(process.pid)) == 2
        config = (tmp_path / "var/quickstart/relay.toml").read_text()
        assert 'api_keys = ["env:OPENAI_API_KEY"]' in config
        assert "sk-not-a-key-0000" not in config + process.output
    finally:
        process.stop()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["python", "relay-app"], ".venv/bin/relay-app usage"),
        (["python"], ".venv/bin/python -m relay_app.cli usage"),
    ],
)
def test_what_is_below_this_folder_is_shown_as_one_would_type_it(
    tmp_path, monkeypatch, files, said
):
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in files:
        (programs / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    lines = quickstart_module._lines("http://x", "k", Path("c"), "openai")
    assert usage_line(lines) == f"{said} --config c --by model"
