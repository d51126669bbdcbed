"""A memory that is a small network per head, and its gradient in closed form (E40)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hope_kernels.matrix_memory import ChunkMix, Erasure, LayerWrites
from hope_model.state import State, TensorSpec

EPS = 1e-6


@dataclass(frozen=True)
class MemoryForm:
    """``y = M(x)`` of one head, ``x [K]``, ``y [V]``.

    Attributes:
        inputs, outputs: ``K`` and ``V``.
        hidden: width of the hidden layer, ``M(x) = W₁ gelu(W₂ x) / sqrt(hidden)``; 0 for ``M(x) = W x``.
        residual: ``x`` is added to the output.
        layer_norm: the output is normalised (before ``x`` is added).
        bias: layers see a constant 1 beside their input.
        weights: how a layer's matrix follows from what is written: ``plain``; ``softmax``, of each row;
            ``power``, the matrix divided by the square of its 4-norm.
    """

    inputs: int
    outputs: int
    hidden: int = 0
    residual: bool = False
    layer_norm: bool = False
    bias: bool = False
    weights: str = "plain"

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Matrices by name, in the order in which an input meets them."""
        extra = int(self.bias)
        if not self.hidden:
            return {"outer": (self.outputs, self.inputs + extra)}
        return {
            "inner": (self.hidden, self.inputs + extra),
            "outer": (self.outputs, self.hidden + extra),
        }


@dataclass(frozen=True)
class Trace:
    """A forward pass: each layer's input ``[B, H, T, .]``, the hidden layer before its nonlinearity, the
    output before its norm, and the output.
    """

    seen: dict[str, Tensor]
    hidden: Tensor | None
    raw: Tensor
    output: Tensor

    def halves(self) -> "tuple[Trace, Trace]":
        """Of the first and of the last half of the tokens, which were read at once: one large product is
        faster than two.
        """
        seen = {name: _halves(term) for name, term in self.seen.items()}
        hidden = (None, None) if self.hidden is None else _halves(self.hidden)
        terms = zip(hidden, _halves(self.raw), _halves(self.output), strict=True)
        first, last = (
            Trace({name: half[i] for name, half in seen.items()}, *own) for i, own in enumerate(terms)
        )
        return first, last


