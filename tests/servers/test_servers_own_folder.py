"""The relay needs no root, and no place to write to but its own ``var/``, and memory."""

import json
import os
import pwd
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import support
from support.clients import eventually
from support.processes import python, ready_url, running, simulator
from support.relays import RelayProcess, write_settings
from support.secrets import left_in
from support.workers import all_workers, metric

SUPPORT = Path(support.__file__).parent
MEMORY = re.compile(r"/dev/shm/(relay_app-scratch-\w+(/[\w.-]+)?|wgunicorn-\w+)")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a ``var/`` of the relay's own in it, and nothing else that it may write to."""
    # Not pytest's folder: that one is its owner's alone.
    folder = Path(tempfile.mkdtemp(prefix="relay-place-"))
    try:
        for name in ("var", "home", "tmp"):
            (folder / name).mkdir()
        if os.getuid() == 0:
            shutil.chown(folder / "var", "nobody")
        (folder / "home").chmod(0o555)
        (folder / "tmp").chmod(0o555)
        yield folder
    finally:
        for name in ("", "home", "tmp"):
            (folder / name).chmod(0o755)
        shutil.rmtree(folder)


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def converse(relay: RelayProcess) -> None:
    with relay.connect() as client:
        client.send('{"type":"response.create","response":{"output_modalities":["text"]}}')
        while json.loads(client.recv(timeout=30))["type"] != "response.done":
            pass


@pytest.mark.parametrize(
    ("store", "files"),
    [
        ("sqlite:///var/relay.db", {"var/audit.jsonl", "var/relay.db"}),
        # Nobody is there, so that what is recorded stays in the journal.
        ("redis://127.0.0.1:9/0", {"var/audit.jsonl", "var/journal/"}),
    ],
    ids=["SQLite", "journal"],
)
def test_nobody_may_run_it_and_it_writes_below_var_alone(place: Path, store: str, files: set[str]):
    with simulator() as upstream:
        more = 'journal = "var/journal"\n[audit]\nsink = "jsonl:var/audit.jsonl"'
        config = write_settings(place, upstream, store=store, more=more)
        config.chmod(0o444)
        place.chmod(0o555)
        command = python(
            SUPPORT / "unprivileged.py", *python("-m", "relay_app.cli", "serve"),
            "--config", config, "--bind", "127.0.0.1:0", "--workers", "2",
        )  # fmt: skip
        environment = {
            "HOME": str(place / "home"),
            "TMPDIR": str(place / "tmp"),
            "XDG_RUNTIME_DIR": str(place / "home"),
            "PYTHONPATH": str(SUPPORT / "watched"),
            "PYTHONDONTWRITEBYTECODE": "1",  # what is installed has its bytecode
            "PYTHONUNBUFFERED": "1",
        }
        with running(command, cwd=place, env=environment) as process:
            relay = RelayProcess(process, config, ready_url(process))
            for pid in (process.pid, *all_workers(relay, 2)):
                if os.getuid() == 0:
                    assert os.stat(f"/proc/{pid}").st_uid == pwd.getpwnam("nobody").pw_uid
            # Where SQLite sorts what a large report does not fit into memory with.
            variables = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
            assert f"SQLITE_TMPDIR={place / 'var'}" in variables
            converse(relay)
            eventually(
                lambda: metric(relay, 'relay_sessions_closed_total{by="client",code="1000"}'),
                "its end",
            )
    written = set(re.findall(r"^writes (.*)$", process.output, re.MULTILINE)) - {os.devnull}
    outside = {path for path in written if not f"{path}/".startswith(f"{place / 'var'}/")}
    assert [path for path in outside if not MEMORY.fullmatch(path)] == []
    assert any(path.endswith(".db") for path in outside), "of the metrics"
    assert [path for path in outside if Path(path).exists()] == []
    left = below(place) - {"relay.toml"}
    assert {name for name in left if not name.startswith("var/")} == set()
    assert all(any(name.startswith(file) for name in left) for file in files)
    assert left_in(place) == []
    assert "Traceback" not in process.output
