"""What can go wrong with a provider, a class a fault.

    door        before the 101: refusals, silence, answers that are no HTTP
    delivery    how bytes go and come: slowly, in pieces, in one enormous piece
    sayings     what is said: events that are missing, doubled, wrong or illegible
    endings     how and when it stops: closes, resets, silence, expiry

The rule: a fault is a ``Normal`` with few hooks changed, its docstring is one sentence that says
what the provider does, and its name is in ``simulator.scenarios`` alone.
"""
