"""The table says what the results say, and documents cannot say anything else."""

from pathlib import Path

import pytest

from bench.table import goals, refreshed, render

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "performance.md"


@pytest.fixture
def results():
    return {
        "began": "2026-01-02T03:04:05+00:00",
        "commit": "abc",
        "options": {"rounds": 5},
        "machine": {"cores": 2, "cpu": "a CPU", "load_average": [0.1, 0.1, 0.1]},
        "versions": {"python": "3.11", "gevent": "26"},
        "peers": {"direct": "", "nginx": "1.22", "litellm": None, "relay": "0.1"},
        "scenarios": {
            "closed-loop": {
                "median": {
                    "direct": {"cpu_ms_per_turn": 0.0},
                    "nginx": {"cpu_ms_per_turn": 0.5},
                    "relay": {"cpu_ms_per_turn": 0.4},
                },
                "skipped": {"litellm": "pip install litellm"},
            }
        },
    }


def test_figures_stand_with_their_ratio_to_nginx(results):
    table = render(results)
    assert "| CPU per voice turn, closed loop, ms |  | 0.50 (1.00) |  | 0.40 (0.80) |" in table


def test_a_goal_is_met_by_what_was_measured_in_the_same_run(results):
    (goal, value), *others = goals(results)
    assert (goal.limit, round(value, 2), others) == (0.9, 0.8, [])
    assert "| ≤ 0.9 | 0.8 | met |" in render(results)
    results["scenarios"]["closed-loop"]["median"]["relay"]["cpu_ms_per_turn"] = 0.6
    assert "| ≤ 0.9 | 1.2 | missed |" in render(results)


def test_a_skipped_peer_says_how_it_is_installed(results):
    assert "litellm was skipped: pip install litellm" in render(results)


def test_the_document_has_the_table_of_the_results_it_names():
    text = DOCUMENT.read_text()
    assert "<!-- python -m bench.table bench/results/" in text
    assert refreshed(text, ROOT) == text
