"""What many sessions would take: ``python -m bench.capacity [FILE ...] [--into DOCUMENT]``.

It reads the results of ``python -m bench``, of each scenario the newest, and prints as Markdown
what one session costs and, by the arithmetic of ``demand.py``, what 100,000 or 1,000,000 of them
would take. The rule: nobody types a figure. What was not measured is an assumption, printed with
the rest and changed by an option; a scenario that was not run is named, and what hangs on it is
left out. A document has a line with this command, up to whose end its output stands.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import click

from bench.demand import (
    TURN_APPENDS,
    Assumptions,
    Costs,
    Fleet,
    Store,
    Traffic,
    checkpoints_per_turn,
    fleet,
    store,
)
from bench.results import FOLDER

__all__ = ["Found", "costs", "main", "newest", "refreshed", "render"]

_BLOCK = re.compile(
    r"<!-- python -m bench\.capacity(?P<args>[^\n]*?) -->\n.*?<!-- end of capacity -->", re.DOTALL
)
_NAN = "—"
RELAY = "relay"


# -- what was measured ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A scenario's medians for the relay, and from which run."""

    figures: dict[str, float]
    run: str
    quick: bool


def newest(files: Iterable[Path]) -> dict[str, Found]:
    """Of each scenario the latest run; files of something else have none."""
    found: dict[str, Found] = {}
    runs = []
    for file in files:
        results = json.loads(file.read_text())
        if isinstance(results, dict) and isinstance(results.get("scenarios"), dict):
            runs.append((str(results.get("began", "")), file.name, results))
    for began, name, results in sorted(runs, key=lambda run: run[:2]):
        run = f"{name} ({began[:10]}, commit {results.get('commit', '?')})"
        quick = bool(results.get("options", {}).get("quick"))
        for scenario, measured in results["scenarios"].items():
            figures = measured.get("median", {}).get(RELAY)
            if figures:
                found[scenario] = Found(figures, run, quick)
    return found


_WANTED = {
    "paced-100": "what a voice turn costs",
    "paced-1000": "what a session costs that says nothing",
    "chunks-20ms": "what an append costs",
    "open-close": "what a session's beginning and end cost",
    "idle-1000": "memory of a session, and of a worker",
    "idle-10000": "the same at 10,000 sessions",
    "durability": "how much later response.done comes",
}


@dataclass(frozen=True)
class Known:
    """What the scenarios say together. ``of`` names the scenarios that each figure is from, and
    ``notes`` what they leave open."""

    costs: Costs
    later_ms: float | None
    """By how much response.done comes later for its record, p99."""
    of: dict[str, str]
    notes: list[str]


