"""What a client's life is, and how those that keep to the rules are made.

The rule: what a client hears it leaves in its Story, to the last message before the end.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import wraps

from support.clients import PATIENCE_SECONDS
from support.relays import RelayProcess
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from faults.story import LAST, Story

__all__ = ["Life", "listen", "well_behaved"]

Life = Callable[[RelayProcess, str, Story], None]
"""What a client does with a relay that it asks for a model."""


def well_behaved(talk: Callable[[ClientConnection, Story], None]) -> Life:
    """A client of the ``websockets`` package that talks, and leaves unless it was sent away."""

    @wraps(talk)
    def life(relay: RelayProcess, model: str, story: Story) -> None:
        try:
            with relay.connect(f"model={model}", open_timeout=PATIENCE_SECONDS) as client:
                try:
                    talk(client, story)
                    client.close()
                    story.sees.append("leaves")
                except ConnectionClosed as closed:
                    with suppress(ConnectionClosed):  # what came before it, if it was not heard
                        listen(client, story, until="")
                    story.sees.append(f"close {closed.rcvd.code}" if closed.rcvd else "lost")
        except InvalidStatus as refusal:
            story.refused(refusal.response)

    return life


def listen(connection: ClientConnection, story: Story, until: str = LAST) -> None:
    """Hears until an event of this type, which may be one that never comes."""
    while story.hears(connection.recv(PATIENCE_SECONDS)) != until:
        pass
