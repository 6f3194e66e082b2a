"""``relay-app prices``: what a file says, and what a model costs."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from relay_app.cli import main

SETTINGS = """
[auth]
mode = "passthrough"

[[upstreams]]
name = "up"
base_url = "ws://127.0.0.1:1/v1"

[prices]
file = "mine.toml"
"""

MINE = """
[[prices]]
model = "gpt-realtime"
source = "our contract"
date = 2026-01-31
input_text = 3.60
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["prices", *map(str, arguments)])


def test_the_built_in_prices_pass_their_own_check():
    done = run("check")
    assert done.exit_code == 0
    assert done.output.endswith(" prices, 0 errors, 0 warnings\n")


def test_a_good_file_passes_and_a_likely_slip_is_a_warning(tmp_path):
    (tmp_path / "mine.toml").write_text(MINE + "input_audio = 1\n")
    done = run("check", tmp_path / "mine.toml")
    assert done.exit_code == 0
    assert done.output == (
        f"warning: {tmp_path}/mine.toml: prices[0] (gpt-realtime): input_audio = 1 is cheaper "
        "than input_text = 3.60; exchanged?\n1 prices, 0 errors, 1 warnings\n"
    )


def test_a_bad_file_fails_with_every_error(tmp_path):
    (tmp_path / "mine.toml").write_text(MINE.replace("3.60", "-3.60") + "text = 1\n")
    done = run("check", tmp_path / "mine.toml")
    assert done.exit_code == 1
    assert done.output.count("error: ") == 2
    assert done.output.endswith("0 prices, 2 errors, 0 warnings\n")


@pytest.mark.parametrize("name", ["nowhere.toml", "."])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path, name):
    done = run("check", tmp_path / name)
    assert done.exit_code == 1
    assert "cannot be read" in done.output


def test_what_a_model_costs_is_shown_in_the_form_of_a_file(tmp_path):
    shown = run("show", "gpt-realtime-2.1-2027-01-01")
    assert shown.exit_code == 0
    assert 'model = "gpt-realtime-2.1"\n' in shown.output
    (tmp_path / "mine.toml").write_text(shown.output)
    assert run("check", tmp_path / "mine.toml").exit_code == 0


def test_the_whole_list_can_be_copied(tmp_path):
    (tmp_path / "mine.toml").write_text(run("show").output)
    assert run("check", tmp_path / "mine.toml").output == run("check").output


def test_the_example_in_the_docs_is_a_good_file(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "billing.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(# my-prices.toml.*?)```", text, re.DOTALL)
    (tmp_path / "my-prices.toml").write_text(example)
    assert run("check", tmp_path / "my-prices.toml").output == "1 prices, 0 errors, 0 warnings\n"


def test_with_settings_ones_own_prices_count(tmp_path):
    (tmp_path / "mine.toml").write_text(MINE)
    (tmp_path / "relay.toml").write_text(SETTINGS)
    shown = run("show", "--config", tmp_path / "relay.toml", "gpt-realtime-2025-08-28")
    assert "our contract" in shown.output
    assert "input_audio" not in shown.output


def test_a_model_without_a_price_is_said_in_one_line():
    done = run("show", "nobody")
    assert done.exit_code == 1
    assert done.output == ("Error: no price for 'nobody'; its usage is recorded without a cost\n")


def test_settings_with_a_bad_price_file_stop_serve(tmp_path):
    (tmp_path / "mine.toml").write_text(MINE.replace("3.60", "nan"))
    (tmp_path / "relay.toml").write_text(SETTINGS)
    done = CliRunner().invoke(main, ["serve", "--config", str(tmp_path / "relay.toml")])
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: {tmp_path}/relay.toml: prices.file: ")
    assert done.output.count("\n") == 1
