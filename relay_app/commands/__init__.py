"""The commands of ``relay-app``, a noun a module.

The rule: a command parses its options, says what is wrong with them in one line, and calls the
part that does the work; imports that cost something wait until a command needs them.
"""
