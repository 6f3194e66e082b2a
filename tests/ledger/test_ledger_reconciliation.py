"""Estimates against reports, and records against themselves."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from ledger_support import make_record

from relay_app.cli import main
from relay_app.ledger.reconciliation import as_json, as_text, contradiction, reconcile
from relay_app.ledger.relative_errors import Errors
from relay_app.ledger.stores import open_store
from relay_app.meter.usage import Usage

RAW = '{"total_tokens":30,"input_tokens":20,"output_tokens":10}'


def record(unit="resp_1", estimated=20, **changes):
    values = {
        "usage": Usage(input_text_tokens=20, output_text_tokens=10),
        "usage_raw": RAW,
        "estimate": {"input_text_tokens": estimated, "output_text_tokens": 10},
        "upstream_model": "gpt-realtime",
    }
    return make_record(unit, **(values | changes))


def test_errors_have_a_mean_with_its_sign_and_percentiles_of_their_size():
    errors = Errors()
    for percent in range(1, 101):
        errors.add((-1) ** percent * percent / 100)
    assert errors.count == 100
    assert errors.mean == pytest.approx(0.005)
    assert errors.percentile(95) == pytest.approx(0.95)
    assert errors.percentile(50) == pytest.approx(0.50)


def test_an_infinite_error_counts_as_ten():
    errors = Errors()
    errors.add(float("inf"))
    assert (errors.mean, errors.percentile(95)) == (10.0, 10.0)
    assert (Errors().mean, Errors().percentile(95)) == (0.0, 0.0)


def test_drift_is_shown_by_model_and_kind():
    records = [record(str(n), estimated=20 + n % 3) for n in range(30)]
    records.append(record("other", upstream_model="evil\n\x1b[31m"))
    records.append(record("guess", source="estimated", estimate={"input_text_tokens": 900}))
    report = reconcile(iter(records))
    document = json.loads(as_json(report))
    assert document["records"] == {"reported": 31, "estimated": 1}
    ours = [row for row in document["drift"] if row["model"] == "gpt-realtime"]
    assert ours == [
        {
            "model": "gpt-realtime",
            "kind": "input_text",
            "units": 30,
            "mean_relative_error": 0.05,
            "p95_relative_error": 0.1,
        },
        {
            "model": "gpt-realtime",
            "kind": "output_text",
            "units": 30,
            "mean_relative_error": 0.0,
            "p95_relative_error": 0.0,
        },
    ]
    lines = as_text(report).splitlines()
    assert lines[0] == "records: 1 estimated, 31 reported"
    assert lines[2].split() == ["model", "kind", "units", "mean", "error", "p95"]
    assert lines[-2].split() == ["gpt-realtime", "input_text", "30", "+5.0", "%", "10.0", "%"]
    assert "\x1b" not in as_text(report)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"usage_raw": None, "source": "estimated"}, None),
        ({"usage_raw": RAW[:20]}, None),
        ({"usage_raw": '{"type":"duration","seconds":3}'}, None),
        ({"usage": Usage(input_text_tokens=21, output_text_tokens=10)}, "21 input tokens recorded"),
        ({"usage_raw": RAW.replace("30", "31")}, "30 total tokens recorded, 31 reported"),
        ({"usage_raw": None}, "nobody said what"),
        ({"source": "unknown"}, "unknown, and has figures"),
        ({"source": "unknown", "usage": Usage()}, None),
        ({"usage": Usage(20, cached_text_tokens=21, output_text_tokens=10)}, "21 cached text"),
        ({"usage": Usage(20, output_text_tokens=10, reasoning_tokens=11)}, "11 reasoning"),
    ],
)
def test_a_record_that_disagrees_with_itself_is_found(changes, problem):
    found = contradiction(record(**changes))
    assert found is None if problem is None else problem in found


def test_contradictions_are_listed_by_session_and_only_so_many():
    wrong = {"usage_raw": RAW.replace("30", "31")}
    records = [record(str(n), session=f"s{n % 1500}", **wrong) for n in range(3000)]
    records += [record(f"more{n}", session="s0", **wrong) for n in range(100)]
    report = reconcile(records)
    assert report.contradicting == 3100
    assert len(report.contradictions) == 1000
    assert len(report.contradictions["s0"]) == 10
    assert "3100 records contradict themselves:\n  s0\n    0: 30 total" in as_text(report)


def test_models_are_so_many_and_then_other():
    records = [record(str(n), upstream_model=f"m{n}") for n in range(1100)]
    assert len({model for model, _ in reconcile(records).drift}) == 1001


def test_the_command_reads_the_store(tmp_path: Path):
    config = tmp_path / "relay.toml"
    config.write_text(
        '[auth]\nmode = "open"\n[[upstreams]]\nname = "u"\ndialect = "openai"\n'
        'base_url = "wss://example.test/v1"\napi_keys = ["k"]\n'
        '[store]\nurl = "sqlite:///relay.db"\n'
    )
    store = open_store(f"sqlite:///{tmp_path}/relay.db")
    store.ping()
    empty = CliRunner().invoke(main, ["reconcile", "--config", str(config)])
    assert (empty.exit_code, empty.output) == (0, "records: none\n")
    store.write([record("a"), record("b", estimated=25)])
    store.close()
    result = CliRunner().invoke(main, ["reconcile", "--config", str(config), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.output)["drift"][0]["p95_relative_error"] == 0.25
    later = ["reconcile", "--config", str(config), "--since", "2030-01-01"]
    assert CliRunner().invoke(main, later).output == "records: none\n"
