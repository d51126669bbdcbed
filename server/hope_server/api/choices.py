"""Several turns that answer one request: side by side, their pieces in one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TypeVar

from hope_client.wire import Usage
from hope_server.api.runtime import Runtime
from hope_server.api.turn import SEED_MASK, Piece, TurnSpec, pieces
from hope_server.errors import InvalidRequest

T = TypeVar("T")
WAITING_PIECES = 64
"""Of all turns together; with more, turns wait for the client to take them."""


def choices_of(specs: Sequence[TurnSpec], n: int) -> list[TurnSpec]:
    """`n` choices for each of `specs`: with a seed, choice i of a prompt has that seed + i.

    Raises:
        InvalidRequest: Several answers for one session, which can learn but one.
    """
    found = [_choice(spec, index) for spec in specs for index in range(n)]
    if len(found) > 1 and found[0].session_id is not None:
        raise InvalidRequest(
            f"a session reads one prompt and learns one answer a turn, found {len(found)} choices: "
            "send one prompt and n = 1, or no session",
            param="n" if n > 1 else "prompt",
            code="unsupported_value",
        )
    return found


def _choice(spec: TurnSpec, index: int) -> TurnSpec:
    seed = spec.sampling.seed
    if seed is None or index == 0:
        return spec
    return replace(spec, sampling=replace(spec.sampling, seed=(seed + index) & SEED_MASK))


def once(make: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
    """`make`, which is awaited once, however often and by whom its result is asked for."""
    made: asyncio.Future[T] | None = None

    async def get() -> T:
        nonlocal made
        if made is None:
            made = asyncio.ensure_future(make())
        return await asyncio.shield(made)

    return get


async def side_by_side(runtime: Runtime, specs: Sequence[TurnSpec]) -> AsyncGenerator[tuple[int, Piece]]:
    """The pieces of every turn with its index, in order for each. The first error ends all of them.

    As many run at once as the server has slots and the tenant's quota allows.
    """
    if len(specs) == 1:
        async with aclosing(pieces(runtime, specs[0])) as answer:
            async for piece in answer:
                yield 0, piece
        return
    ready: asyncio.Queue[tuple[int, Piece] | Exception] = asyncio.Queue(WAITING_PIECES)
    width = asyncio.Semaphore(specs[0].sessions.turns_at_once(runtime.config.slots))

    async def run(index: int, spec: TurnSpec) -> None:
        try:
            async with width, aclosing(pieces(runtime, spec)) as answer:
                async for piece in answer:
                    await ready.put((index, piece))
        except Exception as error:
            await ready.put(error)

    tasks = [asyncio.create_task(run(index, spec)) for index, spec in enumerate(specs)]
    try:
        going = len(specs)
        while going:
            found = await ready.get()
            if isinstance(found, Exception):
                raise found
            going -= found[1].finish_reason is not None
            yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True)
class UsageCount:
    """The tokens of a request whose prompts have `n` choices each: a prompt counts once."""

    n: int
    _prompts: dict[int, int] = field(default_factory=dict)
    _generated: dict[int, int] = field(default_factory=dict)

    def add(self, index: int, piece: Piece) -> None:
        self._prompts[index // self.n] = piece.prompt_tokens
        self._generated[index] = piece.completion_tokens

    def usage(self) -> Usage:
        """Up to the last piece that was added."""
        read, generated = sum(self._prompts.values()), sum(self._generated.values())
        return Usage(prompt_tokens=read, completion_tokens=generated, total_tokens=read + generated)
