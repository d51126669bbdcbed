"""The processes of a run: one, or those that ``torchrun`` started, which share the weights out (FSDP2)."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Processes:
    """This process's place among ``count``, and what they must agree on."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def join(cls) -> "Processes":
        """Join the group that ``torchrun`` describes in the environment, if it does."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls(0, 1, training_device())
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(torch.distributed.get_rank(), count, training_device())

    def leave(self) -> None:
        if self.count > 1:
            torch.distributed.destroy_process_group()

    def shard(self, model: nn.Module) -> None:
        """Each of ``model.blocks``, then the rest (embedding, head, norm) as the root.

        FSDP2 does not take scalars: they stay whole, and :meth:`average_whole` sums their gradients up.
        """
        if self.count == 1:
            return
        mesh = init_device_mesh(self.device.type, (self.count,))
        whole = {parameter for parameter in model.parameters() if parameter.dim() == 0}
        blocks = model.blocks
        assert isinstance(blocks, nn.ModuleList)
        for block in blocks:
            fully_shard(block, mesh=mesh, ignored_params=whole)
        fully_shard(model, mesh=mesh, ignored_params=whole)

    def average_whole(self, model: nn.Module) -> None:
        """The mean over all processes of the gradients that :meth:`shard` left whole."""
        if self.count == 1:
            return
        for parameter in model.parameters():
            if parameter.grad is not None and not isinstance(parameter.grad, DTensor):
                parameter.grad.copy_(self.mean(parameter.grad))

    def mean(self, value: Tensor) -> Tensor:
        """The mean of every process's ``value``."""
        if self.count > 1:
            value = value.clone()
            torch.distributed.all_reduce(value)
        return value / self.count

    def any(self, flag: bool) -> bool:
        """Whether any process's ``flag`` is set."""
        return bool(self.mean(torch.tensor(float(flag), device=self.device)) > 0)

    def first(self, choice: str) -> str:
        """What process 0 chose."""
        choices = [choice]
        if self.count > 1:
            torch.distributed.broadcast_object_list(choices, device=self.device)
        return choices[0]


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale all gradients so that their joint norm is at most ``limit``; returns the norm before, ``[]``."""
    learned = [parameter for parameter in parameters if parameter.grad is not None]
    sharded: list[nn.Parameter] = [parameter for parameter in learned if isinstance(parameter, DTensor)]
    whole = [parameter for parameter in learned if not isinstance(parameter, DTensor)]
    norms = [_norm(part) for part in (sharded, whole) if part]
    total = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    for part in (sharded, whole):
        if part:
            nn.utils.clip_grads_with_norm_(part, limit, total)
    return total


def _norm(parameters: list[nn.Parameter]) -> Tensor:
    total = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return total.full_tensor() if isinstance(total, DTensor) else total


def training_device() -> torch.device:
    """This process's GPU, which becomes the current one, where there is any; else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device
