"""The fault lab: a table of what can go wrong, and what the relay does about each.

    table.toml   the table, the source of everything here
    table        its rows as values
    document     docs/faults.md, rendered from the rows: ``python -m tests.faults --write``
    clients      what clients do, by name
    account      what a row has come to: what was seen, billed and logged, in the table's words
    lab          a provider, a relay, and each row played against them, many at a time

The rule: a row is compared with what happened word by word, and the document says nothing about
a row that was not compared.
"""
