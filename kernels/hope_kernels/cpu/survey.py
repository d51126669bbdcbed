"""What logits say of tokens, by the compiled kernel: a row's bits depend neither on the others nor on the
number of threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from hope_kernels.cpu import tangent_layout as layout
from hope_kernels.cpu import team
from hope_kernels.cpu.build import load
from hope_kernels.cpu.frozen import LANES


@dataclass(frozen=True, slots=True)
class Surveyed:
    """totals: ``log sum exp`` of all logits, ``[N]``. losses: nats of the targets, ``[N]``. best: places of
    the greatest logits, ``[N, size]`` int64, in no order.
    """

    totals: Tensor
    losses: Tensor
    best: Tensor

    def only(self, rows: Tensor) -> Self:
        return type(self)(self.totals[rows], self.losses[rows], self.best[rows])


def survey(logits: Tensor, targets: Tensor, size: int) -> Surveyed:
    """Of ``logits [N, V]`` fp32 and ``targets [N]`` in them.

    Raises:
        IndexError: a target that there is none of.
    """
    count, vocab = logits.shape
    if not 0 <= int(targets.min()) <= int(targets.max()) < vocab or not 0 < size <= vocab:
        raise IndexError(f"expected targets and a shortlist among {vocab} tokens, found others")
    logits, targets = logits.contiguous(), targets.contiguous()
    found = Surveyed(torch.empty(count), torch.empty(count), torch.empty(count, size, dtype=torch.int64))
    call = layout.Survey(
        logits=logits.data_ptr(),
        targets=targets.data_ptr(),
        totals=found.totals.data_ptr(),
        losses=found.losses.data_ptr(),
        best=found.best.data_ptr(),
        count=count,
        vocab=vocab,
        size=size,
    )
    library = load("tangent")
    team.run(library.hope_survey, call, library.hope_survey_phases(count))
    return found


def rest(
    logits: Tensor,
    rows: Sequence[Tensor],
    totals: Tensor,
    listed: Sequence[Tensor],
    embedding: Tensor,
) -> tuple[Tensor, Tensor]:
    """The chance of all tokens that a row's group has not listed, ``[n]``, and the mean of their embeddings
    by their chances, ``[n, D]``; group after group.

    Args:
        logits: ``[N, V]`` fp32.
        rows: which of them, by group.
        totals: ``[N]``, as :func:`survey` gives them.
        listed: token ids of each group, ascending.
        embedding: ``[V, D]`` bf16.
    """
    library, (_, vocab), width = load("tangent"), logits.shape, embedding.shape[1]
    counts, places = torch.tensor([len(own) for own in rows]), torch.cat(list(rows))
    count = len(places)
    assert logits.is_contiguous()
    assert embedding.is_contiguous()
    pointers = logits.data_ptr() + places * (4 * vocab)
    own = totals[places]
    lists = torch.tensor([ids.data_ptr() for ids in listed]).repeat_interleave(counts)
    lengths = torch.tensor([len(ids) for ids in listed]).repeat_interleave(counts)
    line = library.hope_rest_line(vocab)
    chances = torch.empty(-(-count // LANES) * LANES * line, dtype=torch.bfloat16)
    sums = torch.empty(library.hope_rest_sums(width))
    shares, means = torch.empty(count), torch.empty(count, width)
    call = layout.Rest(
        logits=pointers.data_ptr(),
        totals=own.data_ptr(),
        lists=lists.data_ptr(),
        lengths=lengths.data_ptr(),
        embedding=embedding.data_ptr(),
        shares=shares.data_ptr(),
        means=means.data_ptr(),
        chances=chances.data_ptr(),
        sums=sums.data_ptr(),
        count=count,
        vocab=vocab,
        width=width,
    )
    team.run(library.hope_rest, call, library.hope_survey_phases(count))
    return shares, means
