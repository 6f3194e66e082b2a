"""The price list of a relay: what its settings put over the built-in one, or why not."""

import logging
from pathlib import Path

import pytest

from relay_app.ledger.price_list import price_list
from relay_app.settings import Settings, SettingsError
from relay_app.settings_file import settings_from_file

SETTINGS = """
[auth]
mode = "open"

[[upstreams]]
name = "up"
base_url = "ws://127.0.0.1:1/v1"
api_keys = ["sk-12345678"]
{upstream}

{more}
"""

OWN = """
[[prices]]
model = "gpt-realtime"
source = "our contract"
date = 2026-01-31
input_text = 3.6
cached_text = 0.36
output_text = 14.4
"""


def settings(folder: Path, more: str = "", upstream: str = "") -> Settings:
    (folder / "relay.toml").write_text(SETTINGS.format(upstream=upstream, more=more))
    return settings_from_file(folder / "relay.toml", {})


def test_without_a_file_of_ones_own_the_built_in_prices_count(tmp_path):
    found = price_list(settings(tmp_path)).find("gpt-realtime")
    assert found.source.startswith("https://developers.openai.com/")


def test_a_file_beside_the_settings_goes_over_them(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    (tmp_path / "my-prices.toml").write_text(OWN)
    prices = price_list(settings(tmp_path, '[prices]\nfile = "my-prices.toml"'))
    assert prices.find("gpt-realtime-2025-08-28").source == "our contract"
    assert prices.find("gpt-realtime-2025-08-28").input_audio is None
    assert prices.find("gpt-realtime-2.1").source.startswith("https://")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "my.toml: cannot be read (No such file or directory)"),
        (b"\xff", "my.toml: not UTF-8"),
        (OWN.replace("3.6", "-3.6").encode(), "my.toml: prices[0].input_text = -3.6: expected USD"),
    ],
)
def test_a_file_that_cannot_be_used_stops_the_start_with_one_line(tmp_path, content, why):
    if content is not None:
        (tmp_path / "my.toml").write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        price_list(settings(tmp_path, '[prices]\nfile = "my.toml"'))
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/relay.toml: prices.file: {tmp_path}/{why}")
    assert "\n" not in said


def test_what_only_looks_wrong_is_logged_and_used(tmp_path, caplog):
    (tmp_path / "my.toml").write_text(OWN + "input_audio = 1.0\n")
    with caplog.at_level(logging.WARNING, "relay_app.ledger.price_list"):
        prices = price_list(settings(tmp_path, '[prices]\nfile = "my.toml"'))
    assert prices.find("gpt-realtime").input_audio == 1
    assert "input_audio = 1.0 is cheaper than input_text = 3.6" in caplog.text


def test_a_prefix_that_no_model_has_stops_the_start(tmp_path):
    price_list(settings(tmp_path, upstream='price_prefix = "azure/eu/"'))
    with pytest.raises(SettingsError, match=r"upstreams\[0\].price_prefix = 'azure/uk/': expected"):
        price_list(settings(tmp_path, upstream='price_prefix = "azure/uk/"'))


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ("[prices]\nfile = 7", "prices.file = 7: expected the path of a price file"),
        ('[prices]\nfile = ""', "prices.file = '': expected the path of a price file"),
        ('[prices]\npath = "a"', "prices.path is not a setting: expected one of file"),
        ("[[prices]]\nmodel = 7", "prices = (hidden): expected a table, [prices]"),
    ],
)
def test_settings_about_prices_are_checked_like_any_other(tmp_path, more, error):
    with pytest.raises(SettingsError) as caught:
        settings(tmp_path, more)
    assert str(caught.value) == f"{tmp_path}/relay.toml: {error}"
