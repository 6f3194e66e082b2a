"""The fault lab: a table of what can go wrong, and what the relay does about each.

    table.toml   the table, the source of everything here
    table        its rows as values
    document     docs/faults.md, rendered from the rows: ``python -m tests.faults --write``
    clients      what clients do, by name: polite ones and rogues
    surroundings what happens to the relay meanwhile, by name
    story        what a client saw, in the table's words
    account      what was billed and logged, in the table's words
    lab          a provider, relays, and the rows played against them, all at once

The rule: a row is compared with what happened word by word, and the document says nothing about
a row that was not compared.
"""
