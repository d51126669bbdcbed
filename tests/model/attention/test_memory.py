"""The constants of a site."""

from __future__ import annotations

import torch
from torch import Tensor

from hope_model.attention.memory import DAMPING, Geometry


def test_the_geometry_is_the_same_on_any_number_of_threads() -> None:
    """At a real width, where LAPACK would divide the work: a session may move to a machine of other cores."""
    make = torch.Generator().manual_seed(0)
    root = torch.randn(576, 600, generator=make)
    outputs, subspace = root @ root.T / 600, torch.randn(16, 40, generator=make)
    found: list[Tensor] = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        geometry = Geometry.of(subspace, torch.eye(16), outputs, torch.float32, torch.device("cpu"))
        found.append(geometry.outputs_inverse)
        assert torch.get_num_threads() == count
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    damped = outputs + DAMPING * outputs.diagonal().mean() * torch.eye(576)
    torch.testing.assert_close(found[0] @ damped, torch.eye(576), rtol=0, atol=1e-3)
