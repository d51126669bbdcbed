"""How much each taught token has to pull (E27): logistic regression over margins, in its dual, in fp64."""

import torch
from torch import Tensor
from torch.nn import functional as F

from hope_kernels.cpu.solve import solve

NEWTON_STEPS = 40
HALVINGS = 12
CONVERGED = 1e-9


def solve_margins(gram: Tensor, margins: Tensor, weights: Tensor, *, compiled: bool = False) -> Tensor:
    """``c`` that minimises ``sum w log(1 + exp(-(z + K c))) + c' K c / 2``.

    At the minimum ``c = w (1 - p)``, with ``p`` the chances at margins ``z + K c``: a token pulls as much as
    it is still unknown, and one that its neighbours explain does not pull twice.

    Args:
        gram: ``K [n, n]``, what a unit of pull of one token does to another's margin.
        margins: ``z [n]`` where nothing has moved.
        weights: ``w [n]``.
        compiled: by the kernel.

    Returns:
        ``c [n]`` in fp32.
    """
    if compiled:
        return solve(
            gram, margins, weights, steps=NEWTON_STEPS, halvings=HALVINGS, converged=CONVERGED
        ).float()
    gram, margins, weights = gram.double(), margins.double(), weights.double()
    pull = torch.zeros_like(margins)
    identity = torch.eye(len(margins), dtype=gram.dtype, device=gram.device)
    best = _objective(gram, margins, weights, pull)
    for _ in range(NEWTON_STEPS):
        unknown = torch.sigmoid(-(margins + gram @ pull))
        curvature = weights * unknown * (1 - unknown)
        # Newton's step with K divided out: it is a factor of the gradient and of the Hessian.
        step = torch.linalg.solve_ex(identity + curvature[:, None] * gram, weights * unknown - pull).result
        before = best
        for halving in range(HALVINGS):
            tried = pull + step * 0.5**halving
            found = _objective(gram, margins, weights, tried)
            if bool(found <= best):
                pull, best = tried, found
                break
        if not bool(best < before - CONVERGED * before.abs()):
            break
    return pull.float()


def _objective(gram: Tensor, margins: Tensor, weights: Tensor, pull: Tensor) -> Tensor:
    moved = gram @ pull
    return (weights * F.softplus(-(margins + moved))).sum() + pull @ moved / 2
