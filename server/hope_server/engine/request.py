"""The nouns that callers and engine share. No torch, no redis."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from hope_server.errors import InvalidRequest
from hope_server.sessions.key import SessionKey
from hope_server.sessions.session import Origin, Transcript

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class PromptPart:
    """A run of new tokens with one origin; the session reads it in one piece."""

    origin: Origin
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen and when a turn ends.

    ``temperature`` 0 is greedy. ``top_k`` 0 and ``top_p`` 1 are off. ``seed`` None draws one per request. A
    token of ``stop_token_ids`` ends the turn with finish reason "stop" unless ``ignore_eos``; it is emitted
    and read by the state like any other token.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int = 16
    stop_token_ids: frozenset[int] = field(default_factory=frozenset)
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One turn: read ``prompt``, then generate.

    ``session`` None is an ephemeral session, thrown away at the end. ``transcript`` and
    ``idempotency_key`` are stored with the prompt, in one commit. ``stop_check`` sees each sampled token
    once, in order, on the engine's thread; True ends the turn with that token ("stop"), exactly, however far
    compute runs ahead of delivery. It must be quick and must not block (incremental detokenisation and a
    search for stop strings). ``answered(n)`` is the transcript when the first n sampled tokens are committed:
    it goes along with each commit that holds sampled tokens (called on the event loop, n never falls), so
    that the transcript stands with the journal also after a crash.
    """

    request_id: str
    session: SessionKey | None
    prompt: tuple[PromptPart, ...]
    sampling: SamplingParams
    transcript: Transcript | None = None
    idempotency_key: str | None = None
    stop_check: Callable[[int], bool] | None = None
    answered: Callable[[int], Transcript] | None = None

    @property
    def prompt_tokens(self) -> int:
        return sum(len(part.tokens) for part in self.prompt)


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """A committed token, the turn's ``index``-th (from 0); ``seq``: its place in the journal, None when
    ephemeral.

    The last event of a turn carries the finish reason and arrives when the state has read that token and the
    session is free again: the caller may start the next turn at once.
    """

    token: int
    index: int
    seq: int | None
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class LevelStatus:
    """What a level of a session has done since the last reset; ``period`` None: the frozen slow weights."""

    name: str
    period: int | None
    tokens: int
    writes: int
    refused: int
    drift_ratio: float
    bytes: int

    @property
    def frequency(self) -> float:
        """Counted writes per token read."""
        return self.writes / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, slots=True)
class Verification:
    """Hex hashes of the state after ``seq``: replayed from the first token, and restored as a turn would.

    snapshot_seq: where the restored one began; 0 where there is no snapshot that holds.
    """

    seq: int
    position: int
    head_sha256: str
    replayed_sha256: str
    restored_sha256: str
    snapshot_seq: int

    @property
    def equal(self) -> bool:
        return self.replayed_sha256 == self.restored_sha256


@dataclass(frozen=True, slots=True)
class LevelChange:
    """From one state of a session to another: Euclidean ``norm`` of the change, that over the norm of the
    first state (None: it is zero), its largest absolute value, and the cosine of the two states (None: one
    is zero). ``writes``: the difference of their counters, negative for a later state that has fewer.
    """

    name: str
    writes: int
    norm: float
    relative: float | None
    max_abs: float
    cosine: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """Two points of a journal and, for each level that learns, the change between them."""

    first_seq: int
    last_seq: int
    first_position: int
    last_position: int
    levels: tuple[LevelChange, ...]


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A moment of the engine. ``running`` turns hold a slot, ``waiting`` turns queue for one."""

    running: int = 0
    waiting: int = 0
    slots: int = 0
    slots_used: int = 0
    resident_active: int = 0
    resident_idle: int = 0


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Sizes and bounds.

    slots: sessions whose state is on the device at once.
    max_waiting: turns that may queue for a slot; one more is refused with QueueFull.
    decode_rows: the one batch shape of decode; a row's bits do not depend on who shares it.
    max_uncommitted: sampled tokens of a turn that may wait for their commit before it pauses.
    prompt_interval: while other sessions decode, prompt work runs in every n-th step.
    max_prompt_tokens: longest prompt of one turn.
    threads: torch threads of the engine, None leaves torch's choice.
    lease_ttl_s: how long other workers wait for a session whose worker died in a turn.
    owner_nonce: 32 hex digits of a worker that has the store to itself, so that its next life finds its own
        leases; empty for one of many, which draws its own.
    learn: False answers as the slow weights do; only for models that can.
    """

    slots: int = 16
    max_waiting: int = 128
    decode_rows: int = 4
    max_uncommitted: int = 32
    prompt_interval: int = 1
    max_prompt_tokens: int = 1 << 20
    threads: int | None = None
    lease_ttl_s: float = 15.0
    owner_nonce: str = ""
    learn: bool = True

    def __post_init__(self) -> None:
        for name in ("slots", "decode_rows", "max_uncommitted", "prompt_interval", "max_prompt_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if self.max_waiting < 0:
            raise ValueError(f"max_waiting: expected at least 0, found {self.max_waiting}")


def check_tokens(tokens: Iterable[int], vocab_size: int) -> None:
    """Raises InvalidRequest for a token that the model does not have."""
    if not all(0 <= token < vocab_size for token in tokens):
        raise InvalidRequest(f"expected token ids from 0 to {vocab_size - 1}, found others", param="prompt")