def costs(found: dict[str, Found]) -> Known:
    """Puts the scenarios together. One that was not run is stood in for by another like it."""
    of: dict[str, str] = {}
    notes = []

    def figure(scenario: str, name: str) -> float | None:
        value = found[scenario].figures.get(name) if scenario in found else None
        return None if value is None else float(value)

    same_rounds = figure("paced-1000", "few_cpu_ms_per_turn")
    measured = {*found, *(["paced-100"] if same_rounds is not None else [])}
    missing = [scenario for scenario in _WANTED if scenario not in measured]
    if missing:
        lacks = "; ".join(f"{scenario}: {_WANTED[scenario]}" for scenario in missing)
        notes.append(f"Not measured ({lacks}): `make bench BENCH='{' '.join(missing)}'`")
    notes += [f"{scenario} was a quick run" for scenario in sorted(found) if found[scenario].quick]

    usual = turn_ms = figure("paced-100", "cpu_ms_per_turn")
    usual_of, second_ms = "paced-100", None
    few, many = (
        (figure(scenario, "peer_core"), figure(scenario, "turns_per_second"))
        for scenario in ("paced-100", "paced-1000")
    )
    if same_rounds is not None and many[1] is not None:
        # Of the same machine at the same time, which those of another scenario may not be.
        usual, usual_of, few = same_rounds, "paced-1000", (same_rounds * many[1] / 1000, many[1])
        turn_ms = usual
    if turn_ms is None:
        for scenario in ("paced-1000", "closed-loop"):
            turn_ms = figure(scenario, "cpu_ms_per_turn")
            if turn_ms is not None:
                of["turn"] = scenario
                notes.append(f"A voice turn is taken for one of {scenario}")
                break
    elif None in (*few, *many):
        of["turn"] = usual_of
    else:
        turn_ms, second_ms = _apart((100, *few), (1000, *many), turn_ms)  # type: ignore[arg-type]
        of["turn"] = of["second"] = ", ".join(sorted({usual_of, "paced-1000"}, key=len))

    append_ms = None
    small = figure("chunks-20ms", "cpu_ms_per_turn")
    if small is not None and usual is not None and small > usual:
        append_ms = (small - usual) / (5 * TURN_APPENDS - TURN_APPENDS)
        of["append"] = f"chunks-20ms, {usual_of}"
    else:
        for scenario in ("chunks-20ms", "paced-100", "paced-1000", "closed-loop"):
            per_message = figure(scenario, "cpu_us_per_message")
            if per_message is not None:
                append_ms = per_message / 1000
                of["append"] = scenario
                notes.append(f"An append is taken for an average message of {scenario}")
                break

    sizes = {
        scenario: value
        for scenario, name in (
            ("idle-10000", "kb_per_session"),
            ("idle-1000", "kb_per_session_used"),
        )
        if (value := figure(scenario, name)) is not None
    }
    if sizes:
        of["memory"] = max(sizes, key=lambda scenario: sizes[scenario])
    return Known(
        Costs(
            turn_ms=turn_ms,
            append_ms=append_ms,
            second_ms=second_ms,
            open_ms=figure("open-close", "cpu_ms_per_session"),
            session_kb=max(sizes.values(), default=None),
            worker_mb=figure(of.get("memory", ""), "rss_mb_before"),
        ),
        figure("durability", "added_ms_p99"),
        of,
        notes,
    )


def _apart(
    few: tuple[int, float, float], many: tuple[int, float, float], turn_ms: float
) -> tuple[float, float]:
    """What a turn costs, and what a second of a session: two loads tell the two apart."""
    (n1, core1, turns1), (n2, core2, turns2) = few, many
    determinant = turns1 * n2 - turns2 * n1
    if determinant <= 0:
        return turn_ms, 0.0
    second = max(0.0, (turns1 * core2 - turns2 * core1) / determinant)
    turn = (core1 - n1 * second) / turns1
    return (turn_ms, 0.0) if turn <= 0 else (1000 * turn, 1000 * second)


# -- what is printed -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """What is asked: assumptions, and the sizes of the tables."""

    given: Assumptions
    cores: Sequence[int]
    sessions: Sequence[int]
    turns: Sequence[float]
    chunks: Sequence[int]


def render(found: dict[str, Found], asked: Question) -> str:
    """All of it, as Markdown."""
    measured = costs(found)
    known = measured.costs
    parts = [
        _sources(found, measured),
        _measured(measured),
        _one_session(known, asked),
        _fleets(known, asked),
        _stores(known, asked),
        _settings(known, asked),
        _assumptions(asked.given),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _number(value: float | None, digits: int = 0, unit: str = "") -> str:
    return _NAN if value is None else f"{value:,.{digits}f}{unit}"


def _rows(head: Sequence[str], rows: Iterable[Sequence[str | None]]) -> list[str]:
    lines: list[Sequence[str | None]] = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell or _NAN for cell in cells)} |" for cells in lines]


def _sources(found: dict[str, Found], measured: Known) -> Sequence[str]:
    names = {*_WANTED, *(name for names in measured.of.values() for name in names.split(", "))}
    runs = sorted({found[name].run for name in names if name in found})
    return [
        f"Measured in {', '.join(runs) or 'nothing yet'}.",
        *([""] if measured.notes else []),
        *(f"- {note}." for note in measured.notes),
    ]


