"""A session: two Links, two pumps, and one end.

The rule: a session settles once, in ``finally``, whatever ended it, and only after both ends
are closed.
"""
