"""RFC 6455 bytes: whole frames in, whole frames out, on sockets that never block the hub.

The rule: this floor knows no JSON and no money. ``frames`` and ``messages`` are pure;
``connection``, ``outgoing`` and ``link`` are the only code in the package that reads or writes a
session's sockets.
"""
