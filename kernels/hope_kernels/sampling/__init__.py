"""Choosing a token a row from logits, without sorting them."""

from torch import Tensor

from hope_kernels.dispatch import Dispatch, on_gpu
from hope_kernels.sampling import reference

MAX_FUSED_VOCAB = 1 << 20
"""A token is 20 bits of its key."""


def _serves(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, u: Tensor, slots: Tensor
) -> bool:
    return (
        on_gpu(logits, temperature, top_k, top_p, u, slots)
        and logits.element_size() == 4
        and logits.shape[1] <= MAX_FUSED_VOCAB
    )


choose_tokens = Dispatch(
    "choose_tokens", reference.choose_tokens, "hope_kernels.sampling.fused:choose_tokens", _serves
)

__all__ = ["choose_tokens"]