class GradientMemory(nn.Module):
    """The networks of ``heads`` heads, or ``copies`` of them a head. What a session has learned is a
    difference to the initial weights.

    State, by layer: ``<layer>``, as it stood at the chunk's start, which gradients are taken at;
    ``<layer>_next``, as it stands; ``<layer>_momentum``. The methods take it as :meth:`by_head` gives it:
    ``[B, H, V, K]``, with copies ``[B, C, H, V, K]``, which share what is ``[B, 1, H, T, K]``.
    """

    def __init__(
        self,
        heads: int,
        form: MemoryForm,
        *,
        momentum: bool,
        scale: float = 0.5,
        copies: int | None = None,
    ) -> None:
        super().__init__()
        self.form, self.momentum = form, momentum
        self.axes = (heads,) if copies is None else (copies, heads)
        self.layers = tuple(form.shapes())
        spreads = {"inner": 1.0, "outer": scale if form.hidden else scale / math.sqrt(form.inputs)}
        for name, shape in form.shapes().items():
            spread = 1.0 if form.weights == "softmax" else spreads[name]
            weight = torch.randn(math.prod(self.axes), *shape) * spread
            self.register_parameter(f"{name}_initial", nn.Parameter(weight))

    def initial(self, layer: str) -> Tensor:
        """``[H, V, K]``, with copies ``[C, H, V, K]``."""
        weight: Tensor = getattr(self, f"{layer}_initial")
        return weight.view(*self.axes, *weight.shape[1:])

    def by_head(self, state: State) -> State:
        """The declared tensors ``[B, C H, V, K]`` with an axis for copies, if there are."""
        return {name: tensor.unflatten(1, self.axes) for name, tensor in state.items()}

    def spec(self, prefix: str, level: str) -> tuple[TensorSpec, ...]:
        kinds = ("", "_next", *(("_momentum",) if self.momentum else ()))
        return tuple(
            TensorSpec(f"{prefix}{layer}{kind}", level, (math.prod(self.axes), *shape))
            for layer, shape in self.form.shapes().items()
            for kind in kinds
        )

    def initial_norm(self) -> Tensor:
        total = torch.stack([self.initial(layer).square().sum() for layer in self.layers]).sum()
        return total.sqrt()

    def at(self, state: State) -> dict[str, Tensor]:
        """The matrices at the chunk's start, by layer."""
        written = {layer: self.initial(layer) + state[layer] for layer in self.layers}
        if self.form.weights == "softmax":
            return {layer: torch.softmax(w, dim=-1) * w.shape[-1] for layer, w in written.items()}
        if self.form.weights == "power":
            return {layer: w * _power_scale(w) for layer, w in written.items()}
        return written

    def read(self, weights: dict[str, Tensor], x: Tensor) -> Trace:
        """``x [B, H, T, K]`` through matrices that all tokens share."""
        return self._pass(x, {layer: _through(weight) for layer, weight in weights.items()})

    def gradients(self, weights: dict[str, Tensor], trace: Trace, grad: Tensor) -> dict[str, Tensor]:
        """Of each layer's output, from that of the memory's: token ``t``'s gradient of its matrix is
        ``g_t x_tᵀ``.
        """
        if self.form.layer_norm:
            grad = _layer_norm_gradient(trace.raw, grad)
        if trace.hidden is None:
            return {"outer": grad}
        back = torch.matmul(grad, weights["outer"][..., : self.form.hidden])
        return {"inner": back * _gelu_slope(trace.hidden) / math.sqrt(self.form.hidden), "outer": grad}

    def writes(
        self,
        state: State,
        mix: ChunkMix,
        trace: Trace,
        gradients: dict[str, Tensor],
        rate: Tensor,
        erasure: Erasure | None = None,
    ) -> dict[str, LayerWrites]:
        """The chunk's writes: steps of ``rate [B, H, T]`` down the gradients; ``erasure`` is along the keys,
        of the layer that meets them.
        """
        return {
            layer: LayerWrites(
                mix,
                state[f"{layer}_next"],
                state.get(f"{layer}_momentum"),
                self.initial(layer),
                k=trace.seen[layer],
                w=-rate[..., None] * gradients[layer],
                erasure=erasure if layer == self.layers[0] else None,
            )
            for layer in self.layers
        }

    def read_within(self, state: State, writes: dict[str, LayerWrites], x: Tensor, *, strict: bool) -> Tensor:
        """``x [B, H, T, K]``, each token by the memory as its chunk has left it so far."""
        if self.form.weights == "power":
            scales = {layer: _power_scale(self.initial(layer) + state[layer]) for layer in self.layers}
            layers = {layer: _reader(own, strict, scales[layer]) for layer, own in writes.items()}
        else:
            layers = {layer: _reader(own, strict) for layer, own in writes.items()}
        return self._pass(x, layers).output

    def after(self, writes: dict[str, LayerWrites], state: State) -> State:
        """The state after the chunk's tokens; what gradients are taken at stays."""
        new = dict(state)
        for layer, own in writes.items():
            new[f"{layer}_next"], momentum = own.end()
            if momentum is not None:
                new[f"{layer}_momentum"] = momentum
        return new

    def _pass(self, x: Tensor, layers: dict[str, "Reader"]) -> Trace:
        seen = {self.layers[0]: self._with_one(x)}
        hidden = None
        if self.form.hidden:
            hidden = layers["inner"](seen["inner"])
            seen["outer"] = self._with_one(F.gelu(hidden) / math.sqrt(self.form.hidden))
        raw = layers["outer"](seen["outer"])
        output = _layer_norm(raw) if self.form.layer_norm else raw
        return Trace(seen, hidden, raw, output + x if self.form.residual else output)

    def _with_one(self, x: Tensor) -> Tensor:
        return torch.cat((x, torch.ones_like(x[..., :1])), dim=-1) if self.form.bias else x


Reader = Callable[[Tensor], Tensor]


def _through(weight: Tensor) -> Reader:
    return lambda x: torch.matmul(x, weight.mT)


def _reader(writes: LayerWrites, strict: bool, scale: Tensor | None = None) -> Reader:
    if scale is None:
        return lambda x: writes.read(x, strict=strict)
    return lambda x: writes.read(x, strict=strict) * scale


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    first, last = x.chunk(2, dim=-2)
    return first, last


def _power_scale(written: Tensor) -> Tensor:
    """``1 / |W|₄²`` of matrices ``[B, H, V, K]``: ``[B, H, 1, 1]``."""
    return torch.rsqrt(written.pow(4).sum((-2, -1), keepdim=True) + EPS)


def _gelu_slope(x: Tensor) -> Tensor:
    """``Φ(x) + x φ(x)``."""
    density = torch.exp(-0.5 * x.square()) * (0.5 / math.pi) ** 0.5
    slope: Tensor = torch.special.ndtr(x) + x * density
    return slope


def _layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


def _layer_norm_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """The gradient of ``x`` from that of ``layer_norm(x)``."""
    centred = x - x.mean(-1, keepdim=True)
    inverse = torch.rsqrt(centred.square().mean(-1, keepdim=True) + EPS)
    normed = centred * inverse
    along = (grad * normed).mean(-1, keepdim=True)
    return inverse * (grad - grad.mean(-1, keepdim=True) - normed * along)
