"""A synchronous relay for the OpenAI Realtime WebSocket API.

What a session goes through, in order:

    web         the HTTP upgrade is checked, authenticated and routed
    ledger      the limits of its key are looked up, and a slice of the budget reserved
    upstream    the provider is dialled; its refusal is still an HTTP answer of ours
    wire        two Links, one to each peer, carry whole WebSocket frames
    session     two pumps forward what the Links read, unchanged, until one side ends
    meter       the events that say what was used become UsageRecords
    ledger      the accountant makes the records durable in a store

Importing this package reads no environment, opens no file and touches no socket.
"""

__version__ = "0.1.0"
