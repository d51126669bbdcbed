"""Events on their way from the engine's thread to the event loop, and to the sessions that they concern."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from hope_server.engine.events import Event, is_urgent
from hope_server.engine.tide import Tide

Addressed = Sequence[tuple[str, Event]]


class Mail:
    """Wakes the loop only for those who do not come by themselves: to wake it, the engine gives the
    interpreter's lock away, and gets it back when the loop has done all that there is to do.

    Whoever waits for the tide comes by itself. It has to leave the tide first and to :meth:`collect` then:
    what was sent while it was seen there has arrived before.

    Args:
        loop: where the mailboxes are read.
        tide: where sessions wait whose tokens gather.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tide: Tide) -> None:
        self._loop, self.tide = loop, tide
        self._sent: deque[Addressed] = deque()
        self._called = False
        self.mailboxes: dict[str, asyncio.Queue[Event]] = {}
        """Of the sessions that have one; events of others have no reader."""

    def send(self, events: Addressed) -> None:
        """Called by the engine's thread; keeps their order."""
        self._sent.append(events)
        if not self._called and any(is_urgent(event) or not self.tide.holds(name) for name, event in events):
            self._called = True
            with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                self._loop.call_soon_threadsafe(self.collect)

    def collect(self) -> None:
        """Called on the loop: what has been sent is in the mailboxes now."""
        self._called = False  # before looking, so that what comes too late to be seen calls again
        while self._sent:
            for session, event in self._sent.popleft():
                self._deliver(session, event)

    def _deliver(self, session: str, event: Event) -> None:
        mailbox = self.mailboxes.get(session)
        if mailbox is not None:
            mailbox.put_nowait(event)
            if is_urgent(event):
                self.tide.hasten(session)
