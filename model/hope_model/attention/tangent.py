"""What taught tokens would gain from a change of the memory, to first order (E27).

A token's margin is the logit of its own chance, ``log p - log (1 - p)``. Keys and values stay as they are, so
a token's margin depends on its own column only: its gradient at a site is an outer product, and one backward
pass gives those of all tokens.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hope_model.attention.alternatives import Alternatives
from hope_model.attention.memory import Deltas, Memory, Site, Stack


@dataclass(frozen=True)
class Lesson:
    """What is taught to one session: ``T`` tokens.

    hidden: inputs of the first adapted layer where each taught token is predicted, ``[1, T, D]``. outputs:
    of the last layer there, as the session read it, ``[1, T, D]``. positions: of these, ``[1, T]``.
    targets: the taught tokens, ``[1, T]``. bias: ``[1, T, S]``. keys: of each adapted layer, keys and values
    in sight, ``[1, G, S, K]``. text: plain text, no chat.
    """

    hidden: Tensor
    outputs: Tensor
    positions: Tensor
    targets: Tensor
    bias: Tensor
    keys: Sequence[tuple[Tensor, Tensor]]
    text: bool

    def only(self, tokens: Tensor | slice) -> "Lesson":
        """The lesson of some of its tokens."""
        return Lesson(
            self.hidden[:, tokens],
            self.outputs[:, tokens],
            self.positions[:, tokens],
            self.targets[:, tokens],
            self.bias[:, tokens],
            self.keys,
            self.text,
        )


@dataclass(frozen=True)
class Tangent:
    """Margins of ``n`` tokens; their gradients at a site are ``inputs [n, r]`` times ``slopes [n, out]``."""

    margins: Tensor
    inputs: Mapping[str, Tensor]
    slopes: Mapping[str, Tensor]

    @classmethod
    def join(cls, parts: Sequence["Tangent"]) -> "Tangent":
        """Those of all parts' tokens."""
        return cls(
            torch.cat([part.margins for part in parts]),
            {name: torch.cat([part.inputs[name] for part in parts]) for name in parts[0].inputs},
            {name: torch.cat([part.slopes[name] for part in parts]) for name in parts[0].slopes},
        )

    def along(self, change: Deltas) -> Tensor:
        """How much each margin rises with ``change [r, out]`` by site, ``[n]``."""
        return _total(((self.inputs[name] @ change[name]) * self.slopes[name]).sum(1) for name in self.inputs)


class Pushes:
    """Changes of the memory that raise margins at the least cost, ``M^-1 J`` (E27).

    The cost of a change of a level is its squared length in the damped Fisher metric times the level's
    retention, in nats. Sites are those of whole levels.
    """

    def __init__(self, tangent: Tangent, sites: Sequence[Site], memory: Memory) -> None:
        stacks = memory.stacks([site.name for site in sites])
        self._parts = [_Push.of(tangent, stack) for stack in stacks]
        self.compiled = all(stack.compiled is not None for stack in stacks)
        """Whether the kernel multiplies."""

    def gram(self) -> Tensor:
        """``J M^-1 J'``: what one token's push does to another's margin, ``[n, n]``."""
        return _total(part.gram() for part in self._parts)

    def change(self, pull: Tensor) -> dict[str, Tensor]:
        """All pushes together, ``pull [n]`` of each: ``[r, out]`` by site."""
        return {
            name: change
            for part in self._parts
            for name, change in zip(part.names, part.change(pull), strict=True)
        }


@dataclass(frozen=True)
class _Push:
    """Of ``s`` sites of one shape, ``[s, n, r]`` and ``[s, n, out]``: those of the margins, and of pushes."""

    names: tuple[str, ...]
    inputs: Tensor
    slopes: Tensor
    pushed_inputs: Tensor
    pushed_slopes: Tensor

    @classmethod
    def of(cls, tangent: Tangent, stack: Stack) -> "_Push":
        inputs = torch.stack([tangent.inputs[name] for name in stack.names])
        slopes = torch.stack([tangent.slopes[name] for name in stack.names])
        pushed_inputs = torch.bmm(inputs, stack.inputs_inverse) / stack.level.retention
        return cls(stack.names, inputs, slopes, pushed_inputs, stack.times("outputs_inverse", slopes))

    def gram(self) -> Tensor:
        by_inputs = torch.bmm(self.pushed_inputs, self.inputs.mT)
        return by_inputs.mul_(torch.bmm(self.pushed_slopes, self.slopes.mT)).sum(0)

    def change(self, pull: Tensor) -> Tensor:
        return torch.bmm(self.pushed_inputs.mT, pull[:, None] * self.pushed_slopes)


@dataclass(frozen=True)
class Question:
    """What one session asks: the margins of a lesson's tokens and their gradients.

    deltas: the memory there, ``[1, r, out]`` by site, in the weights' type. sites: those to differentiate.
    """

    lesson: Lesson
    alternatives: Alternatives
    deltas: Deltas
    sites: tuple[Site, ...]


def _total(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(0)
