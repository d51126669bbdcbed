"""A GPU that is not there, with values: its tensors lie in the host's memory and say that they are on cuda:0.

``fake_gpu`` asks PyTorch's FakeTensorMode and has no values, so it ends where Python decides by one. Here all
of an engine's step can run, and what comes out can be compared. What a GPU refuses is refused, and more: an
operation takes tensors of one side only, a single number of the host's included; a copy alone crosses over.
In place of each fused kernel its reference runs on the same tensors.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode

from hope_kernels.dispatch import Dispatch
from hope_kernels.fake_gpu import GPU

HOST = torch.device("cpu")


class PretendTensor(Tensor):
    """Says that it is on the GPU; only within :func:`pretend_gpu` does an operation keep it there."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False


class PretendGPU(TorchFunctionMode):
    """What happened there.

    fused: operations whose fused kernels would have started, in order. reads: how often the host asked for
    values and so waited for the device. calls: operations, a fused one counts as one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fused: list[str] = []
        self.reads = 0
        self.calls = 0
        self.recording: list[Call] | None = None

    def read(self, function: Any) -> None:
        """The host waits; refused while a graph is captured, as CUDA does."""
        self.reads += 1
        if self.recording is not None:
            raise RuntimeError(f"{_name(function)}: operation not permitted when stream is capturing")

    def ran(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], made: Any
    ) -> None:
        """Note what ran there."""
        self.calls += 1
        if self.recording is not None:
            self.recording.append(Call(function, _plain(args), _plain(kwargs), made))

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function in MOVES:
            return self._move(function, args, kwargs)
        asked = kwargs.get("device")
        target = None if asked is None else torch.device(asked)
        if target is not None:
            kwargs["device"] = HOST
        there = _sides(function, (args, kwargs))
        if there and function in REFUSED:
            raise TypeError(f"{_name(function)}: expected a tensor of the host, found one on {GPU}")
        if there and function in READS:
            self.read(function)
        with torch._C.DisableTorchFunctionSubclass():
            found = function(*args, **kwargs)
        on_gpu = there if target is None else target.type == GPU.type
        if not on_gpu:
            return found
        if next(_tensors(found), None) is not None or function is Tensor.__setitem__:
            self.ran(function, args, kwargs, found)
        return _placed(found, args)

    def _move(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """A copy from one side to the other."""
        source, *rest = args
        if function is Tensor.copy_:
            sides = {type(tensor) is PretendTensor for tensor in (source, rest[0])}
            if len(sides) == 2 and (type(rest[0]) is PretendTensor or self.recording is not None):
                self.read(function)
            with torch._C.DisableTorchFunctionSubclass():
                function(*args, **kwargs)
            if type(source) is PretendTensor:
                self.ran(function, args, kwargs, None)
            return source
        named = [*rest, *kwargs.values()]
        device = next((torch.device(x) for x in named if isinstance(x, torch.device | str)), source.device)
        if function is not Tensor.to:
            device = GPU if function is Tensor.cuda else HOST
        was = type(source) is PretendTensor
        kind = next((x for x in named if isinstance(x, torch.dtype)), source.dtype)
        if was != (device.type == GPU.type) and (was or self.recording is not None):
            self.read(function)
        plain = source.as_subclass(Tensor) if was else source
        with torch._C.DisableTorchFunctionSubclass():
            copy = bool(kwargs.get("copy")) or device != source.device
            moved = plain.to(kind, copy=copy)
        if was and device.type == GPU.type and moved is not plain:
            self.ran(Tensor.to, (plain, kind), {"copy": copy}, moved)
        return on_pretend_gpu(moved) if device.type == GPU.type else moved


@dataclass(frozen=True)
class Call:
    """One that was recorded, with the memory that it read and made."""

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: dict[str, Any]
    made: Any

    def again(self) -> None:
        """Run it on what its tensors hold now; what it makes goes where it was made."""
        found = self.function(*self.args, **self.kwargs)
        held = {tensor.untyped_storage().data_ptr() for tensor in _tensors((self.args, self.kwargs))}
        for old, new in zip(_tensors(self.made), _tensors(found), strict=True):
            if old.untyped_storage().data_ptr() not in held:  # a view is of what has changed by itself
                old.copy_(new)


class PretendGraph:
    """Replays calls without the Python that made them: what it decided stays decided."""

    def __init__(self, calls: Sequence[Call], outputs: tuple[Tensor, ...], taken: int) -> None:
        self.calls, self.outputs, self.bytes = calls, outputs, taken
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        with torch._C.DisableTorchFunction():
            for call in self.calls:
                call.again()


class PretendGraphs:
    """Makes them. made: all so far. bytes_each: what each says that it takes."""

    def __init__(self, gpu: PretendGPU, bytes_each: int = 1000) -> None:
        self._gpu, self._bytes_each = gpu, bytes_each
        self.made: list[PretendGraph] = []

    def capture(self, launch: Callable[[], tuple[Tensor, ...]]) -> PretendGraph:
        calls: list[Call] = []
        self._gpu.recording = calls
        try:
            outputs = launch()
        finally:
            self._gpu.recording = None
        self.made.append(PretendGraph(calls, outputs, self._bytes_each))
        return self.made[-1]


def on_pretend_gpu(tensor: Tensor) -> Tensor:
    """``tensor`` there, in the same memory."""
    if type(tensor) is PretendTensor:
        return tensor
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(PretendTensor)


@contextmanager
def pretend_gpu() -> Iterator[PretendGPU]:
    """Within the block, and on this thread, what is made on ``cuda`` is a :class:`PretendTensor`."""
    plain = Dispatch.__call__
    gpu = PretendGPU()

    def call(op: Dispatch[..., Any], *args: Any, **kwargs: Any) -> Any:
        there = _sides(op, (args, kwargs))
        if there and op.serves(*args, **kwargs):
            gpu.fused.append(op.name)
            recording, gpu.recording = gpu.recording, None  # a launch is one, whatever its reference does
            try:
                found = op.reference(*args, **kwargs)
            finally:
                gpu.recording = recording
            gpu.ran(op.reference, args, kwargs, found)
            return found
        return plain(op, *args, **kwargs)

    with patch.object(Dispatch, "__call__", call), gpu:
        yield gpu


MOVES = frozenset({Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.copy_})
READS = frozenset(
    {Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__}
    | {Tensor.nonzero, torch.nonzero, Tensor.unique}
)
REFUSED: frozenset[Any] = frozenset((Tensor.numpy, Tensor.__array__))


def _sides(function: Any, values: Any) -> bool:
    """Whether the tensors among ``values`` are there; raises RuntimeError if some are and others are not."""
    tensors = list(_tensors(values))
    there = [type(tensor) is PretendTensor for tensor in tensors]
    if any(there) and not all(there):
        stray = tensors[there.index(False)]
        raise RuntimeError(
            f"{_name(function)}: expected all tensors on {GPU}, found {list(stray.shape)} on {stray.device}"
        )
    return any(there)


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _plain(values: Any) -> Any:
    """The same memory as tensors of the host, for what runs there again."""
    if isinstance(values, Tensor):
        with torch._C.DisableTorchFunctionSubclass():
            return values.as_subclass(Tensor)
    if isinstance(values, dict):
        return {name: _plain(value) for name, value in values.items()}
    if type(values) in (list, tuple):
        return type(values)(map(_plain, values))
    return values


def _placed(found: Any, args: Sequence[Any]) -> Any:
    """What an operation gave, on the GPU; what it was given stays the same object."""
    if isinstance(found, Parameter):
        return found
    if isinstance(found, Tensor):
        return found if any(found is arg for arg in args) else on_pretend_gpu(found)
    if type(found) in (list, tuple):
        return type(found)(_placed(part, args) for part in found)
    if isinstance(found, tuple):  # a named one of torch's
        return type(found)(tuple(_placed(part, args) for part in found))
    return found


def _name(function: Any) -> str:
    return str(getattr(function, "name", None) or getattr(function, "__name__", function))


__all__ = [
    "GPU",
    "PretendGPU",
    "PretendGraph",
    "PretendGraphs",
    "PretendTensor",
    "on_pretend_gpu",
    "pretend_gpu",
]
