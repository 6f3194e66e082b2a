"""What a record costs: each part of its way is told."""

import re

from click.testing import CliRunner

from bench import record

PACE = "at the pace of speech"


def test_what_a_commit_takes_at_the_pace_of_speech_is_told_beside_a_sync_alone(monkeypatch):
    monkeypatch.setattr(record, "CACHE_BYTES", 4_096)
    said = CliRunner().invoke(record.main, ["--rounds", "1", "--records", "40"])
    assert said.exit_code == 0, said.output
    parts = dict(re.findall(r"^\| (.+?) \| (\d+) \| \d+ \|$", said.output, re.MULTILINE))
    paced = {part: int(user) for part, user in parts.items() if PACE in part}
    assert len(paced) == 3
    assert f"a record's bytes appended to a file and synced, no more, {PACE}" in paced
    assert min(paced.values()) > 0
