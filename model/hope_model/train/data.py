"""Batches for a trainer, made ahead of time by a background thread; `lanes` says what is in them."""

from __future__ import annotations

import atexit
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hope_model.errors import DataError
from hope_model.tokenizer import Tokenizer
from hope_model.train.lanes import Batch, LaneConfig, LaneOrder
from hope_model.train.mixture import Source

__all__ = ["Batch", "LaneConfig", "LaneReader"]


class LaneReader(Iterator[Batch]):
    """Iterator over batches, made ahead of time by a background thread.

    Ends when every set has used up its `max_epochs` and a lane finds no run any more. `close` (or leaving the
    `with` block) stops the thread. Errors of the data, DataError, are raised by `next`.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tokenizer: Tokenizer,
        *,
        rows: int,
        window: int,
        seed: int,
        config: LaneConfig | None = None,
    ) -> None:
        """`rows` lanes of `window` tokens; raises DataError for sizes below 1 or no source."""
        if not sources or rows < 1 or window < 1:
            raise DataError(f"lanes: expected a source, rows >= 1 and window >= 1, found {rows=} {window=}")
        self._order = LaneOrder(sources, tokenizer, rows, window, seed, config or LaneConfig())
        self._state = self._order.state_dict()
        self._thread: _Prefetch | None = None

    def __enter__(self) -> LaneReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __next__(self) -> Batch:
        if self._thread is None:
            self._thread = _Prefetch(self._order)
        batch, self._state = self._thread.next()
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Position after the last batch handed out, as plain JSON values."""
        return self._state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position; before the first batch only.

        Raises DataError when the state comes from other shards, settings or another tokenizer.
        """
        if self._thread is not None:
            raise DataError("lanes: expected a reader that has not started, found one in use")
        self._order.load_state_dict(state)
        self._state = self._order.state_dict()

    def close(self) -> None:
        """Stop the background thread; the reader ends here."""
        if self._thread is not None:
            self._thread.stop()


class _Prefetch:
    """A thread that keeps batches and the positions after them in a bounded queue."""

    def __init__(self, order: LaneOrder) -> None:
        self._order = order
        self._queue: queue.Queue[tuple[Batch, dict[str, Any]] | BaseException] = queue.Queue(
            order.config.prefetch
        )
        self._stopping = threading.Event()
        self._end: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="lane-reader", daemon=True)
        # A daemon thread inside the tokenizer while the interpreter ends can abort the process.
        atexit.register(self.stop)
        self._thread.start()

    def next(self) -> tuple[Batch, dict[str, Any]]:
        """The next batch; raises what ended the thread, again on every call."""
        if self._end is None:
            item = self._queue.get()
            if not isinstance(item, BaseException):
                return item
            self._end = item
        raise self._end

    def stop(self) -> None:
        """End the thread and drop what it has prepared."""
        self._stopping.set()
        while self._thread.is_alive():
            self._drain()
            self._thread.join(0.05)
        self._drain()
        self._end = self._end or StopIteration()
        atexit.unregister(self.stop)

    def _drain(self) -> None:
        while not self._queue.empty():
            self._queue.get_nowait()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                batch = self._order.next_batch()
                if batch is None:
                    self._queue.put(StopIteration())
                    return
                self._queue.put((batch, self._order.state_dict()))
        except BaseException as error:  # whatever ends the thread must reach the trainer, which waits
            self._queue.put(error)
