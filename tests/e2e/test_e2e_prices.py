"""A relay prices what it relays, by its own list and the operator's, and says what it cannot."""

import json
import subprocess
from decimal import Decimal
from pathlib import Path
from urllib.request import urlopen

from support.processes import python, simulator
from support.relays import RelayProcess, relay

OWN = """
[[prices]]
model = "house-voice"
source = "our contract"
date = 2026-01-31
input_text = 2
cached_text = 1
output_text = 7.5
"""


def say(running: RelayProcess, model: str) -> None:
    """One text turn with ``model``."""
    with running.connect(f"model={model}") as client:
        response = {"output_modalities": ["text"]}
        client.send(json.dumps({"type": "response.create", "response": response}))
        for message in client:
            if json.loads(message)["type"] == "response.done":
                break


def usage(config: Path, *options: str) -> str:
    command = python("-m", "relay_app.cli", "usage", "--config", config, *options)
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=60, check=True
    ).stdout


def test_records_leave_a_relay_priced(tmp_path):
    (tmp_path / "own.toml").write_text(OWN)
    more = '[prices]\nfile = "own.toml"'
    with simulator("--speed", "0") as up, relay(tmp_path, up, more=more) as running:
        for model in ("gpt-realtime", "house-voice", "nobody-knows", "nobody-knows"):
            say(running, model)
        with urlopen(f"{running.url}/metrics") as answer:
            metrics = answer.read().decode()
    records = {record["model"]: record for record in running.records()}

    def text_cost(record: dict, rates: tuple[str, str, str]) -> Decimal:
        fresh = record["input_text_tokens"] - record["cached_text_tokens"]
        tokens = (fresh, record["cached_text_tokens"], record["output_text_tokens"])
        micro_dollars = sum(n * Decimal(rate) for n, rate in zip(tokens, rates, strict=True))
        return round(micro_dollars) / Decimal(1_000_000)

    known, own = records["gpt-realtime"], records["house-voice"]
    assert Decimal(known["cost_usd"]) == text_cost(known, ("4", "0.4", "16")) > 0
    assert Decimal(own["cost_usd"]) == text_cost(own, ("2", "1", "7.5")) > 0
    assert own["price"] == {
        "model": "house-voice", "source": "our contract", "date": "2026-01-31",
        "input_text": "2", "cached_text": "1", "output_text": "7.5",
    }  # fmt: skip
    assert (records["nobody-knows"]["cost_usd"], records["nobody-knows"]["price"]) == (None, None)

    assert 'relay_unpriced_records_total{reason="no_price"} 2.0' in metrics
    assert running.output.count("no price for model 'nobody-knows' of upstream up") == 1
    assert "no price for model 'house-voice'" not in running.output

    totals = json.loads(usage(running.config, "--by", "model", "--json"))["totals"]
    unpriced = {total["group"]: (total["cost_usd"], total["unpriced"]) for total in totals}
    assert unpriced == {
        "gpt-realtime": (known["cost_usd"], 0),
        "house-voice": (own["cost_usd"], 0),
        "nobody-knows": (None, 2),
    }
