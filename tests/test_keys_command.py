"""``relay-app keys``: keys are made, listed, limited and revoked, and shown once."""

import hashlib
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.ledgers import usage_record

from relay_app.cli import main
from relay_app.commands import keys as keys_module
from relay_app.commands.keys import CHANGE_TRIES
from relay_app.ledger.stores import open_store
from relay_app.ledger.stores.base import StoreError
from relay_app.ledger.stores.keys import StoredKey
from relay_app.ledger.stores.sql import SQLStore

SETTINGS = """
[[keys]]
name = "of-the-file"
key = "env:NOT_SET_AT_ALL"
models = ["gpt-*"]
[[upstreams]]
name = "u"
base_url = "env:NOT_SET_AT_ALL"
api_keys = ["env:NOT_SET_AT_ALL"]
[store]
url = "sqlite:///relay.db"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "relay.toml"
    file.write_text(SETTINGS)
    return file


def keys(config: Path, command: str, *arguments: str, **options) -> Result:
    return CliRunner().invoke(
        main, ["keys", command, "--config", str(config), *arguments], **options
    )


def made(config: Path, *arguments: str) -> str:
    result = keys(config, "create", *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def complaint(result: Result) -> str:
    assert (result.exit_code, result.stdout) == (1, "")
    [line] = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


def stored(config: Path) -> dict[str, StoredKey]:
    store = open_store(f"sqlite:///{config.parent}/relay.db")
    found = {key.key.name: key for key in store.keys()}  # noqa: SIM118
    store.close()
    return found


# -- create -------------------------------------------------------------------------------------


def test_a_key_is_all_that_standard_output_gets(config):
    result = keys(config, "create", "team-c")
    assert re.fullmatch(r"sk-relay-[\w-]{43}\n", result.stdout)
    assert "shown this once" in result.stderr
    assert result.stdout.strip() not in result.stderr


def test_only_the_digest_of_a_key_is_kept(config):
    secret = made(config, "team-c")
    found = stored(config)["team-c"]
    assert found.key.key_sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert abs(found.created_at - time.time()) < 60
    assert found.revoked_at is None
    for file in config.parent.iterdir():
        assert secret.encode() not in file.read_bytes()


def test_no_two_keys_are_the_same(config):
    assert made(config, "a") != made(config, "b")


def test_a_key_has_the_limits_that_it_was_given(config):
    made(
        config, "team-c", "--models", "gpt-realtime*, transcription", "--models", "other",
        "--budget-usd", "5.50", "--budget-period", "month", "--max-sessions", "3",
        "--max-tokens-per-minute", "1000",
    )  # fmt: skip
    key = stored(config)["team-c"].key
    assert key.models == ("gpt-realtime*", "transcription", "other")
    assert (key.budget_usd, key.budget_period) == (Decimal("5.50"), "month")
    assert (key.max_sessions, key.max_tokens_per_minute) == (3, 1000)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a b"], "name: expected 1 to 64 letters"),
        (["sk-relay-" + "x" * 43], "name: that is a key"),
        (["of-the-file"], "has the key of-the-file: choose another name"),
        (["a", "--models", "x*y*"], "models: expected a list of model names"),
        (["a", "--models", "x,,y"], "models: expected a list of model names"),
        (["a", "--budget-usd", "5,00"], "budget_usd: expected an amount in USD"),
        (["a", "--budget-period", "day"], "--budget-period is of a budget"),
        (["a", "--max-sessions", "0"], "max_sessions: expected a whole number"),
        (["a", "--max-tokens-per-minute", "-1"], "max_tokens_per_minute: expected a whole number"),
    ],
)
def test_what_cannot_be_is_said_in_one_line_and_makes_nothing(config, arguments, said):
    line = complaint(keys(config, "create", *arguments))
    assert said in line
    assert "xxx" not in line
    assert not (config.parent / "relay.db").exists()


@pytest.mark.parametrize("revoked", [False, True])
def test_a_name_is_given_once(config, revoked):
    made(config, "a")
    if revoked:
        keys(config, "revoke", "a", "--yes")
    before = stored(config)
    assert "there is a key a already, or was" in complaint(keys(config, "create", "a"))
    assert stored(config) == before


@pytest.mark.parametrize("mode", ["open", "passthrough"])
def test_a_relay_that_asks_for_no_key_needs_none(config, mode):
    config.write_text(f'[auth]\nmode = "{mode}"\n' + SETTINGS)
    assert f'auth.mode is "{mode}"' in complaint(keys(config, "create", "a"))


@pytest.mark.parametrize("command", [["create", "a"], ["list"], ["revoke", "a"], ["budget", "a"]])
def test_a_store_in_memory_keeps_no_keys(config, command):
    config.write_text(SETTINGS.replace("sqlite:///relay.db", "memory://"))
    assert "memory:// is known to the running relay alone" in complaint(keys(config, *command))


@pytest.mark.parametrize("command", [["list"], ["revoke", "a"], ["budget", "a"]])
def test_looking_makes_no_ledger(config, command):
    said = complaint(keys(config, *command))
    assert said.startswith(f"no ledger there yet: {config.parent}/relay.db; ")


def create_in_a_shell(config: Path, redirection: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "relay_app.cli", "keys", "create", "a", "--config"]
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{shlex.join([*command, str(config)])} {redirection}"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("redirection", "why"), [("> /dev/full", "No space left on device"), ("| true", "Broken pipe")]
)
def test_a_key_that_nobody_could_see_is_revoked(config, redirection, why):
    done = create_in_a_shell(config, redirection)
    assert (done.returncode, done.stderr) == (
        1,
        f"Error: the key could not be printed ({why}) and is revoked: choose another name for the "
        "next\n",
    )
    assert stored(config)["a"].revoked_at is not None


def test_a_key_that_nobody_could_see_and_that_cannot_be_revoked_is_named(config, monkeypatch):
    store = type(open_store(f"sqlite:///{config.parent}/relay.db"))
    put_key = store.put_key

    def fail_to_revoke(self, key, *more, **options) -> None:
        if key.revoked_at is not None:
            raise StoreError("the disk is full")
        put_key(self, key, *more, **options)

    def fail(message: str, **options) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "put_key", fail_to_revoke)
    with monkeypatch.context() as broken:
        broken.setattr(keys_module, "click", SimpleNamespace(echo=fail))
        said = complaint(keys(config, "create", "a"))
    assert said.endswith("nor revoked (the disk is full): relay-app keys revoke a, then choose "
                         "another name")  # fmt: skip


def test_without_an_output_no_key_is_made(config):
    done = create_in_a_shell(config, ">&-")
    assert (done.returncode, done.stderr) == (1, "Error: standard output is closed\n")
    assert not (config.parent / "relay.db").exists()


# -- list ---------------------------------------------------------------------------------------


def test_the_list_shows_whose_keys_there_are_and_no_digest(config):
    secret = made(config, "team-c", "--budget-usd", "5", "--budget-period", "day")
    made(config, "team-b", "--max-sessions", "2")
    keys(config, "revoke", "team-b", "--yes")
    table = keys(config, "list").output
    rows = [line.split() for line in table.splitlines()]
    assert [row[:4] for row in rows[1:]] == [
        ["of-the-file", "settings", "active", "gpt-*"],
        ["team-b", "store", "revoked", "*"],
        ["team-c", "store", "active", "*"],
    ]
    assert "5 a day" in table
    found = keys(config, "list", "--json").output
    assert {row["name"]: row["state"] for row in json.loads(found)} == {
        "of-the-file": "active", "team-b": "revoked", "team-c": "active"
    }  # fmt: skip
    assert json.loads(found)[2]["budget_usd"] == "5"
    assert json.loads(found)[1]["revoked_at"] >= json.loads(found)[1]["created_at"]
    digest = hashlib.sha256(secret.encode()).hexdigest()
    assert not re.search(f"{digest[:12]}|0{{16}}|sha256", table + found)


def test_a_key_whose_name_the_file_took_is_shown_as_unused(config):
    made(config, "team-c")
    config.write_text(SETTINGS.replace("of-the-file", "team-c"))
    found = json.loads(keys(config, "list", "--json").output)
    assert [(key["source"], key["state"]) for key in found] == [
        ("settings", "active"), ("store", "unused")
    ]  # fmt: skip


def test_no_keys_are_said_to_be_none(config):
    config.write_text('[store]\nurl = "sqlite:///relay.db"\n')
    open_store(f"sqlite:///{config.parent}/relay.db").ping()
    assert keys(config, "list").output == "no keys\n"
    assert json.loads(keys(config, "list", "--json").output) == []


# -- revoke -------------------------------------------------------------------------------------


def test_a_revoked_key_is_kept_and_opens_nothing(config):
    made(config, "a")
    result = keys(config, "revoke", "a", "--yes")
    assert result.output == (
        "a is revoked: no new sessions, and open ones end within 30 seconds.\n"
    )
    assert abs(stored(config)["a"].revoked_at - time.time()) < 60
    assert "a is revoked already" in complaint(keys(config, "revoke", "a"))


def test_what_cannot_be_revoked_here_is_said(config):
    secret = made(config, "a")
    said = complaint(keys(config, "revoke", "of-the-file"))
    assert "has the key of-the-file: remove it there, then restart or reload" in said
    said = complaint(keys(config, "revoke", secret))
    assert said == "the store has no key of that name: relay-app keys list"
    assert stored(config)["a"].revoked_at is None


@pytest.mark.parametrize(
    ("options", "answer", "revoked"),
    [([], b"n\n", False), ([], b"y\n", True), (["--yes"], b"", True)],
)
def test_a_terminal_is_asked_first(config, options, answer, revoked):
    made(config, "a")
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    done = subprocess.run(
        [sys.executable, "-m", "relay_app.cli", "keys", "revoke", "a", "--config", config,
         *options],
        stdin=theirs, capture_output=True, timeout=60,
    )  # fmt: skip
    os.close(ours)
    os.close(theirs)
    assert (b"Revoke a, and end its sessions?" in done.stderr) == (not options)
    assert (stored(config)["a"].revoked_at is not None) == revoked
    assert done.returncode == (0 if revoked else 1)


@pytest.mark.parametrize(("answer", "revoked"), [("y\n", True), ("n\n", False)])
def test_a_script_may_answer_too(config, answer, revoked):
    made(config, "a")
    assert keys(config, "revoke", "a", input=answer).exit_code == (0 if revoked else 1)
    assert (stored(config)["a"].revoked_at is not None) == revoked


def test_where_nobody_answers_nothing_is_revoked(config):
    made(config, "a")
    result = keys(config, "revoke", "a")
    assert result.exit_code == 1
    assert result.stderr.endswith(
        "\nError: nobody answers on standard input: --yes revokes without asking\n"
    )
    assert stored(config)["a"].revoked_at is None


# -- budget -------------------------------------------------------------------------------------


def test_limits_are_shown_before_and_after_with_what_was_used(config):
    made(config, "a", "--budget-usd", "1")
    store = open_store(f"sqlite:///{config.parent}/relay.db")
    store.write([usage_record("r1"), usage_record("r2", ended_at=time.time())])
    store.close()
    before, used = keys(config, "budget", "a").output.splitlines()
    assert before == "a: budget 1 USD, sessions -, tokens a minute -"
    assert re.fullmatch(r"   used 1\.0+ USD, in 2 records", used)
    shown = keys(config, "budget", "a", "--usd", "2.50", "--period", "day", "--max-sessions", "3")
    before, after, used = shown.output.splitlines()
    assert before == "a: budget 1 USD, sessions -, tokens a minute -"
    assert after.strip().startswith("budget 2.50 USD a day, sessions 3, tokens a minute -  within")
    assert re.fullmatch(r"   used 0\.50* USD since \d{4}-\d\d-\d\d, in 1 record", used)
    assert stored(config)["a"].key.budget_usd == Decimal("2.50")


def test_the_first_limits_of_a_key_are_not_said_to_hold_for_open_sessions(config):
    made(config, "a")
    said = keys(config, "budget", "a", "--usd", "1").output
    assert "but not for open sessions, which began without limits: revoking the key ends" in said
    assert keys(config, "budget", "a", "--usd", "2").output.count("for open sessions too") == 1


def test_a_key_of_the_file_is_shown_too(config):
    config.write_text(
        SETTINGS.replace("[[upst", 'budget_usd = "5"\nbudget_period = "day"\n[[upst', 1)
    )
    store = open_store(f"sqlite:///{config.parent}/relay.db")
    store.write([usage_record("r1", key="of-the-file", ended_at=time.time())])
    store.close()
    limits, used = keys(config, "budget", "of-the-file").output.splitlines()
    assert limits == "of-the-file: budget 5 USD a day, sessions -, tokens a minute -"
    assert re.fullmatch(r"  +used 0\.50* USD since \d{4}-\d\d-\d\d, in 1 record", used)
    assert "change it there" in complaint(keys(config, "budget", "of-the-file", "--none"))


def test_limits_can_be_taken_away(config):
    made(config, "a", "--budget-usd", "1", "--budget-period", "day", "--max-sessions", "3")
    before = stored(config)["a"]
    keys(config, "budget", "a", "--none", "--max-sessions", "0")
    after = stored(config)["a"]
    assert (after.key.budget_usd, after.key.budget_period, after.key.max_sessions) == (
        None, "total", None
    )  # fmt: skip
    assert (after.key.key_sha256, after.created_at) == (before.key.key_sha256, before.created_at)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "--usd", "five"], "budget_usd: expected an amount in USD"),
        (["a", "--period", "day"], "--period is of a budget"),
        (["a", "--none", "--usd", "5"], "--none takes the budget away"),
        (["a", "--max-sessions", "-1"], "max_sessions: expected a whole number"),
        (["of-the-file", "--usd", "5"], "of-the-file: change it there"),
        (["nobody", "--usd", "5"], "the store has no key of that name"),
    ],
)
def test_limits_that_cannot_be_change_nothing(config, arguments, said):
    made(config, "a")
    before = stored(config)
    assert said in complaint(keys(config, "budget", *arguments))
    assert stored(config) == before


# -- what others do meanwhile -------------------------------------------------------------------


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has somebody else do something after the next command has read, before it writes."""

    def arrange(*does: Callable[[], object]) -> None:
        waiting, put_key = list(does), SQLStore.put_key

        def put(store: SQLStore, key: StoredKey, **options: Any) -> None:
            if waiting:
                does_now = waiting.pop()
                with monkeypatch.context() as alone:
                    alone.setattr(SQLStore, "put_key", put_key)
                    does_now()
            put_key(store, key, **options)

        monkeypatch.setattr(SQLStore, "put_key", put)

    return arrange


