"""Usage as text."""

import json
from decimal import Decimal

from ledger_support import make_record

from relay_app.ledger.stores.totals import Total, add_up
from relay_app.ledger.usage_report import record_line, record_text, totals_json, totals_table
from relay_app.meter.usage import Usage

TOTALS = [
    Total("team-a", 2, 1, Usage(10, 20, 0, 1, 2, 0, 30, 40, 5, 1.25), Decimal("0.10"), 0, 0),
    Total("b", 100, 7, Usage(5, 0, 0, 0, 0, 0, 7), None, 100, 3),
]


def test_the_table_is_aligned_and_summed() -> None:
    assert totals_table(TOTALS, "key").splitlines() == [
        "key     records  sessions  in text  in audio  in image  cached  out text  out audio"
        "  asr seconds  cost USD  unpriced  unknown",
        "team-a        2         1       10        20         0       3        30         40"
        "          1.2      0.10         0        0",
        "b           100         7        5         0         0       0         7          0"
        "          0.0         -       100        3",
        "total       102                 15        20         0       3        37         40"
        "          1.2      0.10       100        3",
    ]


def test_no_totals_are_said_in_words() -> None:
    assert totals_table([], "model") == "no usage recorded"
    assert json.loads(totals_json([], "model")) == {"by": "model", "totals": []}


def test_json_keeps_money_as_text_and_no_price_as_null() -> None:
    document = json.loads(totals_json(TOTALS, "key"))
    assert [total["cost_usd"] for total in document["totals"]] == ["0.10", None]
    assert document["totals"][0]["output_audio_tokens"] == 40
    assert list(document["totals"][0])[:3] == ["group", "records", "sessions"]


def test_a_record_is_one_line_with_the_public_names() -> None:
    record = make_record(key="two\nlines")
    line = record_line(record)
    assert "\n" not in line
    assert json.loads(line) == record.as_dict()


def test_a_record_for_people_is_one_line_too() -> None:
    text = record_text(make_record(model="evil\x1b[31m\n"))
    assert text == (
        "2023-11-14 22:13:21Z  team-a  evil\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}"
        "  response  completed  reported  70 tokens  0.0123 USD"
    )
    assert "? tokens  - USD" in record_text(make_record(source="unknown", cost_usd=None))


def test_an_empty_group_is_named() -> None:
    assert "(none)" in totals_table(add_up([make_record(key="")], "key"), "key")
