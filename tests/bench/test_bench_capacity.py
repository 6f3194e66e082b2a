"""Capacity: the figures are those of the newest results, and what was not measured is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.capacity import Found, costs, main, newest, refreshed

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "performance.md"

MEDIANS = {
    # 50 turns a second of 2 ms, and 0.1 ms for each second of a session.
    "paced-100": {"cpu_ms_per_turn": 2.2, "turns_per_second": 50.0, "peer_core": 0.11,
                  "cpu_us_per_message": 35.0},
    "paced-1000": {"cpu_ms_per_turn": 4.0, "turns_per_second": 50.0, "peer_core": 0.2},
    "chunks-20ms": {"cpu_ms_per_turn": 3.0, "cpu_us_per_message": 20.0},
    "open-close": {"cpu_ms_per_session": 1.5},
    "idle-1000": {"kb_per_session": 20.0, "kb_per_session_used": 30.0, "rss_mb_before": 120.0},
    "idle-10000": {"kb_per_session": 25.0, "rss_mb_before": 130.0},
    "durability": {"added_ms_p99": 4.0},
}  # fmt: skip

Write = Callable[..., Path]


def found(**changed: dict[str, float] | None) -> dict[str, Found]:
    medians = {**MEDIANS, **{name.replace("_", "-"): each for name, each in changed.items()}}
    return {name: Found(figures, "a run", False) for name, figures in medians.items() if figures}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_(name: str, began: str, **medians: Any) -> Path:
        scenarios = {
            scenario.replace("_", "-"): {"median": {"relay": figures}}
            for scenario, figures in medians.items()
        }
        file = tmp_path / name
        file.write_text(json.dumps({"began": began, "commit": "abc", "scenarios": scenarios}))
        return file

    return write_


def test_two_paces_tell_a_turn_from_a_session_that_says_nothing() -> None:
    known = costs(found())
    assert known.costs.turn_ms == pytest.approx(2.0)
    assert known.costs.second_ms == pytest.approx(0.1)
    assert known.costs.append_ms == pytest.approx(0.01)
    assert known.costs.open_ms == 1.5
    assert (known.costs.session_kb, known.costs.worker_mb) == (30.0, 120.0)
    assert known.later_ms == 4.0
    assert known.notes == []


def test_100_sessions_of_the_same_rounds_count_before_those_of_another_hour() -> None:
    slow = {"cpu_ms_per_turn": 8.0, "turns_per_second": 50.0, "peer_core": 0.4}
    known = costs(found(paced_1000={**slow, "few_cpu_ms_per_turn": 4.4}))
    assert known.costs.turn_ms == pytest.approx(4.0)
    assert known.costs.second_ms == pytest.approx(0.2)
    assert known.of["turn"] == known.of["second"] == "paced-1000"
    without = found(paced_100=None, paced_1000={**slow, "few_cpu_ms_per_turn": 4.4})
    assert not any("Not measured" in note for note in costs(without).notes)


def test_sessions_that_say_nothing_never_cost_less_than_nothing() -> None:
    known = costs(found(paced_1000={"turns_per_second": 50.0, "peer_core": 0.05}))
    assert (known.costs.turn_ms, known.costs.second_ms) == (pytest.approx(2.2), 0.0)


def test_what_was_not_run_is_named_with_what_it_would_tell() -> None:
    known = costs(found(paced_1000=None, idle_1000=None, open_close=None))
    assert known.costs.turn_ms == 2.2
    assert (known.costs.second_ms, known.costs.open_ms) == (None, None)
    assert known.costs.session_kb == 25.0
    (note,) = known.notes
    assert note.startswith("Not measured (paced-1000: what a session costs that says nothing; ")
    assert note.endswith("`make bench BENCH='paced-1000 open-close idle-1000'`")


def test_the_closed_loop_stands_in_for_paces_and_says_so() -> None:
    known = costs(
        {"closed-loop": Found({"cpu_ms_per_turn": 1.0, "cpu_us_per_message": 16.0}, "a run", True)}
    )
    assert (known.costs.turn_ms, known.costs.append_ms) == (1.0, 0.016)
    assert known.of == {"turn": "closed-loop", "append": "closed-loop"}
    assert known.notes[1:] == [
        "closed-loop was a quick run",
        "A voice turn is taken for one of closed-loop",
        "An append is taken for an average message of closed-loop",
    ]


def test_of_each_scenario_the_newest_counts_whatever_order_they_are_in(write: Write) -> None:
    new = write("a.json", "2026-03-01", open_close={"cpu_ms_per_session": 3.0})
    old = write("b.json", "2026-01-01", open_close={"cpu_ms_per_session": 9.0},
                durability={"added_ms_p99": 1.0})  # fmt: skip
    other = new.with_name("c.json")
    other.write_text('{"rounds": 200}')
    known = newest([new, old, other])
    assert known["open-close"].figures == {"cpu_ms_per_session": 3.0}
    assert known["durability"].run == "b.json (2026-01-01, commit abc)"


def run(*arguments: object) -> str:
    done = CliRunner().invoke(main, [str(each) for each in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_it_prints_tables_for_all_that_is_asked(write: Write) -> None:
    file = write("a.json", "2026-01-01", **{k.replace("-", "_"): v for k, v in MEDIANS.items()})
    said = run(file, "--cores", "16", "--sessions", "50000", "--turns", "4", "--chunks", "40")
    assert "| a voice turn of 63 messages, CPU | 2.000 ms | paced-100, paced-1000 |" in said
    assert "| sessions, on machines of | 50,000 on 16 cores |" in said
    assert "| 40 ms | 4 s |" in said
    assert "—" not in said
    assert "Not measured" not in said


def test_an_assumption_is_an_option_and_is_printed(write: Write) -> None:
    file = write("a.json", "2026-01-01", paced_100=MEDIANS["paced-100"])
    said = run(file, "--turn-seconds", "30", "--push-to-talk")
    assert "| a voice turn of each session every so many seconds | 30 | `--turn-seconds` |" in said
    assert "if not, 2 s a turn | no | `--push-to-talk` |" in said
    assert said != run(file)


def test_without_any_results_it_says_what_to_run(tmp_path: Path) -> None:
    empty = tmp_path / "empty.json"
    empty.write_text("{}")
    said = run(empty)
    assert "Measured in nothing yet." in said
    assert "make bench BENCH='paced-100 paced-1000 " in said
    assert "| machines | — | — | — | — |" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.json"], "results cannot be read"),
        (["--cores", "0"], "has to be above 0"),
        (["--turns", "soon"], "is not a list of numbers"),
        (["--core-busy", "2"], "shares are parts of 1"),
    ],
)
def test_nonsense_is_refused_with_a_line(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code != 0
    assert message in done.output


def test_a_document_gets_the_command_and_keeps_it(write: Write, tmp_path: Path) -> None:
    file = write("a.json", "2026-01-01", paced_100=MEDIANS["paced-100"])
    document = tmp_path / "document.md"
    document.write_text(
        "before\n<!-- python -m bench.capacity -->\nold\n<!-- end of capacity -->\nafter\n"
    )
    run(file, "--spare", "0.5", "--cores", "4,8", "--push-to-talk", "--into", document)
    text = document.read_text()
    line = f"<!-- python -m bench.capacity {file} --spare 0.5 --cores 4,8 --push-to-talk -->"
    head, made = text.split(line + "\n")
    assert (head, made.endswith("<!-- end of capacity -->\nafter\n")) == ("before\n", True)
    assert made.startswith(run(file, "--spare", "0.5", "--cores", "4,8", "--push-to-talk"))
    assert refreshed(text, tmp_path) == text
    run("--into", document)
    assert document.read_text() == text


def test_a_document_without_the_line_is_left_alone(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("nothing")
    done = CliRunner().invoke(main, ["--into", str(document)])
    assert "has no line <!-- python -m bench.capacity" in done.output
    assert document.read_text() == "nothing"


def test_the_document_has_the_figures_of_the_results_it_names() -> None:
    text = DOCUMENT.read_text()
    assert "<!-- python -m bench.capacity bench/results/" in text
    assert refreshed(text, ROOT) == text
