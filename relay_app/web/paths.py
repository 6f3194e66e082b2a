"""Paths: where the relay answers besides its realtime endpoint.

The rule: this imports nothing, so that who serves the endpoints need not load what is behind them.
"""

__all__ = ["OPERATIONS"]

OPERATIONS = ("/healthz", "/readyz", "/metrics", "/v1/usage")
