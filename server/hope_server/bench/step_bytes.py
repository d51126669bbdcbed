"""Bytes that one decode step has to move: the slow weights once, and of each session what a token touches."""

from dataclasses import dataclass

import torch

from hope_model.attention.model import HopeAttention
from hope_model.hope import Hope
from hope_model.state import State
from hope_server.engine.runner import ServedModel


@dataclass(frozen=True, slots=True)
class StepBytes:
    """weights: read once a step, whatever the batch. session: of one session, read and written a token."""

    weights: int
    session: int

    def step(self, sessions: int) -> int:
        """Of a step of so many sessions."""
        return self.weights + sessions * self.session


def step_bytes(model: ServedModel) -> StepBytes:
    """By the equations, token by token; a form that saves its writes up moves less."""
    if isinstance(model, HopeAttention):
        return _attention(model)
    assert isinstance(model, Hope)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return StepBytes(weights, _state_bytes(model))


def _attention(model: HopeAttention) -> StepBytes:
    """Head and layers; keys and values of a full window and prefix, one position written; active deltas."""
    backbone, memory = model.config.backbone, model.config.memory
    weights = model.backbone.bytes_read
    width = 2 * backbone.layers * backbone.kv_heads * backbone.head_width * model.backbone.dtype.itemsize
    deltas = sum(model.backbone.dtype.itemsize * site.shape[0] * site.shape[1] for site in model.memory.sites)
    return StepBytes(weights, (memory.prefix + memory.window + 1) * width + deltas)


@torch.inference_mode()
def _state_bytes(model: Hope) -> int:
    """Found out by trying: a tensor is written if a token changes it, and read if it is written or if
    another value in it changes anything else.
    """
    token, before = _after_some(model)
    logits, after = model.step(token, before)
    moved = 0
    for spec in model.state_spec.tensors:
        if not spec.dtype.is_floating_point:
            continue
        name, size = spec.name, before[spec.name].nbytes
        if not torch.equal(before[name], after[name]):
            moved += 2 * size
            continue
        other_logits, other = model.step(token, _disturbed(before, name))
        same = (
            torch.equal(after[other_name], other[other_name]) for other_name in after if other_name != name
        )
        if not (torch.equal(logits, other_logits) and all(same)):
            moved += size
    return moved


def _after_some(model: Hope) -> tuple[torch.Tensor, State]:
    """The next token, and a state in which no tensor is at its initial value by chance."""
    state = model.initial_state(1)
    tokens = torch.arange(4, device=state["position"].device) % model.config.vocab_size
    for token in tokens[:3]:
        _, state = model.step(token[None], state)
    return tokens[3:], state


def _disturbed(state: State, name: str) -> State:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(state[name].shape, generator=generator).to(state[name])
    return {**state, name: state[name] + 0.1 * noise}
