"""Which store a URL names, and what a wrong one is answered."""

import os
import site
import sys
import sysconfig
from pathlib import Path

import pytest
from ledger_support import finish, python

from relay_app.ledger.stores import open_store
from relay_app.ledger.stores.base import StoreError
from relay_app.ledger.stores.memory import MemoryStore

KNOWN = "known: memory://, postgresql://, redis://, rediss://, sqlite://"


@pytest.mark.parametrize("url", ["mysql://u:hunter2@h/db", "var/relay.db", "", "://hunter2"])
def test_an_unknown_scheme_is_answered_with_the_known_ones(url: str) -> None:
    with pytest.raises(ValueError, match=KNOWN) as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_sqlite_in_memory_is_pointed_to_the_memory_store(url: str) -> None:
    with pytest.raises(ValueError, match="memory://"):
        open_store(url)


@pytest.mark.parametrize(
    "url", ["sqlite://var/relay.db", "sqlite:///relay.db?mode=ro", "sqlite+aiosqlite:///relay.db"]
)
def test_another_sqlite_url_is_answered_with_the_accepted_form(url: str) -> None:
    with pytest.raises(ValueError, match="accepted: sqlite:///relative"):
        open_store(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg2://u:hunter2@h/db",
        "postgresql://u:hunter2@h:port/db",
        "postgresql://u:hun@ter2@h:1:2/db",
        "postgresql://u:hunter2@h/db?flavour=sweet",
        "postgresql://u:hunter2@h/db?connect_timeout=soon",
        "redis://:hunter2@h/zero",
        "redis://:hunter2@h:port/0",
        "redis://:hunter2@h/0?flavour=sweet",
        "redis://:hunter2@h/0?ca_file=x.pem",
        "redis://:hunter2@h/0?timeout=0",
        "redis://:hunter2@h/0?prefix={x}",
        "rediss://",
    ],
)
def test_another_network_url_is_answered_with_the_accepted_form(url: str) -> None:
    with pytest.raises(ValueError, match=r"accepted: (postgresql|redis)") as caught:
        open_store(url)
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "driver", "extra"),
    [
        ("postgresql+psycopg://u:hunter2@h/db", "psycopg", "postgres"),
        ("redis://:hunter2@h/0", "redis", "redis"),
        ("rediss://:hunter2@h/0", "redis", "redis"),
    ],
)
def test_a_missing_driver_is_answered_with_what_to_install(
    url: str, driver: str, extra: str
) -> None:
    script = """
sys.modules[sys.argv[2]] = None
from relay_app.ledger.stores import open_store
try:
    open_store(sys.argv[1])
except ValueError as error:
    print(error)
"""
    out = finish(python(script, url, driver))
    assert out.endswith(f"needs a driver that is not installed: pip install 'relay_app[{extra}]'\n")
    assert out.count("\n") == 1


def test_building_and_closing_a_store_dials_nobody() -> None:
    for url in ("postgresql://h.invalid/db", "redis://h.invalid/0", "rediss://h.invalid/0"):
        open_store(url).close()


def test_memory_takes_no_parameters() -> None:
    assert isinstance(open_store("memory://"), MemoryStore)
    with pytest.raises(ValueError, match="no more than memory://"):
        open_store("memory://big")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution installed beside ours, with stores of its own."""
    info = tmp_path / "elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[relay_app.stores]\n"
        "elsewhere = elsewhere_store:Elsewhere\n"
        "elsewhere+fast = elsewhere_store:Fast\n"
        "memory = elsewhere_store:Fast\n"
        "broken = elsewhere_store:Nothing\n"
        "odd = elsewhere_store:odd\n"
    )
    (tmp_path / "elsewhere_store.py").write_text(
        "from relay_app.ledger.stores.memory import MemoryStore\n"
        "class Elsewhere(MemoryStore):\n"
        "    @classmethod\n"
        "    def from_url(cls, url):\n"
        "        store = cls()\n"
        "        store.url = url\n"
        "        return store\n"
        "class Fast(Elsewhere): pass\n"
        "odd = 1\n"
    )
    # Not syspath_prepend: it asks a pkg_resources that the conformance suite has replaced.
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("elsewhere://h", "Elsewhere"),
        ("elsewhere+other://h", "Elsewhere"),
        ("elsewhere+fast://h", "Fast"),
        ("memory://", "MemoryStore"),
    ],
)
def test_a_store_of_another_package_is_found_by_its_entry_point(url: str, name: str) -> None:
    store = open_store(url)
    assert type(store).__name__ == name
    assert getattr(store, "url", url) == url


@pytest.mark.usefixtures("elsewhere")
def test_a_store_that_does_not_load_is_a_wrong_setting() -> None:
    with pytest.raises(ValueError, match=r"broken:// \(elsewhere_store:Nothing\) cannot be loaded"):
        open_store("broken://")
    with pytest.raises(ValueError, match=r"odd:// .* is no Store"):
        open_store("odd://")


def test_ours_are_found_in_a_source_tree_without_metadata(tmp_path: Path) -> None:
    here = Path(__file__).parents[2]
    (tmp_path / "relay_app").symlink_to(here / "relay_app")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "relay_app" not in entry.name and not entry.name.endswith((".pth", ".dist-info")):
            (tmp_path / entry.name).symlink_to(entry)
    script = """
sys.path = [sys.argv[1], *(p for p in sys.path if p and "site-packages" not in p)]
from importlib.metadata import entry_points
assert not entry_points(group="relay_app.stores")
from relay_app.ledger.stores import open_store
print(type(open_store("memory://")).__name__, type(open_store("sqlite:///x.db")).__name__)
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    assert site.getsitepackages()
    process = python(script, str(tmp_path), cwd=tmp_path, env=environment)
    assert finish(process).split() == ["MemoryStore", "SQLStore"]


def test_a_store_error_repeats_no_password() -> None:
    error = StoreError(
        "cannot reach redis://:hunter2@h:1/0 nor dsn password=hunter2",
        rejected={"1": "postgresql://me:hun@ter2@h/db"},
    )
    assert "ter2" not in f"{error} {error.rejected}"
    assert "://***@h:1/0" in str(error)
