"""A write (E27): some natural-gradient steps on the next-token loss of the taught tokens, slice by slice."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hope_model.attention.config import MemoryLevel
from hope_model.attention.model import HopeAttention
from hope_model.guards import finite_rows
from hope_model.state import State

NEWS_TOKENS, NEWS_NATS = 4, (4.0, 8.0)
"""A lesson with so many tokens that the model did not expect gets full steps; small talk gets short ones."""
LEAST_TOKENS = 32
"""A lesson of fewer tokens weighs less than the pull toward theta: a greeting is not worth a full write."""


@dataclass(frozen=True)
class Lesson:
    """What is taught, for ``B`` sessions side by side; ``T`` taught tokens, padded with weight 0.

    hidden: inputs of the first adapted layer where each taught token is predicted, ``[B, T, D]``.
    positions: of these, ``[B, T]``. targets: the taught tokens, ``[B, T]``. weights: ``[B, T]``.
    text: which rows hold plain text alone, ``[B]`` bool. bias: ``[B, T, S]``.
    keys: of each adapted layer, keys and values in sight, ``[B, G, S, K]``.
    """

    hidden: Tensor
    positions: Tensor
    targets: Tensor
    weights: Tensor
    text: Tensor
    bias: Tensor
    keys: Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Written:
    """The state tensors that a write replaces, and per due level, which rows applied it, ``[B]`` bool."""

    state: State
    applied: dict[str, Tensor]


class Write:
    """Call :meth:`step` until :attr:`slices` is 0, then take :meth:`result`.

    Args:
        model: frozen.
        levels: those that are due.
        state: deltas and moments of their sites, fp32, ``[B, ...]``; not changed.
        lesson: what to learn.
    """

    def __init__(
        self, model: HopeAttention, levels: Sequence[MemoryLevel], state: State, lesson: Lesson
    ) -> None:
        self._model, self._levels, self._lesson = model, tuple(levels), lesson
        self._sites = [site for site in model.memory.sites if site.level in self._levels]
        self._before = state
        self._state = dict(state)
        rows = model.config.memory.rows
        tokens = lesson.targets.shape[1]
        self._parts = [slice(start, min(start + rows, tokens)) for start in range(0, tokens, rows)]
        self._shortlists: list[_Shortlist | None] = [None] * len(self._parts)
        chat = not bool(lesson.text.all())
        self._steps = max(level.steps if chat else level.text_steps for level in self._levels)
        self._surprise = torch.zeros(len(lesson.targets), device=lesson.targets.device)
        self._done = 0
        self._gradients = self._zeros()

    @property
    def slices(self) -> int:
        """Slices that are left."""
        return self._steps * len(self._parts) - self._done

    def step(self) -> None:
        """One slice: the gradient of some taught tokens, and after the last of them the step itself."""
        number, part = divmod(self._done, len(self._parts))
        self._accumulate(part)
        if part + 1 == len(self._parts):
            self._descend(number)
            self._gradients = self._zeros()
        self._done += 1

    def finish(self) -> Written:
        """Every slice that is left, then :meth:`result`."""
        while self.slices:
            self.step()
        return self.result()

    @torch.no_grad()
    def result(self) -> Written:
        """What was learned; a row whose level is not finite keeps what it had."""
        state, applied = dict(self._state), {}
        for level in self._levels:
            names = [name for site in self._sites if site.level == level for name in self._names(site.name)]
            fine = torch.stack([finite_rows(state[name].float()) for name in names]).all(0)
            applied[level.name] = fine
            for name in names:
                keep = fine.view(-1, *(1,) * (state[name].dim() - 1))
                state[name] = torch.where(keep, state[name], self._before[name])
        return Written(state, applied)

    @torch.enable_grad()
    def _accumulate(self, part: int) -> None:
        lesson, where = self._lesson, self._parts[part]
        masters = {
            site.name: self._state[f"{site.name}.delta"].detach().requires_grad_() for site in self._sites
        }
        deltas = self._fixed() | {
            name: master.to(self._model.backbone.dtype) for name, master in masters.items()
        }
        x = self._model.adapted(
            lesson.hidden[:, where], lesson.positions[:, where], lesson.bias[:, where], lesson.keys, deltas
        )
        x = self._model.backbone.final(x)
        shortlist = self._shortlists[part]
        if shortlist is None:
            size = self._model.config.memory.shortlist
            shortlist = _Shortlist(self._model, x.detach(), lesson.targets[:, where], size)
            self._shortlists[part] = shortlist
        weights = lesson.weights[:, where] / lesson.weights.sum(1, keepdim=True).clamp_min(LEAST_TOKENS)
        losses = shortlist.losses(x)
        if self._done < len(self._parts):
            self._surprise += _surprising(losses.detach(), lesson.weights[:, where])
        loss = (losses * weights).sum()
        if part == 0 and (canaries := self._model.canaries):
            canary = canaries[self._done // len(self._parts) % len(canaries)]
            loss = loss + self._model.config.memory.canary * canary.divergence(self._model, deltas).sum()
        for name, gradient in zip(masters, torch.autograd.grad(loss, list(masters.values())), strict=True):
            self._gradients[name] += gradient

    @torch.no_grad()
    def _descend(self, number: int) -> None:
        for level in self._levels:
            retain = torch.where(self._lesson.text, level.text_retain, level.retain)[:, None, None]
            sites = [site for site in self._sites if site.level == level]
            naturals: dict[str, Tensor] = {}
            slope = torch.zeros(len(self._lesson.targets), device=self._lesson.targets.device)
            for site in sites:
                geometry, delta = self._model.memory.geometry[site.name], self._state[f"{site.name}.delta"]
                moved = delta - retain * self._before[f"{site.name}.delta"]
                gradient = self._gradients[site.name] + level.retention * geometry.pull(moved)
                naturals[site.name] = geometry.natural(gradient)
                slope += (gradient * naturals[site.name]).flatten(1).sum(1)
            length = self._length(level, number)
            scale = (length * torch.rsqrt(slope.clamp_min(1e-12))).clamp_max(1 / level.retention)
            for site in sites:
                old = {
                    moment.name: self._state[f"{site.name}.{moment.name}"]
                    for moment in site.rule.spec(level.name, site.shape)
                }
                direction = naturals[site.name] * scale[:, None, None]
                update, new = site.rule.update(direction, old, 1.0)
                self._state[f"{site.name}.delta"] = self._state[f"{site.name}.delta"] - update
                self._state |= {f"{site.name}.{name}": moment for name, moment in new.items()}
            self._bound(level)

    def _length(self, level: MemoryLevel, number: int) -> Tensor:
        """How far step ``number`` goes in the Fisher norm, ``[B]``; 0 after a row's last one."""
        fraction = min(1.0, number / max(1, level.steps - 1))
        words = level.step_length * (1 + (level.last_step - 1) * fraction) if number < level.steps else 0.0
        text = level.text_step_length if number < level.text_steps else 0.0
        share = (self._surprise / NEWS_TOKENS).clamp_max(1.0)
        return torch.where(self._lesson.text, text, words * share)

    def _bound(self, level: MemoryLevel) -> None:
        names = [site.name for site in self._sites if site.level == level]
        deltas = {name: self._state[f"{name}.delta"] for name in names}
        squared = self._model.memory.squared_norm(deltas, names)
        limit = level.max_norm**2
        factor = level.max_norm * torch.rsqrt(squared.clamp_min(limit))
        if bool((squared > limit).any()):
            for name in names:
                self._state[f"{name}.delta"] = deltas[name] * factor[:, None, None]

    def _fixed(self) -> dict[str, Tensor]:
        """Deltas of the levels that are not due."""
        due = {site.name for site in self._sites}
        return {
            site.name: self._before[f"{site.name}.delta"].to(self._model.backbone.dtype)
            for site in self._model.memory.sites
            if site.name not in due
        }

    def _names(self, site: str) -> list[str]:
        return [name for name in self._state if name.startswith(f"{site}.")]

    def _zeros(self) -> dict[str, Tensor]:
        return {site.name: torch.zeros_like(self._state[f"{site.name}.delta"]) for site in self._sites}


