"""The table, made of a results file: ``python -m bench.table FILE [--into docs/performance.md]``.

The rule: nobody types a figure. A document has a line that names the results file, and what is
between that line and the next marker is what this command prints for it.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

__all__ = ["Goal", "goals", "main", "refreshed", "render"]

BASELINE = "nginx"
_BLOCK = re.compile(
    r"(<!-- python -m bench\.table (?P<file>\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL
)


class Row(NamedTuple):
    """One line of the table: a figure of a scenario, ``scale`` times, and its ratio."""

    scenario: str
    figure: str
    label: str
    digits: int = 2
    ratio: bool = True


class Goal(NamedTuple):
    """What ``figure`` of ``peer``, as a part of ``of``'s if given, should be at most."""

    label: str
    scenario: str
    figure: str
    limit: float
    of: str | None = None
    peer: str = "relay"
    at_least: bool = False


ROWS = (
    Row("closed-loop", "cpu_ms_per_turn", "CPU per voice turn, closed loop, ms"),
    Row("closed-loop", "system_ms_per_turn", "of it in the kernel, ms"),
    Row("closed-loop", "load_ms_per_turn", "what the load itself costs beside it, ms", ratio=False),
    Row("paced-100", "cpu_ms_per_turn", "CPU per voice turn, 100 paced sessions, ms"),
    Row("paced-1000", "cpu_ms_per_turn", "CPU per voice turn, 1,000 paced sessions, ms"),
    Row("paced-1000", "few_cpu_ms_per_turn", "the same of 100, in the same rounds, ms"),
    Row("chunks-20ms", "cpu_us_per_message", "CPU per message, 20 ms chunks, µs", 1),
    Row("latency", "audio_ms_p50", "audio delta under way at half load, p50, ms"),
    Row("latency", "audio_ms_p99", "the same, p99, ms"),
    Row("durability", "done_ms_p50", "response.done under way, p50, ms", ratio=False),
    Row("durability", "done_ms_p99", "the same, p99, ms", ratio=False),
    Row("idle-1000", "kb_per_session", "memory per idle session, of 1,000, kB", 1),
    Row("idle-1000", "kb_per_session_used", "the same after a turn each, kB", 1),
    Row("idle-10000", "kb_per_session", "memory per idle session, of 10,000, kB", 1),
    Row("open-close", "sessions_per_core_second", "sessions opened and closed per core second", 0),
    Row("delta-size", "cpu_ms_per_turn", "CPU per voice turn, 12 deltas of 16 kB, ms"),
    Row("delta-size", "small_cpu_ms_per_turn", "CPU per voice turn, 12 deltas of 1.6 kB, ms"),
    Row("delta-size", "metering_us", "metering an audio delta of 16 kB, µs", ratio=False),
    Row("delta-size", "small_metering_us", "metering an audio delta of 1.6 kB, µs", ratio=False),
    Row("slow-reader", "audio_ms_p99", "audio delta of 99 paced sessions, p99, ms"),
    Row("slow-reader", "stalled_audio_ms_p99", "the same beside one that never reads, ms"),
    Row("workers", "turns_per_second", "turns per second, closed loop", 0, ratio=False),
    Row("soak", "rss_growth_kb", "soak: growth after warm-up, kB", 0, ratio=False),
    Row("soak", "lost", "soak: messages lost", 0, ratio=False),
    Row("soak", "mismatched", "soak: messages not identical", 0, ratio=False),
    Row("soak", "unrecorded", "soak: turns without a record", 0, ratio=False),
)

GOALS = (
    Goal(
        "CPU per voice turn, closed loop, vs nginx", "closed-loop", "cpu_ms_per_turn", 0.9, "nginx"
    ),
    Goal("the same, vs HAProxy", "closed-loop", "cpu_ms_per_turn", 1.2, "haproxy"),
    Goal("the same, vs LiteLLM", "closed-loop", "cpu_ms_per_turn", 0.20, "litellm"),
    Goal("the same, vs naive.py", "closed-loop", "cpu_ms_per_turn", 0.15, "naive"),
    Goal(
        "CPU per voice turn without the compiled parts, vs nginx",
        "closed-loop",
        "cpu_ms_per_turn",
        1.6,
        "nginx",
        "relay-pure",
    ),
    Goal(
        "CPU per message, 20 ms chunks, vs nginx", "chunks-20ms", "cpu_us_per_message", 1.5, "nginx"
    ),
    Goal(
        "latency of an audio delta at half load, p50, vs nginx",
        "latency",
        "audio_ms_p50",
        1.2,
        "nginx",
    ),
    Goal("the same, p99", "latency", "audio_ms_p99", 1.5, "nginx"),
    Goal("response.done later by durability, p99, ms", "durability", "added_ms_p99", 10),
    Goal("memory per idle session, of 1,000, kB", "idle-1000", "kb_per_session", 30),
    Goal("memory per idle session, of 10,000, kB", "idle-10000", "kb_per_session", 30),
    Goal(
        "sessions opened and closed per core second",
        "open-close",
        "sessions_per_core_second",
        500,
        at_least=True,
    ),
    Goal(
        "the same, vs LiteLLM",
        "open-close",
        "sessions_per_core_second",
        4,
        "litellm",
        at_least=True,
    ),
    Goal(
        "CPU per turn at 1,000 paced sessions vs at 100",
        "paced-1000",
        "cpu_ms_per_turn",
        1.1,
        "paced-1000/few_cpu_ms_per_turn",
    ),
    Goal(
        "metering 16 kB deltas vs 1.6 kB",
        "delta-size",
        "metering_us",
        1.1,
        "delta-size/small_metering_us",
    ),
    Goal(
        "p99 of 99 sessions beside one that never reads",
        "slow-reader",
        "stalled_audio_ms_p99",
        1.2,
        "slow-reader/audio_ms_p99",
    ),
)


