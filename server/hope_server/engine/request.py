"""The nouns that callers and engine share. No torch, no redis."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal, Protocol

from hope_server.errors import InvalidRequest
from hope_server.sessions.key import SessionKey
from hope_server.sessions.session import Origin, Transcript
from hope_server.tracing import NO_SPAN, Span

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class PromptPart:
    """A run of new tokens with one origin; the session reads it in one piece."""

    origin: Origin
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Of one token, in nats, as the model itself has it: before bias, penalties and temperature.

    ``logprob``: None for a turn's first token, which nothing in it predicts. ``top``: the likeliest tokens
    and theirs, best first, as many as were asked for.
    """

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen and when a turn ends.

    ``temperature`` 0 is greedy. ``top_k`` 0 and ``top_p`` 1 are off. ``seed`` None draws one per request. A
    token of ``stop_token_ids`` ends the turn with finish reason "stop" unless ``ignore_eos``; it is emitted
    and read by the state like any other token. With ``max_tokens`` 0 the prompt is read and nothing follows.

    ``logit_bias`` is added to the logits of its tokens. A token that the turn has sampled c times loses
    ``presence_penalty + c * frequency_penalty``; the positive logit of one that stands in its prompt or was
    sampled is divided by ``repetition_penalty``, a negative one multiplied. Until ``min_tokens`` are sampled
    no token of ``stop_token_ids`` is. All of it depends on the request and the turn's own tokens alone.

    ``logprobs``, ``prompt_logprobs``: how many alternatives to report of each token; None reports nothing.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int = 16
    stop_token_ids: frozenset[int] = field(default_factory=frozenset)
    ignore_eos: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class TurnFigures:
    """What a turn did to its session.

    seq: the journal's last number, None for an ephemeral session. learned_tokens: those read that teach.
    level_writes: writes by level. drift: by level, as it stands after the turn. frozen: the session learns no
    more.
    """

    seq: int | None
    learned_tokens: int
    level_writes: dict[str, int]
    drift: dict[str, float]
    frozen: bool = False


class Constraint(Protocol):
    """Which tokens may come next in one turn; used on the engine's thread, and must be quick."""

    @property
    def over(self) -> bool:
        """The turn has come to its end."""
        ...

    def allowed(self) -> bytes:
        """A bit for each token, the first token's the lowest of the first byte; at least one is set."""
        ...

    def accept(self, token: int) -> None:
        """``token`` was sampled."""
        ...


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One turn: read ``prompt``, then generate.

    ``session`` None is an ephemeral session, thrown away at the end. ``transcript`` and
    ``idempotency_key`` are stored with the prompt, in one commit. ``stop_check`` sees each sampled token
    once, in order, on the engine's thread; True ends the turn with that token ("stop"), exactly, however far
    compute runs ahead of delivery. It must be quick and must not block (incremental detokenisation and a
    search for stop strings). ``answered(n)`` is the transcript when the first n sampled tokens are committed:
    it goes along with each commit that holds sampled tokens (called on the event loop, n never falls), so
    that the transcript stands with the journal also after a crash. ``scored`` gets the prompt's tokens as
    they are read, if ``sampling.prompt_logprobs`` asks for it (called on the event loop, before any token is
    handed out). ``constraint`` says which tokens may come. ``finished`` gets
    the turn's figures, before the last token is handed out (called on the event loop). ``fingerprint`` names
    the request in the journal where it has no key; see :func:`request_name`. ``learn`` False: the turn is
    read, answered and journaled, and none of its tokens teaches. ``span``: what the turn goes through is told
    as parts of it.
    """

    request_id: str
    session: SessionKey | None
    prompt: tuple[PromptPart, ...]
    sampling: SamplingParams
    transcript: Transcript | None = None
    idempotency_key: str | None = None
    stop_check: Callable[[int], bool] | None = None
    answered: Callable[[int], Transcript] | None = None
    scored: Callable[[tuple[TokenLogprob, ...]], None] | None = None
    constraint: Constraint | None = None
    finished: Callable[[TurnFigures], None] | None = None
    fingerprint: str = ""
    learn: bool = True
    span: Span = NO_SPAN

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
    logprob: TokenLogprob | None = None


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
class SessionLoss:
    """Mean loss in nats over ``tokens`` of a session's own tokens behind ``first_seq``, up to ``last_seq``:
    with what it had learned by then, and without; None where no token counts.
    """

    first_seq: int
    last_seq: int
    tokens: int
    with_memory: float | None
    without_memory: float | None


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A moment of the engine. ``running`` turns hold a slot; ``waiting`` turns, at most ``max_waiting``,
    queue for one. ``frozen``: sessions in slots that learn no more.

    host_rows, host_bytes: what is kept in the host's memory; host_hits, host_misses, host_evictions: seats
    that found their session's row there or did not, and rows given up for others, since the start.
    """

    running: int = 0
    waiting: int = 0
    max_waiting: int = 0
    slots: int = 0
    slots_used: int = 0
    resident_active: int = 0
    resident_idle: int = 0
    frozen: int = 0
    host_rows: int = 0
    host_bytes: int = 0
    host_hits: int = 0
    host_misses: int = 0
    host_evictions: int = 0


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Sizes and bounds.

    slots: sessions whose state is on the device at once.
    max_waiting: turns that may queue for a slot; one more is refused with QueueFull.
    decode_rows: the one batch shape of decode; a row's bits do not depend on who shares it.
    max_uncommitted: sampled tokens of a turn that may wait for their commit before it pauses.
    commit_interval_s: tokens gather this long for a commit, all sessions' together, where steps are faster.
    prompt_interval: while other sessions decode, prompt work runs in every n-th step.
    max_prompt_tokens: longest prompt of one turn.
    threads: torch threads of the engine, None leaves torch's choice.
    lease_ttl_s: how long other workers wait for a session whose worker died in a turn.
    owner_nonce: 32 hex digits of a worker that has the store to itself, so that its next life finds its own
        leases; empty for one of many, which draws its own.
    learn: False answers as the slow weights do; only for models that can.
    host_state_bytes: rows that had to leave their slot are kept in the host's memory up to so many bytes.
    """

    slots: int = 16
    max_waiting: int = 128
    decode_rows: int = 4
    max_uncommitted: int = 64
    commit_interval_s: float = 0.016
    prompt_interval: int = 1
    max_prompt_tokens: int = 1 << 20
    threads: int | None = None
    lease_ttl_s: float = 15.0
    owner_nonce: str = ""
    learn: bool = True
    host_state_bytes: int = 0

    def __post_init__(self) -> None:
        for name in ("slots", "decode_rows", "max_uncommitted", "prompt_interval", "max_prompt_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        for name in ("max_waiting", "host_state_bytes", "commit_interval_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected at least 0, found {getattr(self, name)}")


def request_name(text: str) -> str:
    """32 hex digits that stand for a request in the journal: for its key, its fingerprint, or its id."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


def check_tokens(tokens: Iterable[int], vocab_size: int) -> None:
    """Raises InvalidRequest for a token that the model does not have."""
    if not all(0 <= token < vocab_size for token in tokens):
        raise InvalidRequest(f"expected token ids from 0 to {vocab_size - 1}, found others", param="prompt")
