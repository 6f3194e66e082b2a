"""A realtime provider to test against: it speaks the OpenAI Realtime protocol over WebSocket.

What a session goes through, in order:

    server          accepts a connection; handshake checks path, key and model
    scenarios       what shall go wrong, if anything: the names of all faults
    channel         whole WebSocket messages in and out of the socket
    conversation    the protocol itself, without socket or clock: events in, events out
    transcript      or, instead of a conversation, a recorded session played back

and a conversation is made of its configuration, an audio buffer with turn detection, items,
responses with their outputs and replies, transcriptions, a voice, and the usage it bills.

It shares no code with the rest of the package but JSON and error shapes, on purpose: if both
sides counted by the same code, a test of one against the other could not fail.
"""

from relay_app.simulator.server import Simulator
from relay_app.simulator.thread import background

__all__ = ["Simulator", "background"]