def test_of_two_who_make_a_name_at_once_one_gets_a_key_and_one_is_told(config, meanwhile):
    secrets: list[str] = []
    meanwhile(lambda: secrets.append(made(config, "a")))
    assert complaint(keys(config, "create", "a")) == "somebody else has just made a key a"
    [secret] = secrets
    assert stored(config)["a"].key.key_sha256 == hashlib.sha256(secret.encode()).hexdigest()


def test_a_budget_never_brings_a_revoked_key_back(config, meanwhile):
    made(config, "a", "--budget-usd", "1")
    meanwhile(lambda: keys(config, "revoke", "a", "--yes"))
    assert complaint(keys(config, "budget", "a", "--usd", "5")) == "a is revoked already"
    found = stored(config)["a"]
    assert (found.revoked_at is None, found.key.budget_usd) == (False, Decimal(1))


def test_a_budget_leaves_the_limits_that_others_change(config, meanwhile):
    made(config, "a", "--budget-usd", "1")
    meanwhile(lambda: keys(config, "budget", "a", "--max-sessions", "3"))
    before, after, _ = keys(config, "budget", "a", "--usd", "5").output.splitlines()
    assert before == "a: budget 1 USD, sessions 3, tokens a minute -"
    assert after.strip().startswith("budget 5 USD, sessions 3, tokens a minute -")
    found = stored(config)["a"].key
    assert (found.budget_usd, found.max_sessions) == (Decimal(5), 3)


def test_a_key_is_revoked_whatever_others_change_and_as_they_changed_it(config, meanwhile):
    made(config, "a")
    meanwhile(
        lambda: keys(config, "budget", "a", "--usd", "5"),
        lambda: keys(config, "budget", "a", "--max-sessions", "3"),
    )
    assert "a is revoked: " in keys(config, "revoke", "a", "--yes").output
    found = stored(config)["a"]
    assert found.revoked_at is not None
    assert (found.key.budget_usd, found.key.max_sessions) == (Decimal(5), 3)


def test_who_always_comes_too_late_is_told_so(config, meanwhile):
    made(config, "a")
    changes = [str(n) for n in range(1, CHANGE_TRIES + 1)]
    meanwhile(*(lambda n=n: keys(config, "budget", "a", "--usd", n) for n in changes))
    said = complaint(keys(config, "budget", "a", "--max-sessions", "3"))
    assert said == "a was changed by others all the time; nothing was done: try again"
    assert stored(config)["a"].key.max_sessions is None
