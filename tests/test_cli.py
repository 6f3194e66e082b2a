import csv
import io
import json
import os
import shlex
import socket
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from urllib.request import urlopen

import pytest
from click.testing import CliRunner, Result
from support.ledgers import usage_record
from support.processes import python, ready_url, running

from relay_app import __version__
from relay_app.cli import main
from relay_app.commands.ledger import opened_records
from relay_app.ledger.stores import open_store
from relay_app.simulator.scenarios import SCENARIOS

SETTINGS = """
[[keys]]
name = "a"
key = "rk-planted-secret"
[[upstreams]]
name = "u"
base_url = "ws://127.0.0.1:1/v1"
api_keys = ["sk-planted-secret"]
[store]
url = "sqlite:///relay.db"
"""
OPEN = SETTINGS.replace('[[keys]]\nname = "a"\nkey = "rk-planted-secret"', '[auth]\nmode = "open"')


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "relay.toml"
    file.write_text(SETTINGS)
    return file


def run(*arguments: object, cwd: Path | None = None, **env: str) -> "subprocess.CompletedProcess":
    inherited = {k: v for k, v in os.environ.items() if k != "RELAY_CONFIG"}
    return subprocess.run(
        [str(a) for a in arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={**inherited, **env},
    )


def relay_app(*arguments: object, **options) -> "subprocess.CompletedProcess":
    return run(sys.executable, "-m", "relay_app.cli", *arguments, **options)


def complaint(done: "subprocess.CompletedProcess") -> str:
    """The one line of a command that failed."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "planted" not in done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


# -- help ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], ["serve"], ["simulate"], ["usage"], ["quickstart"]])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_explains_itself(command, option):
    result = CliRunner().invoke(main, [*command, option])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_simulate_names_what_can_go_wrong():
    said = CliRunner().invoke(main, ["simulate", "--list-scenarios"]).output
    assert [line.split()[0].partition(":")[0] for line in said.splitlines()] == list(SCENARIOS)


def test_the_version_is_the_packages_and_says_what_is_compiled():
    said = CliRunner().invoke(main, ["--version"]).output
    assert said == f"relay-app {__version__}, compiled\n"


# -- serve --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
def test_serve_says_where_it_listens(config, bind):
    with running(python("-m", "relay_app.cli", "serve", "--config", config, "--bind", bind)) as p:
        url = ready_url(p)
        assert ("[::1]" in url) == ("[::1]" in bind)
        with urlopen(f"{url}/healthz", timeout=10) as answer:
            assert answer.status == 200


def test_serve_listens_on_a_unix_socket(config, tmp_path):
    path = tmp_path / "relay.sock"
    command = python("-m", "relay_app.cli", "serve", "--config", config, "--bind", f"unix:{path}")
    with running(command) as process:
        assert process.wait_for("ready ").strip() == f"ready unix:{path}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"


def test_serve_finds_its_settings_in_the_folder_or_by_the_variable(config, tmp_path):
    command = python("-m", "relay_app.cli", "serve", "--bind", "127.0.0.1:0")
    for options in ({"cwd": tmp_path}, {"env": {"RELAY_CONFIG": str(config)}}):
        with running(command, **options) as process:
            ready_url(process)


@pytest.mark.parametrize(
    "bind",
    ["8000", ":8000", "localhost:http", "::1:8000", "[::1", "[127.0.0.1]:1", "127.0.0.1:99999",
     "127.0.0.1:-1", "unix:", "a" * 70 + ":80", "192.0.2.1:8000", "no-such-host.invalid:80"],
)  # fmt: skip
def test_serve_refuses_a_bind_that_cannot_be(config, bind):
    said = complaint(relay_app("serve", "--config", config, "--bind", bind))
    assert said.startswith(f"cannot listen on {bind}: ")


def test_serve_says_itself_that_its_port_is_taken(config):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        said = complaint(relay_app("serve", "--config", config, "--bind", bind))
    assert said == f"cannot listen on {bind}: Address already in use; choose another with --bind"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[servr]", "servr is not a setting"),
        ("[server", "not TOML: "),
        (SETTINGS.replace("sqlite:///relay.db", "oracle://u:planted@h"), "not a known store"),
        (SETTINGS.replace("sqlite:///relay.db", "sqlite:///x.db?mode=ro"), "takes no parameters"),
        (SETTINGS.replace('"sk-planted-secret"', '"env:NOT_SET_AT_ALL"'), "is not set"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "gunicorn", "usage"])
def test_a_bad_file_stops_the_start_in_one_line(config, text, said, command):
    config.write_text(text)
    if command == "usage" and said == "is not set":
        assert "no ledger there yet" in complaint(relay_app(command, "--config", config))
        return  # it has no use for the provider's key
    if command == "gunicorn":
        done = run(
            sys.executable, "-m", "gunicorn", "-c", "python:relay_app.web.gunicorn",
            "--bind", "127.0.0.1:0", "--log-level", "error", RELAY_CONFIG=str(config),
        )  # fmt: skip
    else:
        done = relay_app(command, "--config", config)
    line = complaint(done)
    assert line.startswith(f"{config}: ")
    assert said in line


def test_a_file_that_is_not_there_is_named(tmp_path):
    said = complaint(relay_app("serve", "--config", tmp_path / "none.toml"))
    assert "none.toml: cannot be read (No such file or directory)" in said
    assert "relay.toml: cannot be read" in complaint(relay_app("serve", cwd=tmp_path))


@pytest.mark.parametrize("server", ["serve", "gunicorn"])
@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0"])
def test_a_relay_that_asks_nobody_for_a_key_listens_on_loopback_only(config, server, bind):
    config.write_text(OPEN)
    if server == "serve":
        done = relay_app("serve", "--config", config, "--bind", bind)
    else:
        done = run(
            sys.executable, "-m", "gunicorn", "-c", "python:relay_app.web.gunicorn",
            "--bind", bind, "--log-level", "error", RELAY_CONFIG=str(config),
        )  # fmt: skip
    assert 'auth.mode = "open" asks nobody for a key' in complaint(done)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
def test_a_relay_that_asks_nobody_does_listen_on_loopback(config, bind):
    config.write_text(OPEN)
    with running(python("-m", "relay_app.cli", "serve", "--config", config, "--bind", bind)) as p:
        ready_url(p)


# -- simulate -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bind", "nowhere"], "cannot bind to 'nowhere'"),
        (["--scenario", "no-such-scenario"], "no-such-scenario"),
        (["--speed", "-1"], "speed must be 0 or more"),
        (["--speed", "nan"], "speed must be 0 or more"),
    ],
)
def test_simulate_says_what_is_wrong(options, said):
    assert said in complaint(relay_app("simulate", "--bind", "127.0.0.1:0", *options))


def test_simulate_says_that_its_port_is_taken_or_its_transcript_none(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        assert "Address already in use" in complaint(relay_app("simulate", "--bind", bind))
    broken = tmp_path / "broken.jsonl"
    broken.write_text("not a transcript\n")
    complaint(relay_app("simulate", "--bind", "127.0.0.1:0", "--transcript", broken))


# -- usage --------------------------------------------------------------------------------------


@pytest.fixture
def ledger(config: Path) -> Path:
    """The settings of a ledger with three records of two keys and two days."""
    store = open_store(f"sqlite:///{config.parent}/relay.db")
    store.write(
        [
            usage_record("r1"),
            usage_record("r2", model="gpt-realtime-mini", cost_usd=None),
            usage_record("r3", key="b", session_id="rs_2", ended_at=1_767_225_601.0 + 86_400),
        ]
    )
    store.close()
    return config


def usage(config: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["usage", "--config", str(config), *options])


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("key", ["a", "b"]), ("model", ["gpt-realtime", "gpt-realtime-mini"]),
        ("day", ["2026-01-01", "2026-01-02"]), ("session", ["rs_1", "rs_2"]),
    ],
)  # fmt: skip
def test_usage_is_added_up_as_asked(ledger, by, groups):
    table = usage(ledger, "--by", by).output.splitlines()
    assert [line.split()[0] for line in table] == [by, *groups, "total"]
    found = json.loads(usage(ledger, "--by", by, "--json").output)
    assert found["by"] == by
    assert [total["group"] for total in found["totals"]] == groups
    assert sum(total["records"] for total in found["totals"]) == 3


def test_usage_is_added_up_by_key_unless_asked_otherwise(ledger):
    assert json.loads(usage(ledger, "--json").output)["by"] == "key"


def test_records_are_one_object_a_line(ledger):
    records = [
        json.loads(line) for line in usage(ledger, "--records", "--json").output.splitlines()
    ]
    assert sorted(r["unit_id"] for r in records) == ["r1", "r2", "r3"]
    assert records[-1]["unit_id"] == "r3"
    assert {r["cost_usd"] for r in records} == {"0.50", None}
    text = usage(ledger, "--records").output.splitlines()
    assert len(text) == 3
    assert all("10 tokens" in line for line in text)


def test_usage_is_had_as_csv_too(ledger):
    result = usage(ledger, "--csv", "--by", "model")
    assert result.exit_code == 0
    head, *rows = csv.reader(io.StringIO(result.output))
    found = [dict(zip(head, row, strict=True)) for row in rows]
    assert [row["group"] for row in found] == ["gpt-realtime", "gpt-realtime-mini"]
    assert (Decimal(found[0]["cost_usd"]), found[1]["cost_usd"]) == (1, "")
    head, *rows = csv.reader(io.StringIO(usage(ledger, "--records", "--csv").output))
    assert sorted(row[head.index("unit_id")] for row in rows) == ["r1", "r2", "r3"]


def test_one_answer_has_one_form(ledger):
    said = complaint(relay_app("usage", "--config", ledger, "--csv", "--json"))
    assert said == "--json and --csv are two forms of one answer: choose one"


@pytest.mark.parametrize(
    ("options", "records"),
    [
        (["--since", "2026-01-02"], 1), (["--until", "2026-01-02"], 2),
        (["--since", "2026-01-01T00:00:01", "--until", "2026-01-01T00:00:02"], 2),
        (["--since", "2026-01-01T02:00:00+02:00"], 3), (["--since", "2027-01-01"], 0),
    ],
)  # fmt: skip
def test_usage_is_cut_by_time(ledger, options, records):
    result = usage(ledger, "--records", "--json", *options)
    assert len(result.output.splitlines()) == records


@pytest.mark.parametrize("option", ["--since", "--until"])
@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "", "31.12.2026"])
def test_a_date_that_is_none_is_named(ledger, option, text):
    result = usage(ledger, option, text)
    assert result.exit_code == 1
    assert f"{text!r} is no date or time in ISO 8601, like 2026-01-31" in result.output


def test_nothing_used_is_said_and_is_no_error(config, tmp_path):
    store = open_store(f"sqlite:///{tmp_path}/relay.db")
    store.ping()
    store.close()
    assert usage(config).output == "no usage recorded\n"
    assert json.loads(usage(config, "--json").output) == {"by": "key", "totals": []}
    assert usage(config, "--records").output == ""


def test_a_store_that_is_no_store_is_one_line(config, tmp_path):
    (tmp_path / "relay.db").write_text("this is no database, but long enough to be looked at" * 99)
    assert "Traceback" not in complaint(relay_app("usage", "--config", config))
    (tmp_path / "relay.db").unlink()
    (tmp_path / "relay.db").mkdir()
    complaint(relay_app("usage", "--config", config))


@pytest.mark.parametrize("command", ["usage", "reconcile"])
def test_a_ledger_that_is_not_there_is_named_and_not_made(config, tmp_path, command):
    said = complaint(relay_app(command, "--config", config))
    assert said.startswith(f"no ledger there yet: {tmp_path}/relay.db; ")
    assert [file.name for file in tmp_path.iterdir()] == ["relay.toml"]


def test_looking_needs_no_variable_that_only_the_relay_needs(ledger):
    text = ledger.read_text().replace('"rk-planted-secret"', '"env:NOT_SET_AT_ALL"')
    ledger.write_text(text.replace('"sk-planted-secret"', '"env:NOT_SET_AT_ALL"'))
    assert usage(ledger).exit_code == 0


def test_a_store_in_memory_has_nothing_to_show_to_others(config):
    config.write_text(SETTINGS.replace("sqlite:///relay.db", "memory://"))
    said = complaint(relay_app("usage", "--config", config))
    assert "memory:// is known to the running relay alone" in said


@pytest.mark.parametrize(
    "command", [["usage"], ["usage", "--records"], ["export"], ["keys", "list"], ["reconcile"]]
)
def test_an_output_that_is_full_is_one_line(ledger, command):
    line = [*python("-m", "relay_app.cli"), *command, "--config", str(ledger)]
    done = run("bash", "-c", f"{shlex.join(map(str, line))} > /dev/full")
    assert complaint(done) == "No space left on device"


def test_an_export_to_an_output_that_is_closed_is_one_line(ledger):
    line = [*python("-m", "relay_app.cli"), "export", "--config", str(ledger)]
    done = run("bash", "-c", f"{shlex.join(map(str, line))} >&-")
    assert complaint(done) == "standard output is closed"


def interrupted(store):
    try:
        with opened_records(store, since=None, until=None) as found:
            next(found)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return found


def test_whatever_ends_a_reading_ends_the_view_that_it_read(ledger):
    store = open_store(f"sqlite:///{ledger.parent}/relay.db")
    found = interrupted(store)
    assert list(found) == []
    store.close()


def test_a_reader_that_leaves_early_is_no_error(ledger):
    command = f"{sys.executable} -m relay_app.cli usage --records --config {ledger} | head -1"
    done = run("bash", "-c", command)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
