"""Frames that wsproto would not send: fragments, wrong payloads, broken headers."""

import struct

__all__ = ["BINARY", "CONTINUATION", "PING", "TEXT", "frame"]

CONTINUATION, TEXT, BINARY, PING = 0x0, 0x1, 0x2, 0x9


def frame(opcode: int, payload: bytes, *, fin: bool = True, reserved: int = 0) -> bytes:
    """A server's frame, unmasked (RFC 6455 section 5.2)."""
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, size)
    elif size < 65_536:
        head = struct.pack("!BBH", first, 126, size)
    else:
        head = struct.pack("!BBQ", first, 127, size)
    return head + payload
