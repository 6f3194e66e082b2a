"""Drift in metrics: it only grows by what grew, under few labels."""

from relay_app.meter.drift import Drift
from relay_app.meter.usage import Usage
from relay_app.observe.metrics import Metrics, Snapshot
from relay_app.observe.tally import Tally


def drift(*tokens):
    counted = Drift()
    for estimated in tokens:
        counted.add(Usage(input_text_tokens=estimated), Usage(input_text_tokens=100))
    return counted


def test_tallies_with_drift_add_up():
    both = Tally(drift=drift(100, 150), inexact_texts=1) + Tally(drift=drift(100))
    assert both.drift.counts == {("input_text", "0.02"): 2, ("input_text", "0.5"): 1}
    assert both.inexact_texts == 1


def test_drift_is_published_once():
    metrics = Metrics()
    for tally in (Tally(drift=drift(100)), Tally(drift=drift(100, 101, 900), inexact_texts=2)):
        metrics.publish(Snapshot(tally=tally))
    text = metrics.exposition().decode()
    assert 'relay_estimate_drift_total{kind="input_text",within="0.02"} 2.0' in text
    assert 'relay_estimate_drift_total{kind="input_text",within="more"} 1.0' in text
    assert "relay_inexact_texts_total 2.0" in text
