"""Groups of one shape: a row's bits where products by themselves depend on the size of a batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hope_model.config import get_config
from hope_model.hope import Hope
from hope_server.engine.previews import GroupPreviews, RowPreviews, previews_of
from hope_server.engine.runner import Output, Reading
from hope_server.engine.state_runner import StateRunner
from hope_server.engine.units import Unit


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


@pytest.mark.compiler
def test_last_tokens_of_blocks_share_the_step_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sessions reach a boundary, one reads on: one step, and of each what it has alone."""
    served, readings = model(), []
    runner, alone = (StateRunner(served, slots=3, decode_rows=4) for _ in range(2))
    size = runner.block_size
    for slot, length in enumerate((size - 1, size - 1, 5)):
        unit = Unit("run", tuple(100 * slot + place % 50 for place in range(length)))
        last = Unit("step" if slot == 2 else "block", (7 + slot,), learn=(slot != 1,))
        for own in (runner, alone):
            own.run(slot, unit)
        readings.append(Reading(slot, last))
    steps: list[list[int]] = []
    step = RowPreviews.step

    def counted(self: RowPreviews, slots: list[int], *rest: list[int]) -> object:
        steps.append(slots)
        return step(self, slots, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(RowPreviews, "step", counted)
    together = runner.launch(readings)
    assert steps == [[0, 1, 2]]
    for reading, found in zip(readings, together, strict=True):
        (expected,) = alone.launch([reading])
        assert isinstance(found, Output)
        assert isinstance(expected, Output)
        assert torch.equal(found.logits, expected.logits)
        assert (found.boundary, found.counts) == (expected.boundary, expected.counts)
        assert found.boundary == (None if reading.slot == 2 else size)
        left, right = runner.boundary(reading.slot), alone.boundary(reading.slot)
        assert [name for name, tensor in left.items() if not torch.equal(tensor, right[name])] == []
