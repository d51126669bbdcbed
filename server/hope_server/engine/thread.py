"""The thread on which the engine lives, and the way to it from the event loop."""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from hope_server.engine.engine import Engine
from hope_server.errors import InternalError, ShuttingDown

log = logging.getLogger(__name__)

T = TypeVar("T")


class EngineThread:
    """Steps the engine while it has work; runs what is posted between two steps, in order."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self._loop = loop
        self._ending = threading.Lock()
        self._ended = False
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, name="hope-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after what was posted so far, and wait for it (blocks); whoever calls later is refused."""
        with self._ending:
            self._ended = True
            self._inbox.put(None)
        self._thread.join()

    def post(self, work: Callable[[], None]) -> None:
        """Run ``work`` between two steps; it must not raise."""
        self._inbox.put(work)

    def call(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """What ``work``, run between two steps, returns or raises. Events that it caused come before it.

        Raises ShuttingDown once the thread was told to end.
        """
        future: asyncio.Future[T] = self._loop.create_future()

        def run() -> None:
            try:
                result = work()
            except Exception as error:
                self._engine.flush()
                self._loop.call_soon_threadsafe(_set_exception, future, error)
            else:
                self._engine.flush()
                self._loop.call_soon_threadsafe(_set_result, future, result)

        with self._ending:
            if self._ended:
                future.set_exception(ShuttingDown("the engine has ended"))
            else:
                self._inbox.put(run)
        return future

    def _main(self) -> None:
        self._engine.attach()
        busy = False
        while self._drain(wait=not busy):
            try:
                busy = self._engine.step()
            except Exception as error:
                # A bug: the sessions at work go back to their journals, the others never notice.
                log.error("engine step failed", exc_info=error)
                self._engine.fail_all(
                    InternalError("the engine failed; the session continues from its journal")
                )
                self._engine.flush()
                busy = False

    def _drain(self, *, wait: bool) -> bool:
        """Run what is in the inbox (``wait``: at least one thing); False when it is time to stop."""
        while wait or not self._inbox.empty():
            work = self._inbox.get()
            if work is None:
                return False
            work()
            wait = False
        return True


def _set_result(future: "asyncio.Future[T]", result: T) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: "asyncio.Future[T]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
