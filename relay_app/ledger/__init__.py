"""Where usage is kept: a greenlet-safe accountant in front of a blocking, durable store.

The rule: a record that was acknowledged survives this process, and a record that was not is
still queued, in order, in sight of whoever asks.
"""