def _surprising(losses: Tensor, weights: Tensor) -> Tensor:
    """How many tokens are news, counted in part where they are half expected: ``[B, T]`` nats -> ``[B]``."""
    low, high = NEWS_NATS
    return (((losses - low) / (high - low)).clamp(0.0, 1.0) * weights).sum(1)


class _Shortlist:
    """Cross-entropy over the likeliest tokens alone, with the mass of all others held as it was at first.

    A session's list depends on its own tokens: who shares the batch does not matter.
    """

    @torch.no_grad()
    def __init__(self, model: HopeAttention, x: Tensor, targets: Tensor, size: int) -> None:
        logits = model.backbone.head(x).float()
        best = logits.topk(min(size, logits.shape[-1]), dim=-1).indices.flatten(1)
        lists = [torch.cat((own, row)).unique() for own, row in zip(targets, best, strict=True)]
        longest = max(map(len, lists))
        padded = torch.stack([torch.cat((ids, ids[:1].expand(longest - len(ids)))) for ids in lists])
        lengths = torch.tensor([len(ids) for ids in lists], device=x.device)
        absent = torch.arange(longest, device=x.device) >= lengths[:, None]
        self._bias = torch.zeros(absent.shape, device=x.device).masked_fill_(absent, -torch.inf)[:, None]
        self._rows = model.backbone.head_rows[padded]
        self._place = torch.stack(
            [torch.searchsorted(ids, own) for ids, own in zip(lists, targets, strict=True)]
        )
        listed = (logits.gather(-1, padded[:, None].expand(-1, logits.shape[1], -1)) + self._bias).logsumexp(
            -1
        )
        everything = logits.logsumexp(-1)
        # What the list leaves out, as a logit of its own; rounding may make the difference negative.
        share = (1 - (listed - everything).exp()).clamp_min(1e-7)
        self._others = everything + share.log()

    def losses(self, x: Tensor) -> Tensor:
        """``x [B, T, D]`` after the last norm -> nats ``[B, T]``."""
        logits = torch.matmul(x, self._rows.mT).float() + self._bias
        chosen = logits.gather(-1, self._place[..., None])[..., 0]
        return torch.logaddexp(logits.logsumexp(-1), self._others) - chosen