def _measured(measured: Known) -> Sequence[str]:
    known, of = measured.costs, measured.of
    return _rows(
        ["measured", "value", "by"],
        [
            ["a voice turn of 63 messages, CPU", _number(known.turn_ms, 3, " ms"), of.get("turn")],
            ["an append more or less, CPU", _number(known.append_ms, 4, " ms"), of.get("append")],
            ["a second without a word, CPU", _number(known.second_ms, 4, " ms"), of.get("second")],
            ["a session opened and closed, CPU", _number(known.open_ms, 2, " ms"), "open-close"],
            ["a session, memory", _number(known.session_kb, 1, " kB"), of.get("memory")],
            ["a worker before its first, memory", _number(known.worker_mb, 0, " MB"),
             of.get("memory")],
            ["response.done later, p99", _number(measured.later_ms, 1, " ms"), "durability"],
        ],
    )  # fmt: skip


def _one_session(known: Costs, asked: Question) -> Sequence[str]:
    def row(chunk: int, every: float) -> Sequence[str]:
        given = replace(asked.given, chunk_ms=chunk, turn_seconds=every)
        traffic = Traffic.of(given)
        on_core = known.sessions_a_core(given)
        of_core = None if on_core is None else on_core * traffic.megabits
        return [
            f"{chunk} ms",
            f"{every:g} s",
            _number(known.session_ms(given), 2),
            _number(on_core),
            f"{traffic.up / 1000:.0f}",
            f"{traffic.down / 1000:.0f}",
            f"{traffic.megabits:.2f}",
            _number(of_core),
        ]

    share = f"{asked.given.core_busy:.0%}"
    return _rows(
        ["appends of", "a turn each", "CPU ms a second", f"sessions a core, {share} busy",
         "kB/s up", "kB/s down", "Mbit/s a session, each way", "a core"],
        [row(chunk, every) for chunk in asked.chunks for every in asked.turns],
    )  # fmt: skip


def _fleets(known: Costs, asked: Question) -> Sequence[str]:
    given = asked.given
    sized = [
        (sessions, cores, fleet(sessions, cores, known, given))
        for sessions in asked.sessions
        for cores in asked.cores
    ]
    memory_of_1000 = None
    if known.session_kb is not None:
        memory_of_1000 = known.session_kb + given.kernel_kb
    used = known.session_ms(given)

    def line(what: str, cell: Callable[[Fleet], str]) -> Sequence[str]:
        return [what, *(_NAN if one is None else cell(one) for _, _, one in sized)]

    totals = [
        f"1,000 sessions take {_number(None if used is None else used, 2)} cores, "
        f"{_number(memory_of_1000, 0)} MB beside the workers' own, "
        f"{Traffic.of(given).megabits:,.2f} Gbit/s each way and 2,000 descriptors.",
        "",
    ]
    return totals + _rows(
        ["sessions, on machines of", *(f"{n:,} on {cores} cores" for n, cores, _ in sized)],
        [
            line("machines", lambda one: f"{one.machines:,}"),
            line("workers of each", lambda one: f"{one.workers:,}"),
            line("sessions of a machine", lambda one: f"{one.sessions_a_machine:,}"),
            line(
                "sessions of a worker, limited by",
                lambda one: f"{one.sessions_a_worker:,} ({one.limited_by})",
            ),
            line("memory of a machine, GB", lambda one: _number(one.memory_gb, 1)),
            line("network of a machine, each way, Gbit/s", lambda one: f"{one.gigabits:.2f}"),
            line(
                "network of all, each way, Gbit/s",
                lambda one: f"{one.gigabits * one.machines:,.0f}",
            ),
            line("open files of a worker", lambda one: f"{one.open_files:,}"),
            line("source addresses of a machine, upstream", lambda one: f"{one.source_addresses}"),
            line(
                "the balancer's addresses, for a machine", lambda one: f"{one.balancer_addresses}"
            ),
            line(
                "CPU time until others carry a dead machine's sessions, s",
                lambda one: _number(one.reopen_seconds, 2),
            ),
        ],
    )


