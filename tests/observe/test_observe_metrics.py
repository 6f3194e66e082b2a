import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay_app.meter.usage import Usage
from relay_app.observe.metrics import Metrics, Snapshot
from relay_app.observe.tally import Tally


def samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Values by (name, labels); labels as ``a=b,c=d``."""
    found = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[sample.name, labels] = sample.value
    return found


def value(metrics: Metrics, name: str, labels: str = "") -> float:
    return samples(metrics)[name, labels]


def test_every_name_is_there_before_anything_happened():
    metrics = Metrics()
    metrics.publish(Snapshot())
    names = {name for name, _ in samples(metrics) if not name.endswith("_created")}
    assert names == {
        "relay_sessions_open", "relay_sessions_opened_total", "relay_messages_total",
        "relay_bytes_total", "relay_opaque_messages_total", "relay_unobserved_messages_total",
        "relay_tap_dropped_total", "relay_tokens_total", "relay_transcription_seconds_total",
        "relay_records_total", "relay_records_pending", "relay_store_failures_total",
        "relay_buffered_bytes", "relay_hold_timeouts_total", "relay_hold_seconds_bucket",
        "relay_hold_seconds_count", "relay_hold_seconds_sum", "relay_inexact_texts_total",
        "relay_journal_bytes", "relay_journal_oldest_seconds", "relay_journal_entries_total",
        "relay_journal_syncs_total", "relay_journal_failures_total",
        "relay_journal_damaged_bytes_total", "relay_lease_failures_total",
        "relay_lease_seconds_bucket", "relay_lease_seconds_count", "relay_lease_seconds_sum",
        "relay_key_read_failures_total",
        "relay_keys_age_seconds", "relay_records_forgotten_total",
    }  # fmt: skip


def test_counters_grow_by_what_was_added_and_gauges_follow():
    metrics = Metrics()
    for step in (1, 2, 2, 5):
        metrics.publish(
            Snapshot(
                open=10 - step,
                opened=step,
                closes={("client", 1000): step, ("upstream", 1011): 1},
                tally=Tally(
                    messages_sent=step,
                    bytes_received=100 * step,
                    opaque_sent=step,
                    unobserved=step,
                    tap_drops=step,
                    usage=Usage(output_audio_tokens=7 * step, transcription_seconds=1.5 * step),
                ),
                records=step,
                pending=step,
                store_failures=step,
                buffered_bytes=step,
            )
        )
    for name, labels, expected in (
        ("sessions_open", "", 5), ("sessions_opened_total", "", 5),
        ("sessions_closed_total", "by=client,code=1000", 5),
        ("sessions_closed_total", "by=upstream,code=1011", 1),
        ("messages_total", "direction=sent", 5), ("messages_total", "direction=received", 0),
        ("bytes_total", "direction=received", 500), ("opaque_messages_total", "direction=sent", 5),
        ("unobserved_messages_total", "", 5), ("tap_dropped_total", "", 5),
        ("tokens_total", "kind=output_audio", 35), ("tokens_total", "kind=input_text", 0),
        ("transcription_seconds_total", "", 7.5), ("records_total", "", 5),
        ("records_pending", "", 5), ("store_failures_total", "", 5), ("buffered_bytes", "", 5),
    ):  # fmt: skip
        assert value(metrics, f"relay_{name}", labels) == expected, name


def test_a_figure_that_shrinks_for_a_while_is_counted_once():
    # A reported unit takes the place of a larger one: the sum of a session can go back.
    metrics = Metrics()
    for tokens in (100, 80, 100, 120):
        metrics.publish(Snapshot(tally=Tally(usage=Usage(input_text_tokens=tokens))))
    assert value(metrics, "relay_tokens_total", "kind=input_text") == 120


@pytest.mark.parametrize("code", [3000, 3999, 4000, 4999])
def test_codes_that_peers_choose_freely_share_a_label(code):
    metrics = Metrics()
    for times in (1, 2):
        metrics.publish(Snapshot(closes={("client", code): times, ("client", code ^ 1): times}))
    assert value(metrics, "relay_sessions_closed_total", f"by=client,code={code // 1000}xxx") == 4


def test_refusals_and_holds_are_counted_at_once():
    metrics = Metrics()
    metrics.refused("client", 401)
    metrics.refused("client", 401)
    metrics.refused("upstream", 401)
    metrics.held(0.003, True)
    metrics.held(1.2, False)
    assert value(metrics, "relay_refused_total", "by=client,status=401") == 2
    assert value(metrics, "relay_refused_total", "by=upstream,status=401") == 1
    assert value(metrics, "relay_hold_seconds_count") == 2
    assert value(metrics, "relay_hold_seconds_sum") == pytest.approx(1.203)
    buckets = ("0.0025", "0.005", "1.0", "+Inf")
    assert [value(metrics, "relay_hold_seconds_bucket", f"le={le}") for le in buckets] == [
        0, 1, 1, 2
    ]  # fmt: skip
    assert value(metrics, "relay_hold_timeouts_total") == 1


def test_two_applications_in_a_process_do_not_share_metrics():
    one, other = Metrics(), Metrics()
    one.refused("client", 404)
    assert ("relay_refused_total", "by=client,status=404") not in samples(other)


def test_attempts_are_counted_at_once_and_rests_follow():
    metrics = Metrics()
    for result in ("ok", "429", "ok"):
        metrics.attempted("up", result)
    metrics.spoiled("up")
    for count in (1, 3, 2):
        metrics.resting("up", count)
    assert value(metrics, "relay_upstream_attempts_total", "result=ok,upstream=up") == 2
    assert value(metrics, "relay_upstream_attempts_total", "result=429,upstream=up") == 1
    assert value(metrics, "relay_upstream_spoiled_total", "upstream=up") == 1
    assert value(metrics, "relay_upstream_resting", "upstream=up") == 2
