"""What operators see of the journal: settings, readiness and metrics."""

import re
from collections.abc import Sequence
from pathlib import Path

import gevent
import pytest

from relay_app.app import Relay, create_app
from relay_app.ledger.stores import Store, StoreError, open_store
from relay_app.ledger.stores.memory import MemoryStore
from relay_app.meter.usage import UsageRecord, record_id
from relay_app.settings import Settings, SettingsError
from relay_app.settings_file import settings_from_toml

TOML = """
[auth]
mode = "open"
[[upstreams]]
name = "up"
base_url = "ws://127.0.0.1:1/v1"
api_keys = ["sk-nothing-000000"]
[store]
url = "memory://"
{store}
"""


class Remote(MemoryStore):
    """A store on another host, which is down while ``down`` says so."""

    local = False
    down = False

    def __init__(self) -> None:
        super().__init__()
        self.arrived: list[str] = []

    def write(self, records: Sequence[UsageRecord]) -> None:
        if self.down:
            raise StoreError("connection refused")
        super().write(records)
        self.arrived += [record.unit_id for record in records]

    def ping(self) -> None:
        if self.down:
            raise StoreError("connection refused")
        super().ping()


def settings(folder: Path, store: str = "") -> Settings:
    return settings_from_toml(TOML.format(store=store), base=folder)


def relay(folder: Path, store: Store, more: str = "") -> Relay:
    made: Relay = create_app(settings(folder, more), store=store).extensions["relay_app"]
    return made


def make_record(unit: str) -> UsageRecord:
    return UsageRecord(
        id=record_id("sess", unit), session_id="sess", kind="response", source="reported",
        status="completed", key="k", upstream="up", model="m", upstream_model="m", unit_id=unit,
        started_at=1.0, ended_at=2.0,
    )  # fmt: skip


@pytest.fixture
def store() -> Remote:
    return Remote()


def on_a_greenlet(function):
    """As under a server whose requests are greenlets."""
    return gevent.spawn(function).get()


def test_the_journals_folder_is_relative_to_the_settings_file(tmp_path: Path) -> None:
    assert settings(tmp_path).store.journal == f"{tmp_path}/var/journal"
    assert settings(tmp_path, 'journal = "/x/y"').store.journal == "/x/y"
    assert settings(tmp_path).store.journal_max_bytes == 1 << 30


@pytest.mark.parametrize("line", ['journal = ""', "journal = 3", "journal_max_bytes = 1000"])
def test_what_is_no_journal_stops_the_start(tmp_path: Path, line: str) -> None:
    with pytest.raises(SettingsError, match=line.split()[0]):
        settings(tmp_path, line)


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{folder}/relay.db"])
def test_a_store_on_this_host_has_no_journal(tmp_path: Path, url: str) -> None:
    store = open_store(url.format(folder=tmp_path))
    assert store.local
    assert relay(tmp_path, store).accountant.journal is None


def test_a_store_elsewhere_has_one_that_nothing_touches_before_it_is_needed(
    tmp_path: Path, store: Remote
) -> None:
    made = relay(tmp_path, store, "journal_max_bytes = 2_000_000")
    journal = made.accountant.journal
    assert journal is not None
    assert (journal.folder, journal.max_bytes) == (tmp_path / "var" / "journal", 2_000_000)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_down_is_a_warning_and_all_metrics_tell(
    tmp_path: Path, store: Remote
) -> None:
    app = create_app(settings(tmp_path), store=store)
    made = app.extensions["relay_app"]
    client = app.test_client()

    def story() -> None:
        assert client.get("/readyz").json == {"status": "ready"}
        store.down = True
        assert made.accountant.record([make_record("1"), make_record("2")]).wait(30)
        while made.accountant.shipper.writer.failing_since is None:
            gevent.sleep(0)
        answer = client.get("/readyz")
        assert answer.status_code == 200
        assert answer.json["status"] == "ready"
        assert re.match(r"the journal grows: \d+ bytes wait, .*refused", answer.json["warning"])
        samples = metrics(client.get("/metrics").text)
        assert samples["relay_journal_entries_total"] == 2
        assert samples["relay_journal_syncs_total"] == 2
        assert samples["relay_journal_bytes"] > 1000
        assert samples["relay_journal_oldest_seconds"] > 1e9
        assert samples["relay_journal_failures_total"] == 0
        assert samples["relay_store_failures_total"] > 0
        assert samples["relay_records_total"] == 2
        assert samples["relay_records_pending"] == 0
        store.down = False
        made.accountant.close(30)
        assert metrics(client.get("/metrics").text)["relay_journal_bytes"] == 0

    on_a_greenlet(story)
    assert store.arrived == ["1", "2"]


def test_a_journal_that_cannot_be_written_is_found_out_by_the_start(
    tmp_path: Path, store: Remote
) -> None:
    (tmp_path / "var").touch()
    app = create_app(settings(tmp_path), store=store)
    made = app.extensions["relay_app"]

    def story() -> None:
        made.start()
        while made.accountant.healthy:
            gevent.sleep(0)
        answer = app.test_client().get("/readyz")
        assert answer.status_code == 503
        assert answer.json["error"]["code"] == "ledger_unavailable"
        made.accountant.close(1)

    on_a_greenlet(story)


def metrics(text: str) -> dict[str, float]:
    return {
        name: float(value) for name, value in re.findall(r"^(relay_\w+) (\S+)$", text, re.MULTILINE)
    }