def _stores(known: Costs, asked: Question) -> Sequence[str]:
    given, cores = asked.given, max(asked.cores)
    sized = []
    for sessions in asked.sessions:
        one = fleet(sessions, cores, known, given)
        sized.append(None if one is None else store(sessions, one.all_workers, given))

    def line(what: str, cell: Callable[[Store], str]) -> Sequence[str]:
        return [what, *(_NAN if one is None else cell(one) for one in sized)]

    return _rows(
        [f"the store, a second; machines of {cores} cores", *(f"{n:,}" for n in asked.sessions)],
        [
            line("records", lambda one: f"{one.records:,.0f}"),
            line("checkpoints", lambda one: f"{one.checkpoints:,.0f}"),
            line("rows written, by their id, at most", lambda one: f"{one.rows:,.0f}"),
            line("MB written", lambda one: f"{one.megabytes:,.1f}"),
            line("GB of records kept a day", lambda one: f"{_gigabytes_a_day(one, given):,.0f}"),
            line("fdatasyncs of one worker's journal, at most", lambda one: f"{one.syncs:,.0f}"),
            line(
                "transactions of the store, at most",
                lambda one: f"{one.transactions:,.0f}{_batched(one)}",
            ),
            line("connections to the store", lambda one: f"{one.connections:,}"),
            line("questions about budgets", lambda one: f"{one.asks:,.0f}"),
            line(
                "calls they come in",
                lambda one: f"{one.calls:,.0f}" + ("" if one.keeps_up else ": too many"),
            ),
        ],
    )


def _gigabytes_a_day(one: Store, given: Assumptions) -> float:
    return one.records * given.record_bytes * 86_400 / 1e9


def _batched(one: Store) -> str:
    return f" of {one.rows / one.transactions:.0f} rows" if one.saturated else ""


def _settings(known: Costs, asked: Question) -> Sequence[str]:
    given = asked.given

    def each(value: Callable[[int], float]) -> str:
        return " and ".join(f"{value(sessions):,.0f}" for sessions in asked.sessions)

    def tokens(sessions: int) -> float:
        return sessions * given.tokens_per_turn * 60 / given.turn_seconds

    first = checkpoints_per_turn(given.response_seconds)
    return [
        f"For {' and '.join(f'{n:,}' for n in asked.sessions)} sessions:",
        "",
        f"- **The store.** With a journal no session waits for it ({given.store_ms:g} ms away), it "
        "may be down for as long as `journal_max_bytes` lasts, and a batch holds of each unit the "
        "best row alone. Without one the rows and transactions are the same, and every "
        f"`response.done` waits {given.store_ms:g} ms or more. A unit is a record and {first} "
        "checkpoint(s), of which those that end up in one batch with the record are never sent. "
        "PostgreSQL syncs its log for transactions that come at once together; Redis with "
        "`appendfsync always` for all of a turn of its loop, and it keeps everything in memory. A "
        "store that takes fewer rows than that is to be had once for each part of the machines: "
        "a budget holds within one store.",
        "- **Upstream connections.** A source address has "
        f"{given.ports:,} ports to each of {given.provider_addresses} addresses of the provider; "
        "`ip_local_port_range` gives up to 64,511. Behind NAT it takes "
        f"{each(lambda n: -(-n // (given.nat_connections * given.provider_addresses)))} public "
        "addresses.",
        "- **The balancer.** Connections live for "
        f"{given.session_seconds:,.0f} s, so it balances by least connections, not round robin, "
        "and a machine that is new fills only with new sessions: "
        f"{each(lambda n: n / given.session_seconds)} are opened a second. Its idle time-out is "
        "above `ping_seconds` (20 s), after which the relay pings who is silent; its limit to a "
        "connection's length above `max_session_seconds` (3,600 s). Bytes go through unbuffered. "
        "Health by `/readyz`, which says 503 for `drain_announce_seconds` before a worker drains; "
        "its own draining as long as `drain_seconds`, or as sessions last. TLS of the clients ends "
        "there: the relay's own is towards the provider.",
        "- **The provider.** It wants limits of "
        f"{each(tokens)} tokens a minute, and new sessions at the rate above; "
        "what one account has is on its limits page. Several accounts are several `[[upstreams]]` "
        "or several `api_keys`. A session ends after 60 minutes.",
    ]


