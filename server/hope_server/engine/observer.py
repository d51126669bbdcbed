"""What the engine reports while it runs; metrics implement it. No torch.

Methods are called from the engine's thread and from the event loop: they must be quick, thread-safe and must
not raise.
"""

from typing import Literal, Protocol

from hope_server.engine.events import HaltReason

TurnOutcome = Literal["stop", "length", "abort", "error"]
SessionOperation = Literal["create", "delete", "reset", "rollback", "fork", "export", "import", "verify"]
LeaseOutcome = Literal["acquired", "refused", "released", "lost"]


class EngineObserver(Protocol):
    """Real events only: nothing here is computed from the configuration. Times are seconds."""

    def on_step(self, *, batch_size: int, prompt_tokens: int, seconds: float) -> None:
        """One engine step: sessions decoded, prompt tokens read, wall time."""

    def on_level_writes(self, level: str, *, tokens: int, writes: int, refused: int) -> None:
        """What states counted in a step, summed over sessions: tokens read, writes applied, updates refused.

        Work repeated to restore a session is not reported.
        """

    def on_drift(self, level: str, ratio: float) -> None:
        """||state - initial|| / ||reference|| of one session, at a boundary."""

    def on_update_norm(self, level: str, norm: float) -> None:
        """Norm of what a block changed in the tensors of a level, of one session, at a boundary."""

    def on_queue(self, seconds: float) -> None:
        """A turn waited this long for a slot."""

    def on_prompt(self, tokens: int) -> None:
        """A prompt was accepted (for a durable session: committed)."""

    def on_ttft(self, seconds: float) -> None:
        """From the start of ``generate`` to the first committed token."""

    def on_inter_token(self, seconds: float) -> None:
        """Between two tokens of a turn, as sampled."""

    def on_commit(self, seconds: float, *, tokens: int) -> None:
        """One journal commit landed."""

    def on_load(self, seconds: float, *, replayed_tokens: int) -> None:
        """A session was made resident: snapshot read, decoded and the rest replayed."""

    def on_snapshot(self, seconds: float, *, bytes_written: int) -> None:
        """A snapshot was published."""

    def on_snapshot_failed(self, error: BaseException) -> None:
        """A snapshot could not be read or written; the journal still holds the session."""

    def on_turn_end(
        self, outcome: TurnOutcome, *, prompt_tokens: int, generated_tokens: int, seconds: float
    ) -> None:
        """A turn ended; ``seconds`` from the start of ``generate``."""

    def on_corrupted(self) -> None:
        """A session's row gave a non-finite result and was dropped."""

    def on_reload(self) -> None:
        """The state of such a row is made again inside its turn."""

    def on_learning_rollback(self, reason: HaltReason) -> None:
        """A session goes back to its last good boundary and learns no more."""

    def on_canary(self, nats: float) -> None:
        """A write was judged: answers to a canary text have moved this far from the slow weights' own."""

    def on_session(self, operation: SessionOperation) -> None:
        """Something was done to a session, and has succeeded (an export: has begun)."""

    def on_eviction(self) -> None:
        """An idle session's row made room for another session."""

    def on_lease(self, outcome: LeaseOutcome, *, held: int) -> None:
        """A session's lease was taken, refused (another worker has it), given back, or lost while held.

        ``held``: how many the worker has now.
        """


class NullObserver:
    """Observes nothing."""

    def on_step(self, *, batch_size: int, prompt_tokens: int, seconds: float) -> None: ...
    def on_level_writes(self, level: str, *, tokens: int, writes: int, refused: int) -> None: ...
    def on_drift(self, level: str, ratio: float) -> None: ...
    def on_update_norm(self, level: str, norm: float) -> None: ...
    def on_queue(self, seconds: float) -> None: ...
    def on_prompt(self, tokens: int) -> None: ...
    def on_ttft(self, seconds: float) -> None: ...
    def on_inter_token(self, seconds: float) -> None: ...
    def on_commit(self, seconds: float, *, tokens: int) -> None: ...
    def on_load(self, seconds: float, *, replayed_tokens: int) -> None: ...
    def on_snapshot(self, seconds: float, *, bytes_written: int) -> None: ...
    def on_snapshot_failed(self, error: BaseException) -> None: ...
    def on_turn_end(
        self, outcome: TurnOutcome, *, prompt_tokens: int, generated_tokens: int, seconds: float
    ) -> None: ...
    def on_corrupted(self) -> None: ...
    def on_reload(self) -> None: ...
    def on_learning_rollback(self, reason: HaltReason) -> None: ...
    def on_canary(self, nats: float) -> None: ...
    def on_session(self, operation: SessionOperation) -> None: ...
    def on_eviction(self) -> None: ...
    def on_lease(self, outcome: LeaseOutcome, *, held: int) -> None: ...
