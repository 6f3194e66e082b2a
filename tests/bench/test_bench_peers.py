"""Peers: who takes part in what, and what runs in each."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import taking_part
from bench.costs import PURE
from bench.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
COMPILED = re.findall(r'"(relay_app(?:\.\w+)*\._\w+)"', (ROOT / "setup.py").read_text())


def test_the_relay_of_python_alone_runs_in_the_closed_loop_only() -> None:
    assert [name for name in SCENARIOS if "relay-pure" in taking_part(name)] == ["closed-loop"]


def test_a_peer_that_is_named_takes_part_in_whatever_is_run() -> None:
    named = ["relay-pure", "relay-async"]
    assert all(taking_part(name, named) == named for name in SCENARIOS)


def test_variants_that_a_scenario_starts_itself_take_part_in_none() -> None:
    assert not any("relay-2-workers" in taking_part(name) for name in SCENARIOS)
    assert all("relay" in taking_part(name) for name in SCENARIOS)


@pytest.mark.parametrize("module", COMPILED)
def test_of_python_alone_nothing_compiled_is_imported(module: str) -> None:
    path = os.pathsep.join((str(PURE), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f"ModuleNotFoundError: import of {module} halted" in done.stderr


def test_what_is_compiled_is_known() -> None:
    assert "relay_app.meter._skim" in COMPILED
