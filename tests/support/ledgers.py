"""Usage records for tests that are about something else."""

from decimal import Decimal

from relay_app.meter.usage import Usage, UsageRecord, record_id


def usage_record(unit: str, **changes) -> UsageRecord:
    """A reported response of 10 tokens for half a dollar, ended in the second of 2026."""
    return UsageRecord(
        **{
            "id": record_id("rs_1", unit), "session_id": "rs_1", "kind": "response",
            "source": "reported", "status": "completed", "key": "a", "upstream": "u",
            "model": "gpt-realtime", "upstream_model": "gpt-realtime", "unit_id": unit,
            "started_at": 1_767_225_600.0, "ended_at": 1_767_225_601.0,
            "usage": Usage(output_audio_tokens=10), "cost_usd": Decimal("0.50"), "price": None,
            "usage_raw": None, "estimate": None, **changes,
        }
    )  # fmt: skip
