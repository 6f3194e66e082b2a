"""Keys of the store in front of a relay that runs: made, used, limited, revoked."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.clients import eventually
from support.processes import python, ready_url, running
from support.relays import SERVERS, RelayProcess, relay
from support.upstreams import echo, upstream
from websockets.exceptions import ConnectionClosed, InvalidStatus

SECONDS = 30.0
"""Within which a key that was revoked ends its sessions: a promise of the README."""


def relay_app(config: Path, *arguments: str) -> str:
    command, *rest = arguments
    done = subprocess.run(
        [str(a) for a in python("-m", "relay_app.cli", "keys", command, "--config", config, *rest)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def relayed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    with (
        upstream(echo) as base_url,
        relay(tmp_path_factory.mktemp("keys"), base_url, workers=2) as process,
    ):
        yield process


def connect(relayed: RelayProcess, key: str):
    headers = {"Authorization": f"Bearer {key}"}
    return relayed.connect(additional_headers=headers)


def works(relayed: RelayProcess, key: str) -> None:
    with connect(relayed, key) as client:
        client.send('{"type":"ping"}')
        assert client.recv(timeout=SECONDS) == '{"type":"ping"}'


def refuses(relayed: RelayProcess, key: str) -> bool:
    try:
        connect(relayed, key).close()
    except InvalidStatus as refused:
        return refused.response.status_code == 401
    return False


def test_a_key_works_at_once_in_every_worker(relayed):
    key = relay_app(relayed.config, "create", "at-once")
    for _ in range(8):
        works(relayed, key)
    assert key not in relayed.output


def test_a_key_made_beside_a_flood_of_wrong_ones_works_too(relayed):
    for n in range(5):
        with pytest.raises(InvalidStatus) as refused:
            connect(relayed, f"sk-relay-wrong-{n}")
        assert refused.value.response.status_code == 401
    works(relayed, relay_app(relayed.config, "create", "amid-wrong-ones"))


def test_a_key_that_is_revoked_ends_its_sessions_and_opens_no_more(relayed):
    key = relay_app(relayed.config, "create", "to-revoke", "--budget-usd", "5.00")
    other = relay_app(relayed.config, "create", "other")
    assert "budget 5.00" in relay_app(relayed.config, "budget", "to-revoke")
    # More sessions than workers, so that most likely both have one; all have to end.
    open_sessions = [connect(relayed, key) for _ in range(6)]
    with connect(relayed, other) as undisturbed:
        started = time.monotonic()
        relay_app(relayed.config, "revoke", "to-revoke", "--yes")
        for client in open_sessions:
            event = json.loads(client.recv(timeout=SECONDS))
            assert event["type"] == "error"
            assert event["error"]["code"] == "key_revoked"
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=SECONDS)
            assert closed.value.rcvd.code == 1008
        assert time.monotonic() - started < SECONDS
        # All six may have been one worker's: then the other has yet to read it.
        eventually(
            lambda: all(refuses(relayed, key) for _ in range(8)),
            "both workers know it",
            started + SECONDS - time.monotonic(),
        )
        undisturbed.send('{"type":"ping"}')
        assert undisturbed.recv(timeout=SECONDS) == '{"type":"ping"}'


def test_a_relay_without_any_key_in_its_file_waits_for_the_first(tmp_path):
    with upstream(echo) as base_url:
        config = tmp_path / "relay.toml"
        config.write_text(
            f'[[upstreams]]\nname = "up"\nbase_url = "{base_url}"\ndialect = "compatible"\n'
            'api_keys = ["k"]\n[store]\nurl = "sqlite:///relay.db"\n'
        )

        with running(SERVERS["gunicorn"](config, 1), cwd=tmp_path) as process:
            relayed = RelayProcess(process, config, ready_url(process))
            with pytest.raises(InvalidStatus) as refused:
                relayed.connect()
            assert refused.value.response.status_code == 401
            process.wait_for("there is no key yet: relay-app keys create NAME makes one")
            works(relayed, relay_app(config, "create", "first"))
