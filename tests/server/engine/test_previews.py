"""Groups of one shape: a row's bits where products by themselves depend on the size of a batch."""

from __future__ import annotations

from dataclasses import replace

import torch

from hope_model.config import get_config
from hope_model.hope import Hope
from hope_server.engine.previews import GroupPreviews, RowPreviews, previews_of


def model(aggregation: str = "chain") -> Hope:
    torch.manual_seed(0)
    config = replace(get_config("hope-tiny"), layers=1, aggregation=aggregation)
    return Hope(config).requires_grad_(False).eval()


@torch.inference_mode()
def test_company_changes_no_bit_of_a_group() -> None:
    served = model()
    crowd, alone = GroupPreviews(served, 6, 4), GroupPreviews(served, 6, 4)
    for step in range(12):
        members = [slot for slot in range(6) if slot != step % 5]
        logits, counts = crowd.step(members, [100 * slot + step for slot in members], ())
        assert len(logits) == len(counts) == len(members)
        for slot, own, count in zip(members, logits, counts, strict=True):
            expected, (found,) = alone.step([slot], [100 * slot + step], ())
            assert torch.equal(own, expected[0])
            assert count == found == crowd.counts(slot)


def test_the_form_is_the_faster_one_that_the_model_has() -> None:
    assert isinstance(previews_of(model(), slots=2, group=4), RowPreviews)
    assert isinstance(previews_of(model(aggregation="concat"), slots=2, group=4), GroupPreviews)
