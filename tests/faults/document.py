"""docs/faults.md, rendered from the table.

The rule: what stands in it is a row's own words, or the sentence that the scenario or the client
has in its code.
"""

from pathlib import Path

from faults.clients import CLIENTS
from faults.surroundings import SURROUNDINGS
from faults.table import LIMITS, Row, Section, sections
from relay_app.simulator.scenarios import SCENARIOS, described, scenario_named

__all__ = ["DOCUMENT", "document"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"

HEAD = """# Faults

What can go wrong with a provider or a client, and what comes of it. This page is rendered from
`tests/faults/table.toml` by `python -m tests.faults --write`, and each row of it is a test that
plays it with a real relay, a provider and a client, and compares all of it word by word:
```
pytest tests/faults
```

## To see one by yourself
The scenarios are those of the simulator. One process can play all of them at once, a session each:
```
relay-app simulate --list-scenarios
relay-app simulate --bind 127.0.0.1:9000 --scenario rst-at:response.created   # for every session
relay-app simulate --bind 127.0.0.1:9000                # and for one: ws://127.0.0.1:9000/v1/realtime?model=m&scenario=NAME
```
What reaches a provider is only what the relay wrote, so `?scenario=` in a client's URL does not get
through it. An upstream takes it into its path instead:
```toml
[[upstreams]]
name = "lab"
dialect = "compatible"
base_url = "ws://127.0.0.1:9000/scenario/rst-at:response.created/v1"
api_keys = ["sk-anything"]
```

## How to read the tables
- **The client** asks for an answer in text, and leaves when it is over, if nothing else is said.
  Of what it sees `…` stands for events that are as they should be, and `a turn` for all from
  `session.created` to `response.done`, completed. `lost` is an end without a close frame.
- **Billed** are the records in the ledger, one a line: kind, the unit's status, where its figures
  come from. `reported` ones are the provider's to the token, which is compared too.
- **Logged** is every line of the session but `session open`, with its level and what tells in it.
- **After** says which limits have to pass before the end comes. Without it nothing is waited for.
"""


def document() -> str:
    """The whole of it."""
    parts = [HEAD, *map(_section, sections()), _scenarios()]
    return "\n".join(parts)


def _section(section: Section) -> str:
    return "\n".join(
        [
            f"## {section.title}",
            section.about,
            "",
            "| what goes wrong | the client sees | billed | logged |",
            "|---|---|---|---|",
            *map(_row, section.rows),
            "",
        ]
    )


def _row(row: Row) -> str:
    cells = [
        f"`{row.id}`<br>{_story(row)}",
        "<br>".join(
            filter(
                None,
                [
                    ", ".join(f"`{saw}`" if saw != "…" else saw for saw in row.sees),
                    f"“{row.says}”" if row.says else "",
                    f"after {row.after}" if row.after else "",
                ],
            )
        ),
        "<br>".join(row.billed) or "nothing",
        "<br>".join(f"`{line}`" for line in row.logged),
    ]
    return f"| {' | '.join(cells)} |"


def _story(row: Row) -> str:
    """What goes wrong, in a sentence or two."""
    told = []
    if row.scenario != "normal" or row.id == "normal":
        told.append(_sentence(type(scenario_named(row.scenario)).__doc__))
    if row.client != "asks":
        told.append(_sentence(CLIENTS[row.client].__doc__))
    if row.relay:
        told.append(_sentence(SURROUNDINGS[row.relay].__doc__))
    return " ".join(filter(None, [*told, row.note]))


def _sentence(doc: str | None) -> str:
    return " ".join((doc or "").split())


def _scenarios() -> str:
    limits = ", ".join(f"`{name} = {value}`" for name, value in LIMITS.items())
    lines = [
        "## All scenarios",
        "```",
        *(f"{written:<24}{sentence}" for written, sentence in map(described, SCENARIOS)),
        "```",
        f"The relay of the tests has short limits: {limits}.",
        "",
    ]
    return "\n".join(lines)
