"""The guard of ``conftest.py`` itself."""

import torch


def test_memory_that_nobody_wrote_is_nan() -> None:
    like = torch.zeros(2, 3)
    for tensor in (torch.empty(4), torch.empty_like(like), like.new_empty(5), torch.empty(2).double()):
        assert bool(tensor.isnan().all())


def test_integers_that_nobody_wrote_are_out_of_any_range() -> None:
    assert torch.empty(3, dtype=torch.int64).tolist() == [2**63 - 1] * 3


def test_a_device_context_still_redirects_construction() -> None:
    with torch.device("meta"):
        assert torch.nn.Linear(2, 2).weight.is_meta