def _assumptions(given: Assumptions) -> Sequence[str]:
    def text(value: object) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"

    return _rows(
        ["assumed, not measured", "value", "option"],
        [
            [each.metadata["meaning"], text(getattr(given, each.name)), f"`{_option(each.name)}`"]
            for each in fields(given)
        ],
    )


# -- the command ---------------------------------------------------------------------------------


def _option(name: str) -> str:
    dashed = name.replace("_", "-")
    return f"--{dashed}" if name != "open_microphone" else "--push-to-talk"


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for each in reversed(fields(Assumptions)):
        declared = _option(each.name)
        if each.name == "open_microphone":
            declared = "--open-microphone/--push-to-talk"
        command = click.option(
            declared,
            each.name,
            default=each.default,
            show_default=True,
            help=each.metadata["meaning"],
        )(command)
    return command


class _Numbers(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers or decimals with commas between, each above zero."""

    name = "numbers"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind

    def convert(self, value: Any, param: Any, context: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            numbers = tuple(self._kind(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers", param, context)
        if min(numbers) <= 0:
            self.fail(f"{value!r} has to be above 0", param, context)
        return numbers


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path))
@click.option("--cores", type=_Numbers(int), default="8,32", show_default=True)
@click.option("--sessions", type=_Numbers(int), default="100000,1000000", show_default=True)
@click.option("--turns", type=_Numbers(float), default="5,10,20", show_default=True)
@click.option("--chunks", type=_Numbers(int), default="100,20", show_default=True)
@_options
@click.option("--into", type=click.Path(exists=True, path_type=Path), help="A document to refresh.")
@click.pass_context
def main(context: click.Context, /, into: Path | None, **given: Any) -> None:
    """Prints what many sessions would take, by results FILEs of ``python -m bench``.

    Without a FILE all of bench/results are read. With --into the document has it instead, from
    the FILEs and options given here, or if there is no FILE from those that it names itself.
    """
    if into is None:
        click.echo(_answer(context.params, Path.cwd()), nl=False)
        return
    text = into.read_text()
    if not _BLOCK.search(text):
        raise click.ClickException(f"{into} has no line <!-- python -m bench.capacity FILE -->")
    into.write_text(refreshed(text, Path.cwd(), _arguments(context) if given["files"] else None))


def refreshed(document: str, root: Path, arguments: Sequence[str] | None = None) -> str:
    """``document`` with its figures made anew, by the command that it names or by ``arguments``."""

    def made(match: re.Match[str]) -> str:
        used = shlex.split(match["args"]) if arguments is None else list(arguments)
        context = main.make_context("capacity", list(used))
        line = f"<!-- python -m bench.capacity {shlex.join(used)}".rstrip()
        return f"{line} -->\n{_answer(context.params, root)}<!-- end of capacity -->"

    return _BLOCK.sub(made, document)


def _answer(given: dict[str, Any], root: Path) -> str:
    try:
        assumed = Assumptions(**{each.name: given[each.name] for each in fields(Assumptions)})
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    asked = Question(assumed, given["cores"], given["sessions"], given["turns"], given["chunks"])
    files = [root / file for file in given["files"]] or sorted(FOLDER.glob("*.json"))
    try:
        found = newest(files)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"results cannot be read: {error}") from None
    return render(found, asked)


def _arguments(context: click.Context) -> Sequence[str]:
    """What was typed, but for ``--into``."""
    return [str(file) for file in context.params["files"]] + list(_typed(context))


def _typed(context: click.Context) -> Iterator[str]:
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if name in ("files", "into") or source is not click.core.ParameterSource.COMMANDLINE:
            continue
        if isinstance(value, bool):
            yield "--open-microphone" if value else "--push-to-talk"
        else:
            values = value if isinstance(value, tuple) else (value,)
            text = ",".join(
                f"{each:g}" if isinstance(each, float) else f"{each}" for each in values
            )
            yield from (f"--{name.replace('_', '-')}", text)


if __name__ == "__main__":
    main()