def render(results: dict[str, Any]) -> str:
    """The figures of all peers, and the goals, as Markdown."""
    lines = [_head(results), "", *_figures(results)]
    found = list(goals(results))
    if found:
        lines += ["", "| goal | limit | measured | |", "|---|---|---|---|"]
        for goal, value in found:
            met = value >= goal.limit if goal.at_least else value <= goal.limit
            sign = "≥" if goal.at_least else "≤"
            verdict = "met" if met else "missed"
            lines.append(f"| {goal.label} | {sign} {goal.limit:g} | {value:.3g} | {verdict} |")
    notes = [
        note
        for scenario in results["scenarios"].values()
        for note in (
            *(f"{peer} was skipped: {why}" for peer, why in scenario["skipped"].items()),
            *scenario.get("notes", ()),
        )
    ]
    lines += ["", *(f"- {note}" for note in dict.fromkeys(notes))]
    return "\n".join(lines).rstrip() + "\n"


def _head(results: dict[str, Any]) -> str:
    machine, versions = results["machine"], results["versions"]
    peers = ", ".join(f"{k} {v}" for k, v in results["peers"].items() if v)
    load = machine["load_average"][0]
    # Results of before it was measured have none.
    pace = f" ({versions['python_us']:.2f} µs a step)" if "python_us" in versions else ""
    if "python_beside_us" in versions:
        pace = f"{pace[:-1]}, {versions['python_beside_us']:.2f} beside a busy core)"
    return (
        f"{results['began'][:10]}, commit {results['commit']}; {machine['cores']} cores "
        f"({machine['cpu']}), load average {load:.1f} at the start; "
        f"Python {versions['python']}{pace}, gevent {versions['gevent']}; {peers}. "
        f"Medians of {results['options']['rounds']} rounds; in brackets the ratio to {BASELINE}."
    )


def _figures(results: dict[str, Any]) -> Iterator[str]:
    peers = list(results["peers"])
    yield f"| | {' | '.join(peers)} |"
    yield "|---|" + "---|" * len(peers)
    for row in ROWS:
        medians = results["scenarios"].get(row.scenario, {}).get("median", {})
        cells = [_cell(row, medians, peer) for peer in peers]
        if any(cells):
            yield f"| {row.label} | {' | '.join(cells)} |"


def _cell(row: Row, medians: dict[str, Any], peer: str) -> str:
    value = medians.get(peer, {}).get(row.figure)
    if value is None or (peer == "direct" and not value):
        return ""
    text = f"{value:,.{row.digits}f}"
    base = medians.get(BASELINE, {}).get(row.figure)
    return f"{text} ({value / base:.2f})" if row.ratio and base and peer != "direct" else text


def goals(results: dict[str, Any]) -> Iterator[tuple[Goal, float]]:
    """Each goal whose scenario was run, and what it came to."""
    scenarios = results["scenarios"]

    def median(scenario: str, peer: str, figure: str) -> float | None:
        found = scenarios.get(scenario, {}).get("median", {}).get(peer, {}).get(figure)
        return None if found is None else float(found)

    for goal in GOALS:
        value = median(goal.scenario, goal.peer, goal.figure)
        if goal.of is None:
            base: float | None = 1.0
        elif "/" not in goal.of:
            base = median(goal.scenario, goal.of, goal.figure)
        else:
            scenario, what = goal.of.split("/")
            known = what in {"relay"}
            base = median(scenario, goal.peer, goal.figure if known else what)
        if value is not None and base:
            yield goal, value / base


def refreshed(document: str, root: Path) -> str:
    """``document`` with every table made anew from the results file it names."""

    def made(match: re.Match[str]) -> str:
        results = json.loads((root / match["file"]).read_text())
        return f"{match[1]}{render(results)}{match[3]}"

    return _BLOCK.sub(made, document)


@click.command()
@click.argument("file", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--into", type=click.Path(exists=True, path_type=Path), help="A document to refresh.")
def main(file: Path | None, into: Path | None) -> None:
    """Prints the table of FILE, or refreshes the tables of a document."""
    if file is not None:
        click.echo(render(json.loads(file.read_text())), nl=False)
    if into is not None:
        into.write_text(refreshed(into.read_text(), Path.cwd()))


if __name__ == "__main__":
    main()
