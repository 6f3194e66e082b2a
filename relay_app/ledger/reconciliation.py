"""Estimates against reports, and records against themselves.

The rule: it reads records once, in a stream, and keeps sums. It judges nothing it cannot see: a
report that was cut, or that came without totals, contradicts nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from relay_app import codec
from relay_app.ledger.relative_errors import Errors
from relay_app.ledger.usage_report import align, printable
from relay_app.meter.drift import relative_errors
from relay_app.meter.usage import UsageRecord

__all__ = ["Reconciliation", "as_json", "as_text", "contradiction", "reconcile"]

MAX_MODELS: Final = 1000
MAX_SESSIONS: Final = 1000
MAX_PROBLEMS: Final = 10
"""Of one session that are shown; all are counted."""
OTHER: Final = "(other)"
"""Where models beyond the first thousand go: clients choose their names."""


@dataclass
class Reconciliation:
    """What came out: records by source, errors by model and kind, sessions with a contradiction."""

    sources: dict[str, int] = field(default_factory=dict)
    drift: dict[tuple[str, str], Errors] = field(default_factory=dict)
    contradictions: dict[str, list[str]] = field(default_factory=dict)
    contradicting: int = 0


def reconcile(records: Iterable[UsageRecord]) -> Reconciliation:
    """Goes through ``records`` once."""
    result = Reconciliation()
    models: set[str] = set()
    for record in records:
        result.sources[record.source] = result.sources.get(record.source, 0) + 1
        if record.source == "reported" and record.estimate:
            model = record.upstream_model
            if model not in models:
                model = model if len(models) < MAX_MODELS else OTHER
                models.add(model)
            for kind, error in relative_errors(record.estimate, record.usage).items():
                result.drift.setdefault((model, kind), Errors()).add(error)
        problem = contradiction(record)
        if problem:
            result.contradicting += 1
            found = result.contradictions
            if record.session_id in found or len(found) < MAX_SESSIONS:
                problems = found.setdefault(record.session_id, [])
                if len(problems) < MAX_PROBLEMS:
                    problems.append(f"{record.unit_id}: {problem}")
    return result


def contradiction(record: UsageRecord) -> str | None:
    """How a record disagrees with itself, if it does."""
    usage = record.usage
    for kind in ("text", "audio", "image"):
        cached, read = (
            getattr(usage, f"cached_{kind}_tokens"),
            getattr(usage, f"input_{kind}_tokens"),
        )
        if cached > read:
            return f"{cached} cached {kind} tokens of {read}"
    if usage.reasoning_tokens > usage.output_text_tokens:
        return f"{usage.reasoning_tokens} reasoning tokens of {usage.output_text_tokens}"
    if record.source == "unknown":
        return "unknown, and has figures" if usage else None
    if record.source == "reported" and record.usage_raw is None:
        return "reported, and nobody said what"
    said = _totals(record.usage_raw)
    read = usage.input_text_tokens + usage.input_audio_tokens + usage.input_image_tokens
    written = usage.output_text_tokens + usage.output_audio_tokens
    for name, counted in (("input", read), ("output", written), ("total", read + written)):
        if name in said and said[name] != counted:
            return f"{counted} {name} tokens recorded, {said[name]} reported"
    return None


def as_text(result: Reconciliation) -> str:
    """For people: a table of errors, then the sessions that contradict themselves."""
    sources = ", ".join(f"{count} {source}" for source, count in sorted(result.sources.items()))
    lines = [f"records: {sources or 'none'}"]
    if result.drift:
        rows = [["model", "kind", "units", "mean error", "p95"]]
        rows += [
            [printable(model), kind, str(errors.count), _percent(errors.mean, sign="+"),
             _percent(errors.percentile(95))]
            for (model, kind), errors in sorted(result.drift.items())
        ]  # fmt: skip
        lines += ["", align(rows)]
    if result.contradicting:
        lines += ["", f"{result.contradicting} records contradict themselves:"]
        for session, problems in result.contradictions.items():
            lines += [f"  {printable(session)}"]
            lines += [f"    {printable(problem)}" for problem in problems]
    return "\n".join(lines)


def as_json(result: Reconciliation) -> str:
    """For programs: ``{"records": {…}, "drift": […], "contradicting": n, "sessions": {…}}``."""
    drift = [
        {
            "model": model,
            "kind": kind,
            "units": errors.count,
            "mean_relative_error": round(errors.mean, 4),
            "p95_relative_error": errors.percentile(95),
        }
        for (model, kind), errors in sorted(result.drift.items())
    ]
    return codec.dumps(
        {
            "records": result.sources,
            "drift": drift,
            "contradicting": result.contradicting,
            "sessions": result.contradictions,
        }
    )


def _totals(raw: str | None) -> dict[str, int]:
    """The totals that a usage object names; a cut one names none. xAI's and OpenAI's keys."""
    try:
        given: dict[str, Any] = codec.loads_object(raw or "")
    except ValueError:
        return {}
    totals = {name: given.get(f"{name}_tokens") for name in ("input", "output", "total")}
    return {
        name: value
        for name, value in totals.items()
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0
    }


def _percent(value: float, sign: str = "") -> str:
    return format(value * 100, f"{sign}.1f") + " %"
