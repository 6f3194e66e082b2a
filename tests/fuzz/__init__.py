"""What comes from outside, made up by machines and held against somebody else's reading of it.

    target        what a target is: a check of any bytes at all, and where to begin
    targets       all of them, by name
    parsed        JSON as the standard library reads it, to judge ours by
    *_of, *_file  the targets, one a module
    __main__      has atheris find new inputs by coverage: ``make fuzz``
    mutator       makes new inputs of old ones, by their parts
    one           one target under atheris, in a process of its own
    test_fuzz_*   plays tests/corpus, and what hypothesis makes of life, through the same checks

The rule: a check takes any bytes and raises only for a fault of ours. It needs no atheris.
"""
